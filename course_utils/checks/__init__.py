"""Checks of the exercises: a module for each subject."""

from course_utils.checks import (
    aware_training,
    benchmarks,
    calibration,
    channels,
    deadline,
    distillation,
    entropy,
    folding,
    latency,
    pruning,
    quantization,
    student,
    technique,
    widths,
)

__all__ = [
    "aware_training",
    "benchmarks",
    "calibration",
    "channels",
    "deadline",
    "distillation",
    "entropy",
    "folding",
    "latency",
    "pruning",
    "quantization",
    "student",
    "technique",
    "widths",
]
