"""ONNX Runtime for a browser: where its files lie, and which bytes they must have.

It is installed at set-up, by ``python -m course_utils.fetch onnxruntime-web``: a module of
JavaScript and the smallest of its WebAssembly builds, which runs fp32 and int8 on the processor.
A page gets both from Python and asks no server for them.
"""

import gzip
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import platformdirs

from course_utils import folders

NAME = "onnxruntime-web"
VERSION = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
MEMBERS = {file: f"package/dist/{file}" for file in (SCRIPT, WASM)}  # in the package of npm
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
COMMAND = f"python -m course_utils.fetch {NAME}"


class WebRuntime(NamedTuple):
    """What a page needs to run ONNX files: the module's text, and the WebAssembly gzipped."""

    script: bytes
    packed_wasm: bytes


class NotInstalledError(FileNotFoundError):
    """ONNX Runtime for the browser is not on this machine, or its bytes are not the published."""


def folder() -> Path:
    """Return where the files lie: in the user data folder, since they are no measurement.

    ``INFERENCE_MEASURED_CACHE`` and ``INFERENCE_MEASURED_DATA`` don't move them, so that a course
    with empty folders of its own still finds what was installed;
    ``INFERENCE_MEASURED_INSTALLED`` does.
    """
    chosen = os.environ.get("INFERENCE_MEASURED_INSTALLED")
    return Path(chosen or Path(platformdirs.user_data_dir(folders.NAME)) / "installed") / NAME


def load() -> WebRuntime:
    """Return the files, checked.

    Raises:
        NotInstalledError: One is missing or damaged; the message says what to do.
    """
    return WebRuntime(gzip.decompress(read_packed(SCRIPT)), read_packed(WASM))


def why_missing() -> str:
    """Return why a page cannot run models, and what to do; nothing if it can."""
    try:
        load()
    except NotInstalledError as error:
        return str(error)
    return ""


def read_packed(file: str) -> bytes:
    """Return a file as it is stored, gzipped.

    Raises:
        NotInstalledError: It is missing or damaged; the message says what to do.
    """
    path = folder() / f"{file}.gz"
    try:
        packed = path.read_bytes()
    except OSError:
        raise NotInstalledError(_cure("is not on this machine")) from None
    if not is_published(file, packed):
        raise NotInstalledError(_cure(f"is damaged ({path.name})"))
    return packed


def is_published(file: str, packed: bytes) -> bool:
    """Return whether the gzipped bytes are those of the file that was published."""
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, ValueError):  # no gzip, cut off, or broken inside
        return False
    return hashlib.sha256(content).hexdigest() == SHA256[file]


def _cure(what: str) -> str:
    return (
        f"ONNX Runtime for the browser {what}. Install it with:  {COMMAND}  (once, 33 MB; it needs"
        " npm, which comes with Node.js, and a network). Then run this cell again. Everything else"
        " works without it."
    )
