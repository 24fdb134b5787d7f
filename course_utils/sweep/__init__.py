"""Turn knobs over their values, measure at each setting, keep what was measured."""

from course_utils.sweep.classifier import measure
from course_utils.sweep.experiment import Experiment, Finding, Point
from course_utils.sweep.sweep import Sweep, run

__all__ = ["Experiment", "Finding", "Point", "Sweep", "measure", "run"]
