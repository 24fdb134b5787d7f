"""Checks of the exercises: a module for each subject."""

from course_utils.checks import benchmarks, calibration, deadline, latency, quantization

__all__ = ["benchmarks", "calibration", "deadline", "latency", "quantization"]
