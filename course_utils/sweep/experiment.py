"""What is measured at each setting of some knobs, and what comes of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from course_utils.measure import Measurement, Provenance
from course_utils.runtimes.runner import Runner

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """What was measured or computed at one setting of the knobs.

    Attributes:
        setting: The value of each knob.
        metrics: Measurements by name; ``point.latency`` is ``point.metrics["latency"]``.
        runtime: Who ran it; empty where nothing ran.
        kernel: Which arithmetic ran; likewise.
        remark: What a reader should know about the kernel; may be empty.
        samples: Single values that a lesson may draw, e.g. of each request its latency.
    """

    setting: dict[str, Any]
    metrics: dict[str, Measurement]
    runtime: str = ""
    kernel: str = ""
    remark: str = ""
    samples: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def __getattr__(self, name: str) -> Measurement:
        """Return a metric by its name."""
        metrics = self.__dict__.get("metrics", {})
        if name not in metrics:
            raise AttributeError(f"There is no metric {name!r} here; there are {list(metrics)}.")
        metric: Measurement = metrics[name]
        return metric


@dataclass(frozen=True)
class Finding:
    """What an experiment found at a setting, before it is turned into metrics.

    Attributes:
        facts: Plain values, as ``Experiment.count`` returned them.
        times_ms: (rounds, calls in a turn); empty if nothing was timed.
        measured: Where and when.
    """

    facts: Mapping[str, Any]
    times_ms: np.ndarray
    measured: Provenance


class Experiment(ABC):
    """What is measured at each setting.

    Attributes:
        counting: What ``count`` does, for the progress bar.
        titles: Names of metrics on a panel, where they are not the metric's own.
        is_compared: Whether the metrics of a setting depend on those of its baseline.
        is_measured: Whether its numbers are measured; computed ones are not measured again.
    """

    counting: ClassVar[str] = "counting"
    titles: ClassVar[Mapping[str, str]] = {}
    is_compared: ClassVar[bool] = True
    is_measured: ClassVar[bool] = True

    @property
    @abstractmethod
    def about(self) -> str:
        """What a reader should know of all the numbers, e.g. on how many images they rest."""

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """All that the results depend on, but for the knobs, the machine and its versions."""

    @property
    def counted(self) -> str:
        """What an accuracy is counted on, in words."""
        return "images"

    def forget(self) -> None:  # noqa: B027 - most experiments remember nothing
        """Let go of what was found at one setting and would serve at another."""

    @abstractmethod
    def prepare(self, setting: Setting) -> Runner:
        """Return what runs at a setting."""

    @abstractmethod
    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Return what is found without timing runners in turns, as plain values."""

    def batch_of(self, setting: Setting) -> np.ndarray | None:
        """Return the images of a call that is timed; None: nothing is."""
        return None

    def baseline_of(self, setting: Setting, against: Setting) -> dict[str, Any]:
        """Return the setting that one is compared with; ``against`` is that of the sweep."""
        return dict(against)

    @abstractmethod
    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return the metrics of a finding, by name."""

    def samples(self, found: Finding) -> np.ndarray:
        """Return single values that a lesson may draw."""
        return np.empty(0)

    def facts_at(self, setting: Setting, runner: Runner | None = None) -> dict[str, Any]:
        """Return what ``count`` finds, and what ran."""
        runner = runner or self.prepare(setting)
        ran = {name: getattr(runner, name) for name in ("runtime", "kernel", "remark")}
        return {**self.count(runner, setting), **ran}

    def point(self, setting: Setting, found: Finding, baseline: Finding) -> Point:
        """Return the point of a finding."""
        ran = {name: found.facts[name] for name in ("runtime", "kernel", "remark")}
        metrics = self.measurements(found, baseline)
        return Point(dict(setting), metrics, **ran, samples=self.samples(found))
