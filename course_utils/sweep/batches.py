"""How latency, throughput and memory depend on how many images a call gets."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from course_utils.measure import Measurement, compare_speed, summarize_latency
from course_utils.measure.memory import measure_memory
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Point, Setting
from course_utils.sweep.sweep import Sweep, run

BATCH = "images a call"


def measure_batches(
    at: Callable[..., Runner],
    *,
    batches: Sequence[int],
    over: Mapping[str, Sequence[Any]],
    images: np.ndarray,
    with_memory: bool = True,
    rounds: int | None = None,
) -> Sweep:
    """Measure calls of several sizes at every combination of the other knobs' values.

    The metrics of a point are latency of a call, throughput (images a second), memory (the most
    that calls add to the loaded model, in a fresh process) and gain: how many times as fast each
    image is as in the smallest batch at the same other values, measured in turns.

    Args:
        at: Takes one value for each of the other knobs, by name, and returns the runner.
        batches: How many images a call gets; the first knob.
        over: Values of the other knobs.
        images: The batches are the first of these: (n, *image_shape) float32.
        with_memory: Whether to measure memory, which runners of PyTorch do not allow.
        rounds: Turns that each setting gets; None: until the speeds are known to ±5 %, or 10 s.

    Raises:
        ValueError: There is no batch, or one is below 1 or larger than there are images.
    """
    if not batches or min(batches) < 1 or max(batches) > len(images):
        raise ValueError(f"Batches of {list(batches)} images do not fit {len(images)} images.")
    first = {name: next(iter(values), None) for name, values in over.items()}
    knobs = {BATCH: list(batches), **over}
    return run(
        Batches(at, images, with_memory), knobs, {BATCH: min(batches), **first}, rounds=rounds
    )


@dataclass(frozen=True)
class Batches(Experiment):
    """Latency of a call, images a second, and memory, over the batch."""

    at: Callable[..., Runner]
    images: np.ndarray
    with_memory: bool = True

    titles: ClassVar[Mapping[str, str]] = {"latency": "latency of a call"}

    @property
    def counting(self) -> str:  # type: ignore[override]
        """What is done before the times are taken."""
        return "memory" if self.with_memory else "building"

    @property
    def about(self) -> str:
        """What the memory is, and what a speed is compared with."""
        memory = "memory of the first calls of a fresh process each; " * self.with_memory
        return f"{memory}the gain, with its 99 % interval, is beside the smallest batch of the same"

    @property
    def key(self) -> tuple[Any, ...]:
        """The function and the images."""
        return self.at, self.images, self.with_memory

    def prepare(self, setting: Setting) -> Runner:
        """Return the runner of a setting."""
        return self.at(**{name: value for name, value in setting.items() if name != BATCH})

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Return the memory that a call needs, where it is measured."""
        if not self.with_memory:
            return {"batch": setting[BATCH]}
        memory = measure_memory(runner, self.images[: setting[BATCH]])
        model, first, later = memory.model.value, memory.first_call.value, memory.later_calls.value
        sizes = {"model_bytes": model, "first_bytes": first, "later_bytes": later}
        return {"batch": setting[BATCH], **sizes}

    def batch_of(self, setting: Setting) -> np.ndarray:
        """Return the images of a call."""
        return self.images[: setting[BATCH]]

    def baseline_of(self, setting: Setting, against: Setting) -> dict[str, Any]:
        """Return the smallest batch at the same values of the other knobs."""
        return {**setting, BATCH: against[BATCH]}

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return latency, throughput and memory."""
        batch = found.facts["batch"]
        latency = summarize_latency(found.times_ms, found.measured)
        speed = compare_speed(found.times_ms / batch, baseline.times_ms, found.measured)
        note = "images / median latency"
        if batch != baseline.facts["batch"]:
            note += f"; each image {speed.describe_speed()}"
        throughput = Measurement(
            1000 * batch / latency.value,
            "images/s",
            1000 * batch / latency.high,
            1000 * batch / latency.low,
            latency.count,
            found.measured,
            note=note,
        )
        metrics = {"latency": latency, "throughput": throughput}
        if not self.with_memory:
            return {**metrics, "gain": speed}
        first, later, model = (
            found.facts[f"{what}_bytes"] / 2**20 for what in ("first", "later", "model")
        )
        most = max(first, later)
        beside = f"beside {model:.1f} MiB for the loaded model; first call {first:.1f} MiB"
        memory = Measurement(most, "MiB", most, most, 1, found.measured, note=beside)
        return {**metrics, "memory": memory, "gain": speed}


def find_knee(sweep: Sweep, **others: Any) -> int:
    """Return the smallest batch with at least 90 % of the highest gain; the first if none is sure.

    Beyond it a larger batch costs latency and memory, and gains next to nothing. Gains whose
    interval holds 1 are none.

    Args:
        sweep: From ``measure_batches``.
        others: A value for each of the other knobs.
    """
    gains = {batch: sweep.point(**{BATCH: batch}, **others).gain for batch in sweep.knobs[BATCH]}
    sure = {batch: gain.value for batch, gain in gains.items() if gain.low > 1}
    enough = 0.9 * max(sure.values(), default=0)
    return min((int(batch) for batch, gain in sure.items() if gain >= enough), default=min(gains))


def add_calls(
    sweep: Sweep, knob: str, value: str, latency_of: Callable[..., Measurement | None]
) -> Sweep:
    """Return a sweep with calls that were recorded elsewhere, as one more value of a knob.

    Args:
        sweep: From ``measure_batches``, without memory.
        knob: Which one.
        value: The new value, e.g. the name of a device.
        latency_of: Takes a batch, and a value for each of the other knobs by name; returns the
            latency of such a call, or None if it was not recorded.

    Raises:
        ValueError: A call of the sweep was not recorded, or the value is there already.
    """
    values = sweep.knobs[knob]
    if value in values:
        raise ValueError(f"{value!r} is there already: {values}.")
    knobs = {**sweep.knobs, knob: [*values, value]}
    smallest = sweep.against[BATCH]
    points = []
    for row in itertools.product(*knobs.values()):
        setting = dict(zip(knobs, row, strict=True))
        if setting[knob] != value:
            points.append(sweep.point(**setting))
            continue
        others = {name: v for name, v in setting.items() if name not in (BATCH, knob)}
        found, first = (latency_of(batch, **others) for batch in (setting[BATCH], smallest))
        if found is None or first is None:
            raise ValueError(f"{value} has no record of {setting}.")
        points.append(Point(setting, _recall_call(setting[BATCH], found, first, smallest)))
    return Sweep(knobs, points, sweep.against, sweep.experiment)


def _recall_call(
    batch: int, latency: Measurement, first: Measurement, smallest: int
) -> dict[str, Measurement]:
    """Return the metrics of a recorded call; the gain has no interval, only medians."""
    rates = [1000 * batch / ms for ms in (latency.value, latency.high, latency.low)]
    origin, count = latency.provenance, latency.count
    gain = first.value / smallest / (latency.value / batch)
    return {
        "latency": latency,
        "throughput": Measurement(rates[0], "images/s", rates[1], rates[2], count, origin),
        "gain": Measurement(gain, "×", gain, gain, count, origin),
    }
