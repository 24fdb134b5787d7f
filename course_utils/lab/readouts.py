"""What a panel says about a point, in words: made here once, shown by the page as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a panel only shows: it needs the types of what was measured, not torch
    from course_utils.measure import Measurement
    from course_utils.sweep import Point


MOST_DIGITS = 7  # behind the point
COUNTED = ("cells",)  # units of which there are whole numbers
LEAST_PERCENT = "< 0.1 %"
MOST_ZEROS = 4  # of a power of ten that is written in full
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Card(NamedTuple):
    """One readout: its name, its value, and what stands below the value."""

    title: str
    value: str
    note: str


def describe_setting(setting: dict[str, object]) -> str:
    """Return a setting as a reader would say it: "4 bits, per channel"; "1 image a call"."""
    return ", ".join(_describe_value(knob, value) for knob, value in setting.items())


def _describe_value(knob: str, value: object) -> str:
    if isinstance(value, str):
        return value
    counted, *others = knob.split(" ")
    if value == 1:
        counted = counted.removesuffix("s")
    return " ".join([str(value), counted, *others])


def format_value(measurement: Measurement) -> str:
    """Return the value with its unit, in as many digits as it deserves."""
    value, unit = measurement.value, measurement.unit
    if unit == "bytes":
        return format_size(value)
    if unit == "%":
        return format_percent(value)
    if unit in COUNTED:
        return f"{value:,.0f} {unit}"
    return f"{value:,.{count_digits(value)}f} {unit}"


def format_percent(percent: float) -> str:
    """Return a share in percent; one that would be rounded to nothing, and is not, is "< 0.1 %"."""
    return LEAST_PERCENT if 0 < percent < 0.05 else f"{percent:.1f} %"


def count_digits(value: float) -> int:
    """Return how many decimals a number is shown with: about three digits in all."""
    if 0 < value < 0.01:
        return min(1 - math.floor(math.log10(value)), MOST_DIGITS)  # two that are not 0
    return 3 if value < 0.1 else 2 if value < 10 else 1 if value < 1000 else 0


def write_power(power: int) -> str:
    """Return a power of ten as a reader would write it: "0.01", "1000", "10⁶"."""
    if abs(power) <= MOST_ZEROS:
        return f"{10.0**power:g}"
    return f"10{str(power).translate(RAISED)}"


def format_size(size_bytes: float) -> str:
    """Return a size in bytes, KiB or MiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} bytes"
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes < 2**20 else f"{size_bytes / 2**20:.2f} MiB"


def describe_size(size: Measurement, baseline: Measurement) -> str:
    """Return how large a file is beside the baseline's."""
    larger, smaller = sorted((size.value, baseline.value), reverse=True)
    if larger == smaller:
        return "the same size"
    if larger / smaller < 1.0005:
        return "the same size to a few bytes"
    word = "smaller" if size.value < baseline.value else "larger"
    if larger / smaller < 1.05:
        return f"{100 * (larger / smaller - 1):.1g} % {word}"
    return f"{larger / smaller:.1f}× {word}"


def make_cards(
    point: Point, baseline: Point, titles: Mapping[str, str], counted: str = "images"
) -> list[Card]:
    """Return the readouts of a point beside those of the baseline.

    Args:
        point: Its gain and speed stand in the notes of accuracy and latency.
        baseline: What it is compared with.
        titles: Of cards, by metric, where it is not the metric's name.
        counted: What the accuracy is counted on.
    """
    cards = [
        Card(
            titles.get(metric, metric), format_value(found), _note(metric, point, baseline, counted)
        )
        for metric, found in point.metrics.items()
        if metric not in ("gain", "speed")
    ]
    if point.kernel:
        cards.append(Card("what ran", point.kernel, point.remark or point.runtime))
    return cards


def _note(metric: str, point: Point, baseline: Point, counted: str) -> str:
    """Return what stands below a metric: its spread, and how it is beside the baseline."""
    found, compared = point.metrics[metric], point.setting != baseline.setting
    notes = [found.note]
    if metric == "accuracy":
        notes = [f"± {found.high - found.value:.1f} on {found.count:,} {counted}"]
        if compared:
            error = point.gain.high - point.gain.value
            notes.append(f"{_signed(point.gain.value)} ± {error:.1f} points on the same {counted}")
    elif metric == "latency":
        digits = count_digits(found.value)
        notes = [
            f"half of {found.count} runs took {found.low:.{digits}f}–{found.high:.{digits}f} ms"
            + f", 95 % at most {found.p95:.{digits}f}" * (found.count >= 100)
        ]
        if compared and "speed" in point.metrics:
            notes.append(point.speed.describe_speed())
    elif metric == "size":
        same = "the others are compared with this one"
        notes = [describe_size(found, baseline.size) if compared else same]
    return "; ".join(filter(None, notes))


def _signed(number: float) -> str:
    return "±0.0" if abs(number) < 0.05 else f"{number:+.1f}".replace("-", "−")
