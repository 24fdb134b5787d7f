"""Update a model on a device: versions, digests, one atomic switch, and the way back.

A folder holds each version as a file, ``manifest.json`` with the digest of each, and ``current``,
a small file that names the version that runs. A new version is written beside the old one, checked
and tried; only then ``current`` is replaced. ``os.replace`` does that at once: whoever reads, and
whenever the power fails, it is the old file or the new one.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from course_utils import runtimes
from course_utils.tables import Table

MANIFEST, CURRENT, LOCK = "manifest.json", "current", "lock"
MODEL, UNFINISHED = ".onnx", ".part"
PATIENCE_S = 10.0
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
SHOWN_DIGITS = 12

Check = Callable[[bytes], bool]


class UpdateRefusedError(ValueError):
    """A version was not installed; what ran before runs on."""


class DamagedModelError(RuntimeError):
    """The folder holds a file that is not what was installed."""


@dataclass(frozen=True)
class Deployed:
    """A version as it was read, its digest checked.

    Attributes:
        version: Its name.
        content: Of its file.
    """

    version: str
    content: bytes


class ModelFolder:
    """The versions of a model on a device."""

    def __init__(self, folder: Path, check: Check) -> None:
        """Use a folder, and make it if it is not there.

        Args:
            folder: Of this model alone.
            check: Takes the content of a file, tries it on inputs whose answers are known, and
                returns whether it works; an exception is a no. See ``expect_answers``.
        """
        self.folder, self._check = Path(folder), check
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def versions(self) -> list[str]:
        """All that are installed, the oldest first."""
        return list(self._manifest())

    @property
    def current(self) -> str | None:
        """The version that runs; None before the first is installed."""
        return next(reversed(self._history()), None)

    def read(self) -> Deployed:
        """Return the version that runs.

        Raises:
            LookupError: None is installed.
            DamagedModelError: Its file is missing or damaged.
        """
        while (version := self.current) is not None:
            try:
                return Deployed(version, self._read_model(version))
            except DamagedModelError:
                if version == self.current:  # else it was replaced and forgotten meanwhile
                    raise
        raise LookupError(f"No version is installed in {self.folder}; install one first.")

    def install(self, version: str, content: bytes, sha256: str) -> None:
        """Check a downloaded file, try it, and let it be what runs.

        Args:
            version: Its name.
            content: Of the file, as it came.
            sha256: Of the file, as its maker published it.

        Raises:
            UpdateRefusedError: It is not the file that its maker published, it does not work, or
                the version is there already with another content. What ran before runs on.
        """
        with self._lock():
            self._refuse_names(version, sha256)
            self._clear()
            unfinished = self.folder / f"{version}{UNFINISHED}"
            try:
                _write(unfinished, content)
                why = self._why_unfit(unfinished.read_bytes(), sha256)  # what the disk has
            except OSError as error:
                why = f"it cannot be written ({error}). Is the disk full? See forget()."
            if why:
                unfinished.unlink(missing_ok=True)
                runs = f"Nothing has changed: {self.current or 'nothing'} runs."
                raise UpdateRefusedError(f"{version} is not installed: {why} {runs}")
            os.replace(unfinished, self._file(version))
            _flush_folder(self.folder)
            about = {"sha256": sha256, "bytes": len(content)}
            self._replace_json(MANIFEST, self._manifest() | {version: about})
            earlier = [other for other in self._history() if other != version]
            self._replace_json(CURRENT, [*earlier, version])

    def rollback(self) -> str:
        """Let the version before run again, or the one before that, if its file is damaged.

        Returns:
            The version that runs now.

        Raises:
            LookupError: There is none before whose file is whole.
        """
        with self._lock():
            history = self._history()
            for place in range(len(history) - 1, 0, -1):
                with contextlib.suppress(DamagedModelError):
                    self._read_model(history[place - 1])
                    self._replace_json(CURRENT, history[:place])
                    return history[place - 1]
        raise LookupError(f"There is no whole version before {self.current} to go back to.")

    def forget(self, version: str) -> None:
        """Delete a version that does not run, when flash gets scarce.

        Raises:
            ValueError: It is the one that runs, or there is none of this name.
        """
        with self._lock():
            manifest, history = self._manifest(), self._history()
            if version not in manifest or version == self.current:
                raise ValueError(f"{version!r} is not one of those that do not run:\n{self}")
            if version in history:
                self._replace_json(CURRENT, [other for other in history if other != version])
            del manifest[version]
            self._replace_json(MANIFEST, manifest)
            self._clear()

    def table(self) -> Table:
        """Return the versions as a table."""
        rows = []
        for version, about in self._manifest().items():
            try:
                self._read_model(version)
                state = "runs" if version == self.current else "whole"
            except DamagedModelError:
                state = "damaged"
            rows.append([version, f"{about['bytes']:,}", about["sha256"][:SHOWN_DIGITS], state])
        return Table(["version", "bytes", "sha256", "state"], rows)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def _refuse_names(self, version: str, sha256: str) -> None:
        if not NAME.fullmatch(version):
            raise UpdateRefusedError(
                f"{version!r} is no name of a version: letters, digits, dots and hyphens, please."
            )
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UpdateRefusedError(f"{sha256!r} is no sha256: that is 64 digits from 0 to f.")
        known = self._manifest().get(version)
        if known and known["sha256"] != sha256:
            raise UpdateRefusedError(
                f"{version} is installed already, with another content. Give the new one another"
                " name: a version never changes."
            )

    def _why_unfit(self, content: bytes, sha256: str) -> str:
        """Say why a file must not run; nothing if it may."""
        found = digest_of(content)
        if found != sha256:
            return (
                f"the {len(content):,} bytes that came have a sha256 that begins with"
                f" {found[:SHOWN_DIGITS]}, not with {sha256[:SHOWN_DIGITS]}; they are damaged or"
                " not complete. Download it again."
            )
        try:
            works = self._check(content)
        except Exception as error:  # whatever a foreign file makes a runtime raise
            return f"it cannot be tried ({type(error).__name__}: {error!s:.200})."
        return "" if works else "it is what its maker published, but does not pass the check."

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process change the folder at a time; the system frees the lock of a dead one."""
        try:
            with FileLock(self.folder / LOCK, timeout=PATIENCE_S):
                yield
        except Timeout:
            raise UpdateRefusedError(
                f"Another update of {self.folder} has been under way for {PATIENCE_S:g} s; try"
                " again later."
            ) from None

    def _clear(self) -> None:
        """Remove what an update left that the power cut short, and what is forgotten."""
        kept = {self._file(version) for version in self._manifest()}
        for file in [*self.folder.glob(f"*{UNFINISHED}"), *self.folder.glob(f"*{MODEL}")]:
            if file not in kept:
                file.unlink()

    def _file(self, version: str) -> Path:
        return self.folder / f"{version}{MODEL}"

    def _read_model(self, version: str) -> bytes:
        about = self._manifest().get(version)
        file = self._file(version)
        cure = "Go back with rollback(), then install it again."
        if about is None or not file.exists():
            raise DamagedModelError(f"{file} is missing. {cure}")
        content = file.read_bytes()
        if digest_of(content) != about["sha256"]:
            raise DamagedModelError(f"{file} is not what was installed as {version}. {cure}")
        return content

    def _manifest(self) -> dict[str, dict[str, Any]]:
        return dict(self._read_json(MANIFEST, {}))

    def _history(self) -> list[str]:
        """Return what ran, the oldest first; the last runs now."""
        return list(self._read_json(CURRENT, []))

    def _read_json(self, name: str, default: Any) -> Any:
        try:
            value = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return default
        except ValueError:
            value = None
        if not isinstance(value, type(default)):
            raise DamagedModelError(
                f"{self.folder / name} is damaged. Empty the folder and install again."
            )
        return value

    def _replace_json(self, name: str, value: Any) -> None:
        unfinished = self.folder / f"{name}{UNFINISHED}"
        _write(unfinished, json.dumps(value).encode())
        os.replace(unfinished, self.folder / name)
        _flush_folder(self.folder)


def expect_answers(images: np.ndarray, labels: np.ndarray, *, at_least: float) -> Check:
    """Return a check of ONNX files: enough of these images get the right class.

    Args:
        images: A few (n, ...), float32.
        labels: Their classes (n,).
        at_least: The share that has to be right, 0 to 1.
    """

    def check(content: bytes) -> bool:
        logits = runtimes.load(content)(images)
        return bool(np.mean(logits.argmax(axis=1) == labels) >= at_least)

    return check


def digest_of(content: bytes) -> str:
    """Return the sha256 that the maker of a file publishes with it."""
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file, and wait until the disk has it: else a name may outlive what it names."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open a folder, and needs not
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
