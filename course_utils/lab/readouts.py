"""What a panel says about a point, in words: made here once, shown by the page as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a panel only shows: it needs the types of what was measured, not torch
    from course_utils.measure import Measurement
    from course_utils.sweep import Point


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


def describe_speed(speed: Measurement) -> str:
    """Return how fast a point is beside the baseline; "no difference" if 1 is in its interval."""
    if speed.low <= 1 <= speed.high:
        return "no difference found in speed"
    return f"{speed.value:.2f}× as fast ({speed.low:.2f}–{speed.high:.2f})"


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


def make_cards(point: Point, baseline: Point) -> list[Card]:
    """Return the readouts of a point beside those of the baseline."""
    accuracy, latency, gain = point.accuracy, point.latency, point.gain
    digits = latency_digits(latency.value)
    images = f"± {accuracy.high - accuracy.value:.1f} on {accuracy.count:,} images"
    runs = (
        f"half of {latency.count} runs took {latency.low:.{digits}f}–{latency.high:.{digits}f} ms,"
        f" 95 % at most {latency.p95:.{digits}f}"
    )
    size = "the others are compared with this one"
    if point.setting != baseline.setting:
        images += (
            f"; {_signed(gain.value)} ± {gain.high - gain.value:.1f} points on the same images"
        )
        runs += f"; {describe_speed(point.speed)}"
        size = describe_size(point.size, baseline.size)
    return [
        Card("accuracy", format_value(accuracy), images),
        Card("latency of one image", format_value(latency), runs),
        Card("size of what ships", format_value(point.size), size),
        Card("what ran", point.kernel, point.remark or point.runtime),
    ]


def _signed(number: float) -> str:
    return "±0.0" if abs(number) < 0.05 else f"{number:+.1f}".replace("-", "−")
