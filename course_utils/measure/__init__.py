"""Measure a runner: is it right, how long does it take, what does it hold in memory?

Every number carries its spread and where it comes from.
"""

from course_utils.measure.accuracy import (
    compare_accuracy,
    compare_seeds,
    find_right,
    measure_accuracy,
    summarize_accuracy,
    summarize_seeds,
)
from course_utils.measure.agreement import Agreement, compare_answers
from course_utils.measure.fresh_process import run_stages
from course_utils.measure.latency import (
    Comparison,
    compare,
    compare_speed,
    summarize_latency,
)
from course_utils.measure.loading import Loading, measure_loading
from course_utils.measure.measurement import (
    Measurement,
    Provenance,
    computed,
    measured_now,
)
from course_utils.measure.memory import (
    count_inference_bytes,
    count_training_bytes,
    measure_memory,
)
from course_utils.measure.neighbours import noisy_neighbours
from course_utils.measure.on_device import (
    compare_on_device,
    count_launches,
    measure_copies,
    measure_launches,
    measure_peak,
    wait_for,
)

__all__ = [
    "Agreement", "Comparison", "Loading", "Measurement", "Provenance", "compare",
    "compare_accuracy", "compare_answers", "compare_on_device", "compare_seeds", "compare_speed",
    "computed", "count_inference_bytes", "count_launches", "count_training_bytes", "find_right",
    "measure_accuracy", "measure_copies", "measure_launches", "measure_loading", "measure_memory",
    "measure_peak", "measured_now", "noisy_neighbours", "run_stages", "summarize_accuracy",
    "summarize_latency", "summarize_seeds", "wait_for",
]  # fmt: skip
