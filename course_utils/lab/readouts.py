"""What a panel says about a point, in words: made here once, shown by the page as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a panel only shows: it needs the types of what was measured, not torch
    from course_utils.measure import Measurement
    from course_utils.sweep import Point

SAME_WITHIN = 0.05


class Card(NamedTuple):
    """One readout: its name, its value, and what stands below the value."""

    title: str
    value: str
    note: str


def describe_setting(setting: dict[str, object]) -> str:
    """Return a setting as a reader would say it: "4 bits, per channel"."""
    return ", ".join(
        value if isinstance(value, str) else f"{value} {knob}" for knob, value in setting.items()
    )


def format_value(measurement: Measurement) -> str:
    """Return the value with its unit, in as many digits as it deserves."""
    if measurement.unit == "bytes":
        return format_size(measurement.value)
    if measurement.unit == "%":
        return f"{measurement.value:.1f} %"
    return f"{measurement.value:.{latency_digits(measurement.value)}f} ms"


def latency_digits(milliseconds: float) -> int:
    """Return how many decimals a latency is shown with."""
    return 3 if milliseconds < 0.1 else 2 if milliseconds < 10 else 1


def format_size(size_bytes: float) -> str:
    """Return a size in bytes, KiB or MiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} bytes"
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes < 2**20 else f"{size_bytes / 2**20:.2f} MiB"


def compare_speed(point: Point, baseline: Point) -> str:
    """Return how much faster a point is, by the ratio of the fastest runs of both."""
    ratio = baseline.latency.fastest / point.latency.fastest
    if abs(ratio - 1) < SAME_WITHIN:
        return "no faster, no slower"
    return f"{ratio:.1f}× the speed" if ratio > 1 else f"{ratio:.2f}× the speed"


def make_cards(point: Point, baseline: Point) -> list[Card]:
    """Return the readouts of a point beside those of the baseline."""
    against = describe_setting(baseline.setting)
    is_baseline = point.setting == baseline.setting
    gained = point.accuracy.value - baseline.accuracy.value
    error = (point.accuracy.high - point.accuracy.low) / 2
    digits = latency_digits(point.latency.value)
    spread = f"{point.latency.low:.{digits}f}–{point.latency.high:.{digits}f}"
    shrunk = baseline.size.value / point.size.value
    return [
        Card(
            "accuracy",
            format_value(point.accuracy),
            f"± {error:.1f} on {point.accuracy.count:,} images"
            + ("" if is_baseline else f"; {_signed(gained)} points"),
        ),
        Card(
            "latency, one image",
            format_value(point.latency),
            f"half of {point.latency.count} runs in {spread}, p95 {point.latency.p95:.{digits}f}"
            + ("" if is_baseline else f"; {compare_speed(point, baseline)}"),
        ),
        Card(
            "size of what ships",
            format_value(point.size),
            "compared with " + against
            if is_baseline
            else f"{shrunk:.1f}× smaller"
            if shrunk >= 1
            else f"{1 / shrunk:.1f}× larger",
        ),
        Card("what ran", point.kernel, point.remark or point.runtime),
    ]


def _signed(number: float) -> str:
    return "±0.0" if abs(number) < 0.05 else f"{number:+.1f}".replace("-", "−")
