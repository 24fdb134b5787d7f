"""Everything that the page of a panel shows, as words, scales and one buffer of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from course_utils.lab.readouts import (
    Card,
    describe_setting,
    describe_speed,
    format_value,
    latency_digits,
)

if TYPE_CHECKING:
    from course_utils.measure import Measurement
    from course_utils.sweep import Point, Sweep

MOST_LEVELS = 64
MOST_CHOICES = 4  # more words than these stand on a slider
ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Histogram:
    """A picture of what a setting does to some numbers.

    Attributes:
        title: What is counted.
        axis: What the numbers are.
        edges: (bins + 1,) the same for all settings of a panel.
        counts: (bins,).
        levels: Values that a number can be rounded to; drawn if there are 64 or fewer.
        limits: What lies outside of these two is clipped, and shaded; None: nothing is.
        is_log: Draw both axes in powers of ten; the edges have to be positive then.
    """

    title: str
    axis: str
    edges: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    limits: tuple[float, float] | None = None
    is_log: bool = False

    def heights(self) -> np.ndarray:
        """Return how high each bar is drawn: (bins,)."""
        return np.log10(1 + self.counts) if self.is_log else self.counts

    def place(self, values: Any) -> np.ndarray:
        """Return where values lie along the axis; what a logarithm cannot show is at its end."""
        if not self.is_log:
            return np.asarray(values, float)
        places: np.ndarray = np.log10(np.maximum(values, self.edges[0]))
        return places


def pack_numbers(sweep: Sweep, details: Sequence[Histogram]) -> bytes:
    """Return one float32 buffer: curves, heights of bars, levels, limits; a row for each point.

    A curve's six are value, low and high of the accuracy, then of the latency. Rows of 64 levels
    are filled up with NaN; the two limits are NaN where there are none.
    """
    curves = [
        [getattr(metric, end) for metric in (point.accuracy, point.latency) for end in ENDS]
        for point in sweep.points
    ]
    heights = [detail.heights() for detail in details]
    limits = np.full((len(details), 2), np.nan)
    levels = np.full((len(details), MOST_LEVELS), np.nan)
    for row, ends, detail in zip(levels, limits, details, strict=True):
        if len(detail.levels) <= MOST_LEVELS:
            row[: len(detail.levels)] = detail.place(detail.levels)
        if detail.limits is not None:
            ends[:] = detail.place(detail.limits)
    parts = [np.ravel(part).astype(np.float32) for part in (curves, heights, levels, limits)]
    return np.concatenate(parts).tobytes()


def make_spec(
    name: str,
    sweep: Sweep,
    cards_of_points: Sequence[list[Card]],
    details: Sequence[Histogram],
    predict: Point | None,
    asked: Sequence[str],
) -> dict[str, Any]:
    """Return the words and scales of a panel, ready for JSON."""
    points = sweep.points
    key = ["× your prediction", "+ measured again"] if predict else ["+ measured again"]
    if len(sweep.knobs) > 1:
        key.append("pale: the other choice")
    if any(0 < len(detail.levels) <= MOST_LEVELS for detail in details):
        key.append("vertical lines: the values that a number can take")
    if any(detail.limits is not None for detail in details):
        key.append("shaded: outside of the range, clipped")
    return {
        "name": name,
        "knobs": [
            {
                "name": knob,
                "values": [str(value) for value in values],
                "shown": [describe_setting({knob: value}) for value in values],
                "isChoice": len(values) <= MOST_CHOICES
                and all(isinstance(value, str) for value in values),
            }
            for knob, values in sweep.knobs.items()
        ],
        "points": [
            {"cards": [card._asdict() for card in cards], "said": _said(point, cards)}
            for point, cards in zip(points, cards_of_points, strict=True)
        ],
        "charts": [
            _axis("accuracy (%)", [point.accuracy for point in points]),
            _axis("latency (ms)", [point.latency for point in points]),
        ],
        "detail": _describe_details(details) if details else None,
        "predict": _describe_prediction(sweep, predict, asked) if predict else None,
        "provenance": f"{points[0].latency.provenance}; accuracy on"
        f" {points[0].accuracy.count:,} test images; compared with"
        f" {describe_setting(sweep.against)}, the speed with its 95 % interval",
        "key": key,
        "head": [*sweep.knobs, *(card.title for card in cards_of_points[0])],
        "rows": [
            [*map(str, point.setting.values()), *(card.value for card in cards)]
            for point, cards in zip(points, cards_of_points, strict=True)
        ],
    }


def _said(point: Point, cards: Sequence[Card]) -> str:
    values = ", ".join(f"{card.title} {card.value}" for card in cards)
    return f"{describe_setting(point.setting)}: {values}"


def _describe_details(details: Sequence[Histogram]) -> dict[str, Any]:
    first = details[0]
    low, high = map(float, first.place(first.edges[[0, -1]]))
    places: Sequence[float] = MaxNLocator(4).tick_values(low, high)
    if first.is_log:
        places = range(math.ceil(low), math.floor(high) + 1)  # whole powers of ten
    ticks = [float(place) for place in places if low <= place <= high]
    return {
        "titles": [detail.title for detail in details],
        "axis": first.axis,
        "bins": len(first.counts),
        "levels": MOST_LEVELS,
        "low": low,
        "high": high,
        "most": float(max(detail.heights().max() for detail in details)),
        "ticks": [
            {"at": tick, "label": f"{10**tick:g}" if first.is_log else f"{tick:.3g}"}
            for tick in ticks
        ],
    }


def _describe_prediction(sweep: Sweep, predict: Point, asked: Sequence[str]) -> dict[str, Any]:
    baseline = sweep.baseline
    longest = 2 * baseline.latency.value
    fields = {
        "accuracy": {"unit": "%", "most": 100, "step": 1, "digits": 0},
        "latency": {
            "unit": "ms",
            "most": longest,
            "step": longest / 100,
            "digits": latency_digits(longest),
        },
    }
    found = [format_value(getattr(predict, metric)) for metric in asked]
    faster = f" ({describe_speed(predict.speed)})" if "latency" in asked else ""
    return {
        "point": sweep.points.index(predict),
        "setting": describe_setting(predict.setting),
        "known": f"With {describe_setting(baseline.setting)}, {format_value(baseline.accuracy)}"
        f" of the answers are right, and one takes {format_value(baseline.latency)}."
        f" Move {'both sliders' if len(asked) > 1 else 'the slider'}.",
        "measured": " and ".join(found) + faster,
        "fields": [{"name": metric, **fields[metric]} for metric in asked],
    }


def _axis(title: str, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return the scale of a chart: from 0 to a tick above the highest value."""
    highest = max(measurement.high for measurement in measurements)
    ticks = MaxNLocator(4).tick_values(0, highest)
    return {
        "title": title,
        "low": float(ticks[0]),
        "high": float(ticks[-1]),
        "ticks": [{"at": float(tick), "label": f"{tick:g}"} for tick in ticks],
    }
