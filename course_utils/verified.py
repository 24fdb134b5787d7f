"""Read the files that the course ships, and refuse one that is missing or damaged."""

import hashlib
from functools import cache
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


class DamagedFileError(Exception):
    """A file of the course is missing, or its bytes are not the published ones."""


@cache
def published_digests() -> dict[str, str]:
    """Return the sha256 of every data file by its path below ``data/``."""
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def read(name: str) -> bytes:
    """Return the content of ``data/<name>``, checked against ``data/SHA256SUMS``.

    Raises:
        DamagedFileError: The file is missing, or one byte of it differs.
    """
    path = DATA / name
    cure = f"Restore it with:  git checkout -- data/{name}"
    if not path.exists():
        raise DamagedFileError(f"data/{name} is missing. {cure}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != published_digests()[name]:
        raise DamagedFileError(
            f"data/{name} is damaged: its sha256 is not the published one. {cure}"
        )
    return content
