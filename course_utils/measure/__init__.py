"""Measure a runner: is it right, how long does it take, what does it hold in memory?

Every number carries its spread and where it comes from.
"""

from course_utils.measure.accuracy import (
    compare_accuracy,
    find_right,
    measure_accuracy,
    summarize_accuracy,
)
from course_utils.measure.latency import (
    Comparison,
    compare,
    compare_speed,
    summarize_latency,
)
from course_utils.measure.measurement import Measurement, Provenance, measured_now

__all__ = [
    "Comparison", "Measurement", "Provenance", "compare", "compare_accuracy", "compare_speed",
    "find_right", "measure_accuracy", "measured_now", "summarize_accuracy",
    "summarize_latency",
]  # fmt: skip
