"""Turn knobs over their values, measure or compute at each setting, keep what was measured."""

from course_utils.sweep.batches import add_calls, find_knee, measure_batches
from course_utils.sweep.bounds import compute_bounds
from course_utils.sweep.classifier import measure
from course_utils.sweep.computed import compute
from course_utils.sweep.experiment import Experiment, Finding, Point
from course_utils.sweep.gradients import measure_gradients
from course_utils.sweep.loads import measure_loads
from course_utils.sweep.seeds import measure_seeds
from course_utils.sweep.sweep import Sweep, run

__all__ = [
    "Experiment", "Finding", "Point", "Sweep", "add_calls", "compute", "compute_bounds",
    "find_knee", "measure", "measure_batches", "measure_gradients", "measure_loads",
    "measure_seeds", "run",
]  # fmt: skip
