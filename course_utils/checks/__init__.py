"""Checks of the exercises: a module for each subject."""

from course_utils.checks import calibration, quantization

__all__ = ["calibration", "quantization"]
