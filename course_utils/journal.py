"""The cache of a sweep: a file of one JSON object a line, to which finished results are added.

A line is written at once and never changed, so whatever breaks off a measurement loses at most
the line that was being written.
"""

import json
import warnings
from dataclasses import asdict, is_dataclass
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
        self.path = cache_folder() / "sweeps" / f"{key}.jsonl"
        self.entries: list[dict[str, Any]] = []
        self._on_disk = True
        self._needs_header = True
        self._header = {"kind": "header", "machine": machine_id}
        self._read()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the entries of a kind, oldest first."""
        return [entry for entry in self.entries if entry["kind"] == kind]

    def add(self, kind: str, **fields: Any) -> None:
        """Keep a result. A dataclass among the fields is stored as its fields."""
        plain = {name: asdict(v) if is_dataclass(v) else v for name, v in fields.items()}  # type: ignore[arg-type]
        entry = {"kind": kind, **plain}
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
            try:
                entry = json.loads(line) if line.strip() else {"kind": "blank"}
                entries.append(entry if isinstance(entry["kind"], str) else {"kind": "blank"})
            except (ValueError, KeyError, TypeError):
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
        self.entries = [e for e in entries if e["kind"] not in ("header", "blank")]
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
        text = "".join(f"\n{json.dumps(line)}" for line in lines) + "\n"
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
