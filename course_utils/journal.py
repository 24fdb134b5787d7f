"""The cache of a sweep: a file to which finished results are added, one a line.

A line is a checksum and a JSON object. It is written at once and never changed, so whatever
breaks off a measurement loses at most the line that was being written.
"""

import json
import warnings
import zlib
from typing import Any

from course_utils.folders import cache_folder


class Journal:
    """The results of one sweep on one machine; kept in memory too, if the disk refuses them."""

    def __init__(self, key: str, machine_id: str) -> None:
        """Open the journal of a sweep, and read what is there.

        A damaged line is left out with a warning; a file that another machine wrote is not used.

        Args:
            key: Names the file; a digest of all that the results depend on.
            machine_id: Of this machine.
        """
        self.path = cache_folder() / "sweeps" / f"{key}.journal"
        self.entries: list[dict[str, Any]] = []
        self._on_disk = True
        self._needs_header = True
        self._header = {"kind": "header", "machine": machine_id}
        self._read()

    def entries_of(self, kind: str) -> list[dict[str, Any]]:
        """Return the entries of a kind, oldest first."""
        return [entry for entry in self.entries if entry["kind"] == kind]

    def add(self, kind: str, **fields: Any) -> None:
        """Keep a result; its fields are plain values that JSON can hold."""
        entry = {"kind": kind, **fields}
        self.entries.append(entry)
        if self._on_disk:
            self._write(entry)

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            self._give_up(error)
            return
        damaged = 0
        entries = []
        for line in text.splitlines():
            checksum, _, entry = line.partition(" ")
            if checksum == _checksum(entry):
                entries.append(json.loads(entry))
            elif line:
                damaged += 1
        if self._header not in entries[:1]:
            warnings.warn(
                f"The cache {self.path.name} is damaged or was written on another machine; it is"
                " put aside and everything is measured anew here.",
                stacklevel=4,
            )
            self._put_aside()
            return
        self._needs_header = False
        self.entries = [entry for entry in entries if entry["kind"] != "header"]
        if damaged:
            warnings.warn(
                f"The cache {self.path.name} has {damaged} damaged lines; what they held is"
                " measured again.",
                stacklevel=4,
            )

    def _put_aside(self) -> None:
        try:
            self.path.replace(self.path.with_suffix(".damaged"))
        except OSError as error:
            self._give_up(error)

    def _write(self, entry: dict[str, Any]) -> None:
        lines = [self._header, entry] if self._needs_header else [entry]
        # a line that broke off earlier must not swallow this one: hence the leading newline
        plain = [json.dumps(line) for line in lines]
        text = "".join(f"\n{_checksum(line)} {line}" for line in plain) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text.lstrip("\n") if self._needs_header else text)
            self._needs_header = False
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._on_disk = False
        warnings.warn(
            f"Measurements cannot be kept in {self.path.parent} ({error.strerror}). They are used"
            " now, and made again next time. To keep them, make room there, or set"
            " INFERENCE_MEASURED_CACHE to a folder that can be written to.",
            stacklevel=5,
        )


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
