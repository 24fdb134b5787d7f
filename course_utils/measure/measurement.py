"""A number with its unit, its spread and where it comes from."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from course_utils import machine


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from.

    Attributes:
        kind: How it came about.
        source: The machine if measured or recorded, the formula if computed, else the work cited.
        when: Date and time in ISO format, where it applies.
        note: Under which circumstances, e.g. how busy other programs kept the machine.
    """

    kind: Literal["measured", "recorded", "computed", "cited"]
    source: str
    when: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: " + ", ".join(filter(None, (self.source, self.when, self.note)))


@dataclass(frozen=True)
class Measurement:
    """A number with its unit, its spread and its origin.

    Attributes:
        value: The number; for a latency the median.
        unit: "%", "ms", "bytes", "points" of accuracy gained, "×" as fast, "images/s", ...
        low: Lower end of the spread: first quartile of a latency, one standard error below an
            accuracy or a gain, lower end of the 99 % interval of a speed.
        high: Upper end of the spread, likewise.
        count: How many images, timings or rounds it rests on.
        provenance: Where it comes from.
        fastest: Shortest of the timings, what the kernel can do; NaN if there are none.
        p95: 95th percentile of the timings; NaN if there are none.
        p99: 99th percentile of the timings; NaN if there are none.
        note: What a reader should know beside the number; may be empty.
    """

    value: float
    unit: str
    low: float
    high: float
    count: int
    provenance: Provenance
    fastest: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    note: str = ""

    def describe_speed(self) -> str:
        """Return a ratio of speeds in words; "no difference found" if 1 is in its interval."""
        if math.isinf(self.high):
            return f"too few rounds ({self.count}) to tell a difference in speed"
        if self.low <= 1 <= self.high:
            return "no difference found in speed"
        return f"{self.value:.2f}× as fast ({self.low:.2f}–{self.high:.2f})"


def measured_now(note: str = "") -> Provenance:
    """Return the provenance of what is measured on this machine at this minute."""
    when = f"{datetime.now():%Y-%m-%d %H:%M}"
    return Provenance("measured", str(machine.describe()), when, note)


def computed(value: float, unit: str, formula: str, note: str = "") -> Measurement:
    """Return a number that a formula gave, without a spread.

    Args:
        value: The number.
        unit: Its unit.
        formula: How it came about; readers see it.
        note: What a reader should know beside the number.
    """
    return Measurement(value, unit, value, value, 1, Provenance("computed", formula), note=note)
