"""What a classifier gives and costs at each setting: accuracy, latency and size."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from course_utils import quick
from course_utils.datasets import Split
from course_utils.measure import (
    Measurement,
    Provenance,
    compare_accuracy,
    compare_speed,
    find_right,
    summarize_accuracy,
    summarize_latency,
)
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run


def measure(
    at: Callable[..., Runner],
    *,
    over: Mapping[str, Sequence[Any]],
    on: Split,
    against: Setting,
    count_with: Callable[..., Runner] | None = None,
    also: Callable[..., Mapping[str, Measurement]] | None = None,
    executor: Executor | None = None,
    rounds: int | None = None,
    batch: int = 10,
    images_a_call: int = 1,
) -> Sweep:
    """Measure a runner at every combination of the knobs' values; see ``sweep.run``.

    The metrics of a point are accuracy, gain (points of accuracy more than the baseline's on the
    same images), latency of one image, speed (beside the baseline), size of what ships, and those
    that ``also`` returns.

    Args:
        at: Takes one value for each knob, by name, and returns the runner to measure.
        over: Values of each knob.
        on: Labelled images; the accuracy is counted on all of them.
        against: The setting that the others are compared with; one of those in ``over``.
        count_with: Takes the same and returns a runner of the same network that is quicker to
            count the accuracy with, once if it is the same for several settings; None: the accuracy
            is that of the runner that is timed.
        also: Takes the same and returns more metrics, by name.
        executor: Where to build and count accuracies, e.g. a cluster's; None: here, one by one.
        rounds: Turns that each runner gets; None: until the speeds are known to ±5 %, or for 10 s.
        batch: Images a call while the accuracy is counted; see ``measure.find_right``.
        images_a_call: How many images a timed call gets.

    Raises:
        ValueError: A knob has no values, ``against`` is not among the settings, or a call gets
            no image, or more than there are.
    """
    on = quick.choose_images(on)
    if not 1 <= images_a_call <= len(on):
        raise ValueError(f"A call gets 1 to {len(on)} of the images, not {images_a_call}.")
    experiment = Classification(at, on, batch, count_with, also, images_a_call)
    return run(experiment, over, against, executor=executor, rounds=rounds)


@dataclass(frozen=True)
class Classification(Experiment):
    """Accuracy on all images, latency of one, bytes of what ships."""

    at: Callable[..., Runner]
    on: Split
    batch: int = 10
    count_with: Callable[..., Runner] | None = None
    also: Callable[..., Mapping[str, Measurement]] | None = None
    images_a_call: int = 1
    _counted: list[tuple[Runner, np.ndarray]] = field(
        default_factory=list, repr=False, compare=False
    )

    counting: ClassVar[str] = "accuracy"

    @property
    def titles(self) -> Mapping[str, str]:  # type: ignore[override]
        """Names of metrics on a panel."""
        what = f"{self.images_a_call} {self.counted}"
        if self.images_a_call == 1:
            what = f"one {self.counted.removesuffix('s')}"
        return {"latency": f"latency of {what}", "size": "size of what ships"}

    @property
    def counted(self) -> str:
        """What the accuracy is counted on, in words."""
        return getattr(self.on, "unit", "images")

    @property
    def about(self) -> str:
        """On how many images the accuracy is counted."""
        return f"{len(self.on):,} test {self.counted} each"

    def forget(self) -> None:
        """Count anew what one runner has been counted for."""
        self._counted.clear()

    @property
    def key(self) -> tuple[Any, ...]:
        """The functions, the images and the batch."""
        return self.at, self.on, self.batch, self.count_with, self.also, self.images_a_call

    def prepare(self, setting: Setting) -> Runner:
        """Return the runner of a setting."""
        return self.at(**setting)

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Return which images are classified rightly, the size, and what else is asked for."""
        right = self._find_right(runner, setting)
        packed = np.packbits(right).tobytes().hex()
        more = self.also(**setting) if self.also else {}
        return {
            "right": packed,
            "images": len(right),
            "size_bytes": runner.size_bytes,
            "more": {name: describe_plainly(found) for name, found in more.items()},
        }

    def _find_right(self, runner: Runner, setting: Setting) -> np.ndarray:
        """Return which images are classified rightly: (n,) bool."""
        if self.count_with is None:
            return find_right(runner, self.on, self.batch)
        counter = self.count_with(**setting)
        earlier = [right for one, right in self._counted if one is counter]
        if not earlier:
            self._counted.append((counter, find_right(counter, self.on, self.batch)))
        return earlier[0] if earlier else self._counted[-1][1]

    def batch_of(self, setting: Setting) -> np.ndarray:
        """Return the images of a timed call."""
        return self.on.images[: self.images_a_call]

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return accuracy, gain, latency, speed and size."""
        right, baseline_right = (_unpack(one.facts) for one in (found, baseline))
        size = float(found.facts["size_bytes"])
        measured = found.measured
        return {
            "accuracy": replace(summarize_accuracy(right), provenance=measured),
            "gain": replace(compare_accuracy(right, baseline_right), provenance=measured),
            "latency": summarize_latency(found.times_ms, measured),
            "speed": compare_speed(found.times_ms, baseline.times_ms, measured),
            "size": Measurement(size, "bytes", size, size, 1, measured),
            **{
                name: recall_plainly(fields, measured)
                for name, fields in found.facts["more"].items()
            },
        }


def describe_plainly(found: Measurement) -> dict[str, Any]:
    """Return a measurement as plain values; with its origin, unless it was measured here."""
    names = ("value", "unit", "low", "high", "count", "note")
    described = {name: getattr(found, name) for name in names}
    if found.provenance.kind != "measured":
        described["provenance"] = asdict(found.provenance)
    return described


def recall_plainly(described: Mapping[str, Any], measured: Provenance) -> Measurement:
    """Return the measurement that ``describe_plainly`` described.

    Args:
        described: Its plain values.
        measured: Where and when, if it was measured here.
    """
    origin = described.get("provenance")
    provenance = Provenance(**origin) if origin else measured
    return Measurement(**{**described, "provenance": provenance})


def _unpack(facts: Mapping[str, Any]) -> np.ndarray:
    packed = np.frombuffer(bytes.fromhex(facts["right"]), np.uint8)
    return np.unpackbits(packed, count=facts["images"])
