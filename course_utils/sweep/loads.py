"""How long requests take over the load that is offered, with and without batching."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from course_utils import serving
from course_utils.measure import Measurement
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run

LOAD, BATCHING = "% load", "batching"
PERCENTILES = (50, 95, 99)


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
    of the time.

    Args:
        at: Returns the runner.
        loads: Offered loads, percent.
        batching: Ways of batching: their names, and the most requests that a call may answer.
        images: Each request brings one of these: (n, *image_shape) float32.
        deadline_ms: From a request's arrival.
        seconds: How long requests arrive at each setting.
    """
    knobs: dict[str, list[Any]] = {LOAD: list(loads), BATCHING: list(batching)}
    against = {LOAD: loads[0], BATCHING: next(iter(batching))}
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

    @functools.cached_property
    def _one_at_a_time(self) -> float:
        return serving.measure_capacity(self.at(), self.images).value

    def prepare(self, setting: Setting) -> Runner:
        """Return the runner, the same at all settings."""
        return self.at()

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Offer the load, and return what became of each request."""
        rate = self._one_at_a_time * setting[LOAD] / 100
        arrivals = serving.draw_arrivals(rate, self.seconds)
        served = serving.serve(runner, self.images, arrivals, most=self.batching[setting[BATCHING]])
        return {
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
        error = 100 * (share * (1 - share) / served.arrived) ** 0.5
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
                note=f"{facts['rate_per_s']:,.0f} offered; {served.mean_batch:.1f} a call",
            ),
        }
