"""Checks of the exercises: one module a lesson."""

from course_utils.checks import quantization

__all__ = ["quantization"]
