"""Turn knobs over their values and measure at each setting; every result is kept on disk."""

import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from course_utils import fingerprint, machine, quick
from course_utils.journal import Journal
from course_utils.measure import Provenance, compare, measured_now
from course_utils.measure.turns import stack_rounds
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Point, Setting
from course_utils.sweep.kept import Kept

LIMIT_S, AGAIN_LIMIT_S = 10.0, 3.0  # for timing all settings; for timing one of them again


@dataclass(frozen=True)
class Sweep:
    """The points of all combinations of the knobs' values, measured or computed.

    Attributes:
        knobs: The values of each knob; the last knob varies fastest over the points.
        points: One for each combination.
        against: The setting that the others are compared with.
        experiment: What was measured or computed.
    """

    knobs: dict[str, list[Any]]
    points: list[Point]
    against: dict[str, Any]
    experiment: Experiment

    def point(self, **setting: Any) -> Point:
        """Return the point of a setting.

        Raises:
            ValueError: The sweep has no such setting.
        """
        for point in self.points:
            if point.setting == setting:
                return point
        done = "measured" if self.experiment.is_measured else "computed"
        raise ValueError(f"{setting} was not {done}; the knobs are {self.knobs}.")

    @property
    def baseline(self) -> Point:
        """The point that the others are compared with."""
        return self.point(**self.against)

    @property
    def provenance(self) -> Provenance:
        """Where its numbers are from, and when they were measured."""
        return next(iter(self.points[0].metrics.values())).provenance

    def measure_again(self, **setting: Any) -> Point:
        """Return a point measured afresh, in turns with the baseline.

        Raises:
            ValueError: There is no such setting, or its numbers were not measured here.
        """
        point = self.point(**setting)  # so that a setting that does not exist is named
        kinds = {found.provenance.kind for found in point.metrics.values()}
        if "measured" not in kinds:
            raise ValueError(f"This point is {' and '.join(sorted(kinds))}, not measured here.")
        experiment = self.experiment
        experiment.forget()
        settings = [experiment.baseline_of(setting, self.against), setting]
        if not experiment.is_compared:
            settings = [setting]
        runners = [experiment.prepare(one) for one in settings]
        facts = [
            experiment.facts_at(one, runner) for one, runner in zip(settings, runners, strict=True)
        ]
        batches = [experiment.batch_of(one) for one in settings]
        found = [Finding(one, np.empty((0, 0)), measured_now()) for one in facts]
        if not any(batch is None for batch in batches):
            timed = compare(*runners, images=_all_of(batches), limit_s=AGAIN_LIMIT_S)
            found = [
                Finding(one, times_ms, timed.provenance)
                for one, times_ms in zip(facts, timed.times_ms, strict=True)
            ]
        return experiment.point(setting, found[-1], found[0])


def run(
    experiment: Experiment,
    over: Mapping[str, Sequence[Any]],
    against: Setting,
    *,
    executor: Executor | None = None,
    rounds: int | None = None,
) -> Sweep:
    """Measure at every combination of the knobs' values.

    First what is counted at each setting, then all times in turns. Each result is written to the
    cache as soon as it is there: a sweep that was broken off goes on where it stopped, and one
    that was finished is read back. The cache belongs to this machine, these versions, this code
    and these weights; when one of them changes, it is measured anew. When another version of an
    optional runtime is installed, what it ran is counted again, and all times are taken anew,
    since they are compared in turns.

    Args:
        experiment: What to measure.
        over: Values of each knob.
        against: The setting that the others are compared with; one of those in ``over``.
        executor: Where to prepare and count, e.g. a cluster's; None: here, one by one.
        rounds: Turns that each runner gets; None: until the speeds are known to ±5 %, or for 10 s.

    Raises:
        ValueError: A knob has no values, or ``against`` is not among the settings.
    """
    knobs = {name: list(values) for name, values in over.items()}
    settings = [dict(zip(knobs, row, strict=True)) for row in itertools.product(*knobs.values())]
    if any(len(values) > len(set(values)) for values in knobs.values()):
        raise ValueError(f"A value of a knob stands there twice: {knobs}.")
    if dict(against) not in settings:
        raise ValueError(f"against={dict(against)} is none of the settings of {knobs}.")
    here = machine.describe()
    asked = (*experiment.key, type(experiment), knobs, dict(against), rounds, here.id)
    key = fingerprint.of(*asked, *(["quick"] if quick.is_asked_for() else []))
    kept = Kept(Journal(key, here.id))
    try:
        is_new = _measure_missing(experiment, settings, against, executor, rounds, kept)
    except KeyboardInterrupt:
        done = len(kept.points)
        print(f"Interrupted. {done} of {len(settings)} points are kept; run it again to go on.")
        raise
    points = _points(experiment, kept, settings, dict(against))
    _report(experiment, kept, len(points), is_new)
    return Sweep(knobs, points, dict(against), experiment)


def _measure_missing(
    experiment: Experiment,
    settings: list[dict[str, Any]],
    against: Setting,
    executor: Executor | None,
    rounds: int | None,
    kept: Kept,
) -> bool:
    """Measure what is not kept; return whether anything was not."""
    done = set(kept.points)
    missing = [index for index in range(len(settings)) if index not in done]
    is_timed = experiment.batch_of(settings[0]) is not None
    runners: dict[int, Runner] = {}
    remote = {}
    if executor:
        remote = {i: executor.submit(experiment.facts_at, settings[i]) for i in missing}
    for index in _show(missing, desc=experiment.counting, unit="setting"):
        start = time.perf_counter()
        if index in remote:
            facts = remote[index].result()
        else:
            runners[index] = experiment.prepare(settings[index])
            facts = experiment.facts_at(settings[index], runners[index])
        seconds = time.perf_counter() - start
        kept.add_point(index, facts, seconds=seconds, when=measured_now().when)
    timed = kept.timed
    if not is_timed or (timed and len(kept.rounds) >= timed["rounds"]):
        return bool(missing)
    for index in _show(range(len(settings)), desc="preparing", unit="setting"):
        if index not in runners:
            runners[index] = experiment.prepare(settings[index])
    _time_missing(experiment, settings, settings.index(dict(against)), runners, rounds, kept)
    return True


def _time_missing(
    experiment: Experiment,
    settings: list[dict[str, Any]],
    base: int,
    runners: Mapping[int, Runner],
    rounds: int | None,
    kept: Kept,
) -> None:
    """Time all settings in turns, the baseline as the first, and keep each round."""
    order = [base, *(index for index in range(len(settings)) if index != base)]
    with tqdm(
        desc="latency", unit="round", leave=False, file=sys.stdout, total=rounds, delay=1
    ) as bar:
        last = time.perf_counter()

        def keep(times_ms: list[list[float]]) -> None:
            nonlocal last
            now = time.perf_counter()
            kept.add_timing("round", seconds=now - last, times_ms=times_ms)
            last = now
            bar.update()

        timed = compare(
            *(runners[index] for index in order),
            images=_all_of([experiment.batch_of(settings[index]) for index in order]),
            names=[", ".join(map(str, settings[index].values())) for index in order],
            limit_s=LIMIT_S,
            rounds=rounds,
            earlier=[entry["times_ms"] for entry in kept.rounds],
            on_round=keep,
        )
    told = {"ended": timed.ended, "when": timed.provenance.when, "note": timed.provenance.note}
    kept.add_timing("timed", seconds=0.0, rounds=len(timed.times_ms[0]), **told)


def _all_of(batches: Iterable[np.ndarray | None]) -> list[np.ndarray]:
    return [batch for batch in batches if batch is not None]


def _show(items: Iterable[Any], desc: str, unit: str) -> Iterable[Any]:
    """Show a progress bar that disappears when it is done."""
    bar: Iterable[Any] = tqdm(items, desc=desc, unit=unit, leave=False, file=sys.stdout)
    return bar


def _points(
    experiment: Experiment,
    kept: Kept,
    settings: list[dict[str, Any]],
    against: dict[str, Any],
) -> list[Point]:
    facts = kept.points
    base = settings.index(against)
    here = str(machine.describe())
    timed = kept.timed
    times_ms: dict[int, np.ndarray] = {}
    if timed:
        order = [base, *(index for index in range(len(settings)) if index != base)]
        stacked = stack_rounds([entry["times_ms"] for entry in kept.rounds])
        times_ms = dict(zip(order, stacked, strict=True))
    found = []
    for index in range(len(settings)):
        origin = timed or facts[index]
        measured = Provenance("measured", here, origin["when"], origin.get("note", ""))
        found.append(Finding(facts[index], times_ms.get(index, np.empty((0, 0))), measured))
    return [
        experiment.point(
            setting, one, found[settings.index(experiment.baseline_of(setting, against))]
        )
        for setting, one in zip(settings, found, strict=True)
    ]


def _report(experiment: Experiment, kept: Kept, count: int, is_new: bool) -> None:
    timed = kept.timed
    when = timed["when"] if timed else max(point["when"] for point in kept.points.values())
    is_late = timed is not None and timed["ended"] == "time limit"
    print(
        f"{count} setting{'s' * (count > 1)}, {experiment.about}: measured on this machine"
        f" {'just now' if is_new else 'on ' + when}, in {kept.seconds:.0f} s."
        + f" A quick look, as {quick.VARIABLE} asks." * quick.is_asked_for()
        + " The time limit ended the timing: some speeds are known less well than to ±5 %."
        * is_late
    )
