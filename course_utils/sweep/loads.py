"""How long requests take over the load that is offered, with and without batching."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from course_utils import serving
from course_utils.measure import Measurement
from course_utils.measure.percentiles import count_independent
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run

LOAD, BATCHING = "% load", "batching"
PERCENTILES = (50, 95, 99)
CAPACITY_S = 0.2  # for measuring what 100 % is, before each setting


def measure_loads(
    at: Callable[[], Runner],
    *,
    loads: Sequence[int],
    batching: Mapping[str, int],
    images: np.ndarray,
    deadline_ms: float,
    seconds: float = 1.0,
) -> Sweep:
    """Measure a server at several offered loads, with several ways of batching.

    The metrics of a point are p50, p95 and p99 (of the latency of answered requests, ms), "in
    time" (share of all requests that were answered within the deadline, %) and "answered"
    (requests a second). A load is given in percent of what the runner answers one at a time, all
    of the time, measured just before.

    Args:
        at: Returns the runner.
        loads: Offered loads, percent.
        batching: Ways of batching: their names, and the most requests that a call may answer.
        images: Each request brings one of these: (n, *image_shape) float32.
        deadline_ms: From a request's arrival.
        seconds: How long requests arrive at each setting.

    Raises:
        ValueError: A load, the deadline or the seconds are not above 0, or a way of batching takes
            less than one request a call, or more than can queue.
    """
    numbers = [*loads, deadline_ms, seconds]
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"Loads, deadline_ms and seconds have to be above 0: {numbers}.")
    if not all(1 <= most <= serving.CAPACITY for most in batching.values()):
        raise ValueError(
            f"A call answers from 1 request to the {serving.CAPACITY} that can queue, not"
            f" {dict(batching)}."
        )
    knobs: dict[str, list[Any]] = {LOAD: list(loads), BATCHING: list(batching)}
    against = {LOAD: next(iter(loads), None), BATCHING: next(iter(batching), None)}
    experiment = Loads(at, images, dict(batching), deadline_ms, seconds)
    return run(experiment, knobs, against)


@dataclass(frozen=True)
class Loads(Experiment):
    """What becomes of requests at a load."""

    at: Callable[[], Runner]
    images: np.ndarray
    batching: Mapping[str, int]
    deadline_ms: float
    seconds: float

    counting: ClassVar[str] = "serving"
    is_compared: ClassVar[bool] = False
    titles: ClassVar[Mapping[str, str]] = {
        f"p{percent}": f"{percent} % answered within" for percent in PERCENTILES
    }

    @property
    def about(self) -> str:
        """For how long requests arrive."""
        return f"requests arriving at random for {self.seconds:g} s each"

    @property
    def key(self) -> tuple[Any, ...]:
        """The function and all settings."""
        return self.at, self.images, self.batching, self.deadline_ms, self.seconds

    def prepare(self, setting: Setting) -> Runner:
        """Return the runner, the same at all settings."""
        return self.at()

    def facts_at(self, setting: Setting, runner: Runner | None = None) -> dict[str, Any]:
        """Return what ``count`` finds; what ran is the same everywhere, and needs no card."""
        return {**super().facts_at(setting, runner), "kernel": ""}

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Offer the load, and return what became of each request.

        What 100 % is has just been measured: a machine's speed changes from second to second.
        """
        capacity = serving.measure_capacity(runner, self.images, duration_s=CAPACITY_S).value
        rate = capacity * setting[LOAD] / 100
        arrivals = serving.draw_arrivals(rate, self.seconds)
        served = serving.serve(runner, self.images, arrivals, most=self.batching[setting[BATCHING]])
        return {
            "capacity_per_s": capacity,
            "rate_per_s": rate,
            "arrived": served.arrived,
            "rejected": served.rejected,
            "latency_ms": served.latency_ms.round(4).tolist(),
            "batch_sizes": served.batch_sizes.tolist(),
            "seconds_served": served.seconds,
            "note": served.provenance.note,
        }

    def samples(self, found: Finding) -> np.ndarray:
        """Return the latency of each answered request, ms."""
        return np.array(found.facts["latency_ms"])

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return percentiles, the share in time, and answers a second."""
        facts = found.facts
        measured = replace(found.measured, note=facts["note"])
        served = serving.Served(
            np.array(facts["latency_ms"]),
            facts["arrived"],
            facts["rejected"],
            np.array(facts["batch_sizes"]),
            facts["seconds_served"],
            measured,
        )
        percentiles = {f"p{percent}": served.percentile(percent) for percent in PERCENTILES}
        share = served.in_time(self.deadline_ms)
        independent = count_independent(served.latency_ms <= self.deadline_ms)
        count = served.arrived * independent / max(served.answered, 1)
        about = (share * count + 0.5) / (count + 1)  # not quite 0 or 1, of which it would be 0
        error = 100 * (about * (1 - about) / count) ** 0.5
        answered = served.answered_per_s
        return {
            **percentiles,
            "in time": Measurement(
                100 * share,
                "%",
                100 * share - error,
                100 * share + error,
                served.arrived,
                measured,
                note=f"of {served.arrived:,} requests, within {self.deadline_ms:g} ms; "
                f"{served.rejected:,} found the queue full",
            ),
            "answered": Measurement(
                answered,
                "requests/s",
                answered,
                answered,
                served.answered,
                measured,
                note=f"{facts['rate_per_s']:,.0f} offered, 100 % being"
                f" {facts['capacity_per_s']:,.0f}; {served.mean_batch:.1f} a call",
            ),
        }
