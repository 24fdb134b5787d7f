"""Measure a runner: is it right (accuracy), and how long does it take (latency)?

Accuracy is counted over labelled images. Latency is timed in short bursts, the runners taking
turns, so that whatever else the machine does meets all of them alike. Every number carries
where it comes from.
"""

import gc
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from course_utils import machine
from course_utils.datasets import Split
from course_utils.runtimes.runner import Runner

ROUNDS, BURST = 30, 5


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from.

    Attributes:
        kind: How it came about.
        source: The machine if measured or recorded, the formula if computed, else the work cited.
        when: Date and time in ISO format, where it applies.
    """

    kind: Literal["measured", "recorded", "computed", "cited"]
    source: str
    when: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.source}" + (f", {self.when}" if self.when else "")


@dataclass(frozen=True)
class Measurement:
    """A number with its unit, its spread and its origin.

    Attributes:
        value: The number; for a latency the median.
        unit: "%", "ms", "bytes", "points" of accuracy gained, or "×" as fast.
        low: Lower end of the spread: first quartile of a latency, one standard error below an
            accuracy or a gain, lower end of the 95 % interval of a speed.
        high: Upper end of the spread, likewise.
        count: How many images, timings or rounds it rests on.
        provenance: Where it comes from.
        fastest: Shortest of the timings, what the kernel can do; NaN if there are none.
        p95: 95th percentile of the timings; NaN if there are none.
    """

    value: float
    unit: str
    low: float
    high: float
    count: int
    provenance: Provenance
    fastest: float = math.nan
    p95: float = math.nan


def measured_now() -> Provenance:
    """Return the provenance of what is measured on this machine at this minute."""
    return Provenance("measured", str(machine.describe()), f"{datetime.now():%Y-%m-%d %H:%M}")


def find_right(runner: Runner, split: Split, batch: int = 10) -> np.ndarray:
    """Return for each image whether the runner classifies it as labelled: (n,) bool.

    Args:
        runner: Returns logits (n, classes).
        split: Images and labels, at least one.
        batch: Images a call; a small batch fits the processor's cache and needs little memory. Take
            1 for a network that finds its ranges while it runs: its answer for an image depends
            on the others in the batch.

    Raises:
        ValueError: The split is empty, or the runner does not return one row of logits an image.
    """
    if len(split) == 0:
        raise ValueError("There are no images to measure the accuracy on.")

    def compare(start: int) -> np.ndarray:
        logits = runner(split.images[start : start + batch])
        labels = split.labels[start : start + batch]
        if logits.shape[:1] != labels.shape or logits.ndim != 2:
            raise ValueError(
                f"{len(labels)} images gave an output of shape {logits.shape}; logits of shape"
                f" ({len(labels)}, classes) were expected."
            )
        right: np.ndarray = logits.argmax(axis=1) == labels
        return right

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.concatenate(list(threads.map(compare, range(0, len(split), batch))))


def summarize_accuracy(right: np.ndarray) -> Measurement:
    """Return the percentage that is right, with the standard error of a binomial share."""
    share = right.mean()
    error = 100 * math.sqrt(share * (1 - share) / len(right))
    percent = float(100 * share)
    return Measurement(percent, "%", percent - error, percent + error, len(right), measured_now())


def measure_accuracy(runner: Runner, split: Split) -> Measurement:
    """Return the percentage of images classified as labelled; see ``find_right``."""
    return summarize_accuracy(find_right(runner, split))


def compare_accuracy(right: np.ndarray, baseline: np.ndarray) -> Measurement:
    """Return the points of accuracy gained over a baseline on the same images.

    The standard error is that of a paired difference: only the images on which exactly one of
    the two is right count (McNemar, 1947). For networks that mostly agree it is far smaller than
    the errors of the two accuracies suggest.
    """
    gain = right.astype(float) - baseline
    error = 100 * float(gain.std()) / math.sqrt(len(gain))
    points = float(100 * gain.mean())
    return Measurement(points, "points", points - error, points + error, len(gain), measured_now())


def time_rounds(
    runners: Sequence[Runner], images: np.ndarray, rounds: int = ROUNDS, burst: int = BURST
) -> Iterator[np.ndarray]:
    """Yield, round by round, the times of all runners on the same batch.

    In a round every runner has one turn, in random order: an untimed call, then a burst of
    timed ones. Bursts of one runner are spread over the whole measurement, so a disturbance
    of a second does not fall on one runner alone.

    Args:
        runners: Timed against each other.
        images: The batch (n, ...) that each call gets.
        rounds: Turns for each runner.
        burst: Timed calls in a turn.

    Yields:
        (runners, burst) float64, milliseconds.
    """
    order = np.random.default_rng(0)
    for _ in range(rounds):
        times = np.empty((len(runners), burst))
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            for index in order.permutation(len(runners)):
                runner = runners[index]
                runner(images)
                for call in range(burst):
                    start = time.perf_counter_ns()
                    runner(images)
                    times[index, call] = (time.perf_counter_ns() - start) / 1e6
        finally:
            if was_enabled:
                gc.enable()
        yield times


def summarize_latency(times_ms: np.ndarray) -> Measurement:
    """Return median, quartiles, 95th percentile and minimum of timings in milliseconds."""
    low, median, high, p95 = np.percentile(times_ms, [25, 50, 75, 95])
    return Measurement(
        float(median),
        "ms",
        float(low),
        float(high),
        times_ms.size,
        measured_now(),
        fastest=float(times_ms.min()),
        p95=float(p95),
    )


def compare_speed(times_ms: np.ndarray, baseline_ms: np.ndarray) -> Measurement:
    """Return how many times as fast as a baseline, with a 95 % interval.

    The median over the rounds of the ratio of the medians in a round; the interval is a
    bootstrap over rounds (Efron, 1979).

    Args:
        times_ms: (rounds, burst) of the one.
        baseline_ms: (rounds, burst) of the other, timed in the same rounds.
    """
    ratios = np.median(baseline_ms, axis=1) / np.median(times_ms, axis=1)  # (rounds,)
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    ratio = float(np.median(ratios))
    return Measurement(ratio, "×", float(low), float(high), len(ratios), measured_now())


def measure_latency(
    runners: Sequence[Runner], images: np.ndarray, rounds: int = ROUNDS, burst: int = BURST
) -> np.ndarray:
    """Return the times of each runner in turns: (runners, rounds, burst), milliseconds."""
    return np.stack(list(time_rounds(runners, images, rounds, burst)), axis=1)
