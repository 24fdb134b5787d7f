"""Checks of the exercise on ranges of activations in lesson 02."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.outcome import Mistake, Outcome, judge


def check_upper_end(attempt: Callable[[Tensor, int], float]) -> Outcome:
    """Check a function that finds the upper end of a range with the least squared error.

    Args:
        attempt: Takes non-negative float32 values and a width in bits; returns one of the 100
            upper ends 1 %, 2 %, ... of the largest value.
    """
    cases = [
        (10 * torch.linspace(0, 1, 1001) ** 6, 3),
        (torch.cat([torch.linspace(0, 1, 500), torch.tensor([20.0])]), 4),
        (torch.linspace(0, 3, 300), 8),
    ]
    return judge("The best range", attempt, _upper_end, cases, _same_end, END_MISTAKES)


def _upper_end(values: Tensor, bits: int) -> float:
    return _search(values, 2**bits - 1, torch.square)


def _search(values: Tensor, largest_integer: int, penalty: Callable[[Tensor], Tensor]) -> float:
    """Return the upper end with the least mean penalty of what rounding and clipping change."""
    ends = (float(values.max()) * k / 100 for k in range(1, 101))
    return min(ends, key=lambda high: float(penalty(_lost(values, high, largest_integer)).mean()))


def _lost(values: Tensor, high: float, largest_integer: int) -> Tensor:
    """Return how far each value is moved by rounding it to steps up to an upper end."""
    step = high / largest_integer
    return (values / step).round().clamp(0, largest_integer) * step - values


def _same_end(given: Any, right: float) -> bool:
    return math.isclose(float(given), right, rel_tol=1e-3)


END_MISTAKES = [
    Mistake(
        "no range",
        lambda given, right, x, bits: not float(given) > 0,
        "This is no upper end: a range of no width has no steps.",
        "Begin with 1 %, not with 0 %: an error that is no number is never the least.",
    ),
    Mistake(
        "the largest is missing",
        lambda given, right, x, bits: (
            math.isclose(right, float(x.max()), rel_tol=1e-3)
            and math.isclose(float(given), 0.99 * right, rel_tol=1e-3)
        ),
        "You try the upper ends up to 99 % of the largest value.",
        "`range(1, 100)` ends at 99.",
    ),
    Mistake(
        "min-max",
        lambda given, right, x, bits: math.isclose(float(given), float(x.max()), rel_tol=1e-3),
        "This is the largest value: nothing is clipped, whatever that costs in step size.",
        "Does the number of steps depend on `bits`, and do the errors contain the rounding?",
    ),
    Mistake(
        "not clipped",
        lambda given, right, x, bits: math.isclose(
            float(given), float(x.max()) / 100, rel_tol=1e-3
        ),
        "This is the smallest of the 100 ranges: nearly all values lie outside of it.",
        "Do you clip to 0 … 2**bits - 1, square the differences, and return the *least* error's?",
    ),
    Mistake(
        "a share",
        lambda given, right, x, bits: (
            any(
                math.isclose(float(given), right / float(x.max()) * unit, rel_tol=1e-3)
                for unit in (1, 100)
            )
            or math.isclose(float(given), right / float(x.max()) * 100 - 1, rel_tol=1e-3)
        ),
        "You found the right one, but this is its share or its place, not the upper end.",
        "Return the share times the largest value.",
    ),
    Mistake(
        "an error",
        lambda given, right, x, bits: math.isclose(
            float(given), float(_lost(x, right, 2**bits - 1).square().mean()), rel_tol=1e-3
        ),
        "This is the least error itself.",
        "Return the upper end that it belongs to.",
    ),
    Mistake(
        "absolute error",
        lambda given, right, x, bits: math.isclose(
            float(given), _search(x, 2**bits - 1, torch.abs), rel_tol=1e-3
        ),
        "This is the range with the least absolute error.",
        "Square the differences before you take their mean.",
    ),
    Mistake(
        "wrong number of steps",
        lambda given, right, x, bits: any(
            math.isclose(float(given), _search(x, steps, torch.square), rel_tol=1e-3)
            for steps in (2**bits, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 2)
        ),
        "The search is right, but with another number of steps.",
        "From the integer 0 to the integer 2**bits - 1: how many steps?",
    ),
]
