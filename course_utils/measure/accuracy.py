"""Is a runner right? Accuracy counted over labelled images, with its standard error."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from course_utils.datasets import Split
from course_utils.measure.measurement import Measurement, measured_now
from course_utils.runtimes.runner import Runner


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
    found = summarize_accuracy(find_right(runner, split))
    note = f"± {found.high - found.value:.1f} on {found.count:,} {split.unit}"
    return replace(found, note=note)


def summarize_seeds(rights: Sequence[np.ndarray]) -> Measurement:
    """Return the mean accuracy of networks that differ by their seed, from the worst to the best.

    Args:
        rights: For each seed which of the same images are classified rightly: (n,) bool.

    Raises:
        ValueError: There are no seeds.
    """
    percents = [float(100 * right.mean()) for right in rights]
    if not percents:
        raise ValueError("A mean over seeds needs at least one network.")
    told = ", ".join(f"{percent:.2f}" for percent in percents)
    seeds = f"{len(percents)} seeds" if len(percents) > 1 else "one seed"
    mean = sum(percents) / len(percents)
    note = f"{seeds}: {told}"
    return Measurement(
        mean, "%", min(percents), max(percents), len(rights[0]), measured_now(), note=note
    )


def compare_seeds(taught: Measurement, alone: Measurement) -> Measurement:
    """Return by how many points one mean over seeds is above another.

    Its ends compare the worst seed of the one with the best of the other, and the best with the
    worst: where the lower end is above 0, each seed of the one is above each seed of the other.

    Args:
        taught: From ``summarize_seeds``.
        alone: The control, likewise.
    """
    low, high = taught.low - alone.high, taught.high - alone.low
    gap = taught.value - alone.value
    note = f"seed against seed from {low:+.2f} to {high:+.2f}"
    return Measurement(gap, "points", low, high, taught.count, measured_now(), note=note)


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
