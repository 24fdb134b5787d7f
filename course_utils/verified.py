"""Read the files that the course ships, and refuse one that is missing or damaged."""

import hashlib
import lzma
from functools import cache
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


class DamagedFileError(Exception):
    """A file of the course is missing, or its bytes are not the published ones."""


@cache
def published_digests() -> dict[str, str]:
    """Return the sha256 of every data file by its path below ``data/``.

    Raises:
        DamagedFileError: The list itself is missing.
    """
    sums = DATA / "SHA256SUMS"
    if not sums.exists():
        raise DamagedFileError(f"data/SHA256SUMS is missing. {_cure('SHA256SUMS')}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def read(name: str) -> bytes:
    """Return the content of ``data/<name>``, checked against ``data/SHA256SUMS``.

    What shrinks much is stored as ``data/<name>.xz``: then this is checked, and decompressed.

    Raises:
        DamagedFileError: The file is missing, not listed, or one byte of it differs.
    """
    packed = f"{name}.xz"
    if packed in published_digests():
        return lzma.decompress(_read_stored(packed))
    return _read_stored(name)


def _read_stored(name: str) -> bytes:
    path = DATA / name
    if not path.exists():
        raise DamagedFileError(f"data/{name} is missing. {_cure(name)}")
    if name not in published_digests():
        raise DamagedFileError(f"data/{name} is not listed in data/SHA256SUMS; add it there.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != published_digests()[name]:
        raise DamagedFileError(
            f"data/{name} is damaged: its sha256 is not the published one. {_cure(name)}"
        )
    return content


def _cure(name: str) -> str:
    return f"Restore it with:  git checkout -- data/{name}"
