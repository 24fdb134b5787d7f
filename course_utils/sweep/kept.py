"""What the journal of a sweep holds that is still true: found by the runtimes of today.

Versions of the libraries that every lesson needs are a part of the machine's id, and so of the key
of a cache. Those of an optional runtime stand beside what it found: installing one leaves the
sweeps without it as they are.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from course_utils.journal import Journal
from course_utils.machine import VERSIONED
from course_utils.runtimes.available import MODULES

OPTIONAL = {name: modules for name, modules in MODULES.items() if modules[0] not in VERSIONED}


def find_versions() -> dict[str, str]:
    """Return for each optional runtime the versions of its packages, in a line."""
    return {
        runtime: ", ".join(f"{module} {_find_version(module)}" for module in modules)
        for runtime, modules in OPTIONAL.items()
    }


def _find_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Kept:
    """The results of one sweep, without those of other versions of its optional runtimes."""

    def __init__(self, journal: Journal) -> None:
        """Look at a journal; what is added here is written there."""
        self._journal = journal
        self._here = find_versions()

    @property
    def points(self) -> dict[int, dict[str, Any]]:
        """What was counted, by the number of the setting."""
        return {
            entry["index"]: entry
            for entry in self._journal.entries_of("point")
            if _versions_of(entry) == self._versions_here([entry["runtime"]])
        }

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds that were timed, oldest first.

        All settings are timed in the same rounds, so one new version makes all of them old.
        """
        return self._timings("round")

    @property
    def timed(self) -> dict[str, Any] | None:
        """How the timing ended; None if it has not."""
        found = self._timings("timed")
        return found[-1] if found else None

    @property
    def seconds(self) -> float:
        """How long all this took."""
        return float(sum(entry["seconds"] for entry in [*self.points.values(), *self.rounds]))

    def add_point(self, index: int, facts: Mapping[str, Any], **more: Any) -> None:
        """Keep what was counted at a setting."""
        here = self._versions_here([facts["runtime"]])
        self._add("point", here, index=index, **more, **facts)

    def add_timing(self, kind: str, **fields: Any) -> None:
        """Keep a "round", or how they ended, "timed"; all points have to be there."""
        self._add(kind, self._versions_timed(), **fields)

    def _add(self, kind: str, versions: dict[str, str], **fields: Any) -> None:
        told = {"versions": versions} if versions else {}
        self._journal.add(kind, **told, **fields)

    def _timings(self, kind: str) -> list[dict[str, Any]]:
        here = self._versions_timed()
        return [entry for entry in self._journal.entries_of(kind) if _versions_of(entry) == here]

    def _versions_timed(self) -> dict[str, str]:
        return self._versions_here(entry["runtime"] for entry in self.points.values())

    def _versions_here(self, runtimes: Iterable[str]) -> dict[str, str]:
        return {name: self._here[name] for name in runtimes if name in self._here}


def _versions_of(entry: Mapping[str, Any]) -> Any:
    return entry.get("versions", {})
