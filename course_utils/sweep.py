"""Turn a knob over its values and measure each: accuracy, latency and size, kept on disk."""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from course_utils import fingerprint, machine
from course_utils.datasets import Split
from course_utils.journal import Journal
from course_utils.measure import (
    ROUNDS,
    Measurement,
    Provenance,
    compare_accuracy,
    compare_speed,
    find_right,
    measure_latency,
    measured_now,
    summarize_accuracy,
    summarize_latency,
    time_rounds,
)
from course_utils.runtimes.runner import Runner

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """What was measured at one setting of the knobs.

    Attributes:
        setting: The value of each knob.
        accuracy: In percent.
        gain: Points of accuracy more than the baseline has on the same images.
        latency: Of one image, in milliseconds.
        speed: How many times as fast as the baseline.
        size: Bytes of the file that would ship.
        runtime: Who ran it.
        kernel: Which arithmetic ran.
        remark: What a reader should know about the kernel; may be empty.
    """

    setting: dict[str, Any]
    accuracy: Measurement
    gain: Measurement
    latency: Measurement
    speed: Measurement
    size: Measurement
    runtime: str
    kernel: str
    remark: str


@dataclass(frozen=True)
class Sweep:
    """The measured points of all combinations of the knobs' values.

    Attributes:
        knobs: The values of each knob; the last knob varies fastest over the points.
        points: One for each combination.
        against: The setting that the others are compared with.
        at: What built the runners: ``at(**setting) -> Runner``.
        on: The images that the accuracy was counted on.
        batch: How many of them a call got.
    """

    knobs: dict[str, list[Any]]
    points: list[Point]
    against: dict[str, Any]
    at: Callable[..., Runner]
    on: Split
    batch: int = 10

    def point(self, **setting: Any) -> Point:
        """Return the point of a setting.

        Raises:
            ValueError: The sweep has no such setting.
        """
        for point in self.points:
            if point.setting == setting:
                return point
        raise ValueError(f"{setting} was not measured; the knobs are {self.knobs}.")

    @property
    def baseline(self) -> Point:
        """The point that the others are compared with."""
        return self.point(**self.against)

    def measure_again(self, **setting: Any) -> Point:
        """Return a point measured afresh, in turns with the baseline."""
        self.point(**setting)  # so that a setting that does not exist is named
        runners = [self.at(**setting), self.at(**self.against)]
        facts, baseline = (_facts(runner, self.on, self.batch) for runner in runners)
        times_ms = measure_latency(runners, self.on.images[:1])
        return _point(setting, facts, baseline, times_ms[0], times_ms[1], measured_now())


def measure(
    at: Callable[..., Runner],
    *,
    over: Mapping[str, Sequence[Any]],
    on: Split,
    against: Setting,
    executor: Executor | None = None,
    rounds: int = ROUNDS,
    batch: int = 10,
) -> Sweep:
    """Measure a runner at every combination of the knobs' values.

    First every point's accuracy, then all latencies in turns, on batches of one image. Each
    result is written to the cache as soon as it is there: a sweep that was broken off goes on
    where it stopped, and one that was finished is read back. The cache belongs to this machine,
    these versions, this code and these weights; when one of them changes, it is measured anew.

    Args:
        at: Takes one value for each knob, by name, and returns the runner to measure.
        over: Values of each knob.
        on: Labelled images; the accuracy is counted on all of them.
        against: The setting that the others are compared with; one of those in ``over``.
        executor: Where to build and count accuracies, e.g. a cluster's; None: here, one by one.
        rounds: Turns that each runner gets; see ``measure.time_rounds``.
        batch: Images a call while the accuracy is counted; see ``measure.find_right``.

    Raises:
        ValueError: A knob has no values, or ``against`` is not among the settings.
    """
    knobs = {name: list(values) for name, values in over.items()}
    settings = [dict(zip(knobs, row, strict=True)) for row in itertools.product(*knobs.values())]
    if dict(against) not in settings:
        raise ValueError(f"against={dict(against)} is none of the settings of {knobs}.")
    here = machine.describe()
    journal = Journal(fingerprint.of(at, knobs, on, rounds, batch, here.id), here.id)
    try:
        is_new = _measure_missing(at, settings, on, executor, rounds, batch, journal)
    except KeyboardInterrupt:
        kept = len(journal.entries_of("point"))
        print(f"Interrupted. {kept} of {len(settings)} points are kept; run it again to go on.")
        raise
    points = _points(journal, settings, dict(against))
    seconds = sum(entry["seconds"] for entry in journal.entries)
    when = points[0].latency.provenance.when
    print(
        f"{len(points)} setting{'s' * (len(points) > 1)}, {len(on):,} images each: measured on this"
        f" machine {'just now' if is_new else 'on ' + when}, in {seconds:.0f} s."
    )
    return Sweep(knobs, points, dict(against), at, on, batch)


def _measure_missing(
    at: Callable[..., Runner],
    settings: list[dict[str, Any]],
    on: Split,
    executor: Executor | None,
    rounds: int,
    batch: int,
    journal: Journal,
) -> bool:
    """Measure what the journal lacks; return whether it lacked anything."""
    done = {entry["index"] for entry in journal.entries_of("point")}
    missing = [index for index in range(len(settings)) if index not in done]
    rounds_missing = rounds - len(journal.entries_of("round"))
    runners: dict[int, Runner] = {}
    remote = {}
    if executor:
        remote = {i: executor.submit(_facts_at, at, settings[i], on, batch) for i in missing}
    for index in _show(missing, desc="accuracy", unit="setting"):
        start = time.perf_counter()
        if index in remote:
            facts = remote[index].result()
        else:
            runners[index] = at(**settings[index])
            facts = _facts(runners[index], on, batch)
        journal.add("point", index=index, seconds=time.perf_counter() - start, **facts)

    if rounds_missing > 0:
        for index in _show(range(len(settings)), desc="preparing", unit="setting"):
            if index not in runners:
                runners[index] = at(**settings[index])
        in_order = [runners[index] for index in range(len(settings))]
        turns = time_rounds(in_order, on.images[:1], rounds_missing)
        for _ in _show(range(rounds_missing), desc="latency", unit="round"):
            start = time.perf_counter()
            times_ms = next(turns).tolist()
            when = str(measured_now().when)
            seconds = time.perf_counter() - start
            journal.add("round", seconds=seconds, when=when, times_ms=times_ms)
    return bool(missing) or rounds_missing > 0


def _show(items: Iterable[Any], desc: str, unit: str) -> Iterable[Any]:
    """Show a progress bar that disappears when it is done."""
    bar: Iterable[Any] = tqdm(items, desc=desc, unit=unit, leave=False, file=sys.stdout)
    return bar


def _facts(runner: Runner, on: Split, batch: int) -> dict[str, Any]:
    right = find_right(runner, on, batch)
    return {
        "right": np.packbits(right).tobytes().hex(),
        "images": len(right),
        "size_bytes": runner.size_bytes,
        "runtime": runner.runtime,
        "kernel": runner.kernel,
        "remark": runner.remark,
    }


def _facts_at(at: Callable[..., Runner], setting: Setting, on: Split, batch: int) -> dict[str, Any]:
    return _facts(at(**setting), on, batch)


def _points(
    journal: Journal, settings: list[dict[str, Any]], against: dict[str, Any]
) -> list[Point]:
    rounds = journal.entries_of("round")
    times_ms = np.stack([turn["times_ms"] for turn in rounds], axis=1)
    measured = Provenance("measured", str(machine.describe()), rounds[-1]["when"])
    facts = {entry["index"]: entry for entry in journal.entries_of("point")}
    base = settings.index(against)
    return [
        _point(setting, facts[index], facts[base], times_ms[index], times_ms[base], measured)
        for index, setting in enumerate(settings)
    ]


def _point(
    setting: dict[str, Any],
    facts: Setting,
    baseline: Setting,
    times_ms: np.ndarray,
    baseline_ms: np.ndarray,
    measured: Provenance,
) -> Point:
    right, baseline_right = (
        np.unpackbits(np.frombuffer(bytes.fromhex(one["right"]), np.uint8), count=one["images"])
        for one in (facts, baseline)
    )
    size = float(facts["size_bytes"])
    return Point(
        dict(setting),
        accuracy=replace(summarize_accuracy(right), provenance=measured),
        gain=replace(compare_accuracy(right, baseline_right), provenance=measured),
        latency=replace(summarize_latency(times_ms), provenance=measured),
        speed=replace(compare_speed(times_ms, baseline_ms), provenance=measured),
        size=Measurement(size, "bytes", size, size, 1, measured),
        runtime=facts["runtime"],
        kernel=facts["kernel"],
        remark=facts["remark"],
    )
