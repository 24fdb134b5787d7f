"""Calibration: which range of real numbers should the integers of an activation cover?

Weights are known before a network runs; activations depend on what it is shown. So it is shown
some images first, the values between its layers are counted, and a range is chosen. A wide
range makes every step large; a narrow one clips the values outside of it. The methods: the
extremes themselves; the median of each image's extremes; percentiles; the least mean squared
error (Sung et al., 2015, arXiv 1511.06488); the least relative entropy (Migacz, *8-bit
inference with TensorRT*, GTC 2017).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BINS = 16384
SEARCH_BINS = 2048  # enough to compare ranges by
SHRINKING = np.geomspace(1 / 1024, 1, 81)  # the ranges that a search tries: 9 % apart


class Range(NamedTuple):
    """The real numbers that the integers of an activation cover; it holds 0."""

    low: float
    high: float


PIXELS = Range(0.0, 1.0)  # what the models of the course take


@dataclass(frozen=True)
class Distribution:
    """How often which values occurred, as a histogram that two batches can share.

    Attributes:
        counts: (BINS,) int64; values of exactly 0 are counted apart.
        edges: (BINS + 1,) float64, from the smallest value (or 0) to the largest (or 0).
        zeros: How many values were 0, as ReLU leaves them; every range represents them exactly.
        lows: (images,) float32, the smallest value of each image.
        highs: (images,) float32, the largest value of each image.
    """

    counts: np.ndarray
    edges: np.ndarray
    zeros: int
    lows: np.ndarray
    highs: np.ndarray

    def __add__(self, other: "Distribution") -> "Distribution":
        """Return both together; they must have been counted over the same edges."""
        return Distribution(
            self.counts + other.counts,
            self.edges,
            self.zeros + other.zeros,
            np.concatenate([self.lows, other.lows]),
            np.concatenate([self.highs, other.highs]),
        )

    def __len__(self) -> int:
        return int(self.counts.sum()) + self.zeros

    @property
    def centres(self) -> np.ndarray:
        """Middle of each bin: (BINS,)."""
        centres: np.ndarray = (self.edges[:-1] + self.edges[1:]) / 2
        return centres

    def share_outside(self, limits: Range) -> float:
        """Return the share of the values that a range clips, to a bin's width: 0 to 1."""
        is_outside = (self.edges[1:] <= limits.low) | (self.edges[:-1] >= limits.high)
        return float(self.counts[is_outside].sum() / len(self))


Method = Callable[[Distribution], Range]


def check_images(images: np.ndarray, pixels: Range | None = PIXELS) -> None:
    """Raise ``ValueError`` if ranges cannot be learned from these images."""
    if images.dtype != np.float32 or images.ndim < 2 or len(images) == 0:
        raise ValueError(
            "Calibration takes a batch of float32 images, (n, ...) with n of 1 or more; it was"
            f" given {images.dtype} of shape {images.shape}."
        )
    if not np.isfinite(images).all():
        raise ValueError("The calibration images hold NaN or infinite values.")
    low, high = float(images.min()), float(images.max())
    if pixels is not None and not pixels.low <= low <= high <= pixels.high:
        raise ValueError(
            f"The calibration images run from {low:g} to {high:g}, but this model takes pixels from"
            f" {pixels.low:g} to {pixels.high:g}. Images of whole numbers up to 255 have to be"
            " divided by 255."
        )


def refuse_images(images: np.ndarray, error: RuntimeError) -> ValueError:
    """Return what to raise when a model failed on images."""
    reason = str(error).splitlines()[0]
    return ValueError(f"The model does not accept images of shape {images.shape}: {reason}")


def count(values: np.ndarray, extremes: Range | None = None) -> Distribution:
    """Count values.

    Args:
        values: (images, ...) float32.
        extremes: Between which to count, so that several batches have the same edges; None:
            those of the values.

    Raises:
        ValueError: There are no values, or some are NaN or infinite.
    """
    if values.size == 0:
        raise ValueError("There are no values to choose a range for.")
    if not np.isfinite(values).all():
        raise ValueError("Some of the values are NaN or infinite: no range can hold them.")
    low, high = extremes or find_extremes(values)
    if high - low < float(np.finfo(np.float32).tiny) * BINS:  # nothing but zeros
        high = low + 1.0
    zeros = int(values.size - np.count_nonzero(values))
    counts, edges = np.histogram(values, BINS, (np.float64(low), np.float64(high)))
    counts[_find_zero(edges)] -= zeros
    of_images = values.reshape(len(values), -1)
    return Distribution(counts, edges, zeros, of_images.min(axis=1), of_images.max(axis=1))


def _find_zero(edges: np.ndarray) -> int:
    """Return the bin that 0 is counted in; the last one includes its upper edge."""
    return min(int(np.searchsorted(edges, 0, side="right")) - 1, len(edges) - 2)


def find_extremes(values: np.ndarray) -> Range:
    """Return the range from the smallest value to the largest, widened to hold 0."""
    return Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0))


def min_max(seen: Distribution) -> Range:
    """Return the whole range: nothing is clipped, and one outlier sets the step for all."""
    return Range(float(seen.edges[0]), float(seen.edges[-1]))


def median(seen: Distribution) -> Range:
    """Return the range from the median of the images' smallest values to that of their largest.

    Fewer than half of the images can be broken without harm. Where most images leave an
    activation at 0, it is the whole range.
    """
    low, high = min(float(np.median(seen.lows)), 0.0), max(float(np.median(seen.highs)), 0.0)
    return Range(low, high) if low < high else min_max(seen)


def percentile(seen: Distribution, percent: float) -> Range:
    """Return the range that cuts off 100 - ``percent`` per cent of the values at either end.

    Zeros count among the values.

    Args:
        seen: The values.
        percent: Above 50, at most 100, which is ``min_max``.

    Raises:
        ValueError: ``percent`` is none of these.
    """
    if not 50 < percent <= 100:
        raise ValueError(
            f"A percentile of {percent} leaves no range: choose more than 50 and at most 100, e.g."
            " 99.9."
        )
    counts = seen.counts.copy()
    counts[_find_zero(seen.edges)] += seen.zeros
    allowed = (1 - percent / 100) * len(seen)  # how many values may lie beyond an end
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    low = seen.edges[int(np.searchsorted(below, allowed, side="right"))]
    high = seen.edges[::-1][int(np.searchsorted(above, allowed, side="right"))]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def mean_squared_error(seen: Distribution, bits: int = 8) -> Range:
    """Return the range with the least squared error, of clipping and of rounding together.

    The whole range is shrunk step by step towards 0. Rounding costs ``step**2 / 12`` for each
    value inside (Bennett, 1948), clipping the squared distance for each value outside.
    """
    low, high = min_max(seen)
    counts = seen.counts.reshape(SEARCH_BINS, -1).sum(axis=1)
    centres = seen.centres.reshape(SEARCH_BINS, -1).mean(axis=1)

    def error(shrunk: float) -> float:
        beyond = np.maximum(centres - high * shrunk, 0) + np.maximum(low * shrunk - centres, 0)
        step = (high - low) * shrunk / (2**bits - 1)
        return float(counts @ beyond**2 + counts[beyond == 0].sum() * step**2 / 12)

    best = min(SHRINKING, key=error)
    return Range(low * best, high * best)


def entropy(seen: Distribution, bits: int = 8) -> Range:
    """Return the range whose rounded values are distributed most like the values themselves.

    The measure is the relative entropy (Kullback-Leibler divergence) between the histogram of
    absolute values, what lies outside heaped on the last bin, and the same histogram with only
    ``2**(bits - 1)`` levels. Zeros are left out: every range represents them. The histogram has
    2048 bins, as published, so for 8 bits no range below 128 / 2048 of the largest value is tried.
    """
    levels = min(2 ** (bits - 1), SEARCH_BINS)
    low, high = min_max(seen)
    largest = max(-low, high)
    counts, edges = np.histogram(
        np.abs(seen.centres), SEARCH_BINS, (0, largest), weights=seen.counts
    )

    def divergence(bins: int) -> float:
        kept = counts[:bins].astype(float)
        level = np.arange(bins) * levels // bins  # which bins one level stands for
        occupied = np.bincount(level, kept > 0, levels)
        spread = np.bincount(level, kept, levels) / np.maximum(occupied, 1)
        rounded = np.where(kept > 0, spread[level], 0.0)
        kept[-1] += counts[bins:].sum()
        if not rounded.sum():
            return math.inf
        given, made = kept / kept.sum(), rounded / rounded.sum()
        both = (given > 0) & (made > 0)
        missing = given[~both].sum()  # values heaped where the rounded histogram has none
        return float(given[both] @ np.log(given[both] / made[both]) + missing * 20)

    tried = range(levels, SEARCH_BINS + 1, max(levels // 8, 1))
    edge = float(edges[min(tried, key=divergence)])
    return Range(max(low, -edge), min(high, edge))
