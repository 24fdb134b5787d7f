"""Check of the exercise in lesson 03 on the gradient of rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.outcome import Mistake, Outcome, judge


def to_floats(given: Any) -> Tensor:
    """Return what a learner's function returned as a tensor; an empty one for what is none."""
    try:
        return torch.as_tensor(given).detach().float()
    except (TypeError, ValueError, RuntimeError):
        return torch.empty(0)


def are_close(given: Any, right: Tensor) -> bool:
    """Return whether a learner's numbers are the right ones, in the right shape."""
    given = to_floats(given)
    return given.shape == right.shape and torch.allclose(given, right, rtol=1e-4, atol=1e-6)


def check_gradient(attempt: Callable[[Tensor, float, int, int, Tensor], Tensor]) -> Outcome:
    """Check a function that returns the straight-through gradient of a rounded tensor.

    Args:
        attempt: Takes x, the step, the smallest and the largest integer, and the gradient of the
            loss by the rounded values (shape of x); returns that by x.
    """
    values = torch.tensor(
        [-7.5, -2.75, -1.9, -1.2, -0.3, 0.075, 0.55, 1.275, 1.675, 2.25, 3.0, 7.75]
    )
    gradient = torch.tensor([0.5, -1.5, 2.0, -0.3, 0.8, -12.0, 0.1, 1.2, -0.7, 0.4, 9.0, -2.5])
    cases = [
        (values, 0.25, -8, 7, gradient),  # neither at an edge nor within half a step of one
        (torch.tensor([-0.45, -0.37, -0.33, -0.12, 0.26, 0.34, 0.37]), 0.1, -3, 3, gradient[:7]),
        (torch.tensor([[-2.0, -0.6, 0.0], [0.7, 1.5, 1.6]]), 0.5, 0, 3, gradient[:6].view(2, 3)),
        (torch.tensor([-0.5, -0.3, 0.25, 0.9]), 0.25, -2, 1, gradient[:4]),
    ]
    return judge(
        "The straight-through gradient", attempt, _gradient, cases, are_close, GRADIENT_MISTAKES
    )


def _gradient(x: Tensor, step: float, low: int, high: int, gradient: Tensor) -> Tensor:
    return gradient * _inside(x / step, low, high)


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    return (x >= low) & (x <= high)


def _is(*computed: Callable[[Tensor, float, int, int, Tensor], Tensor]) -> Callable[..., bool]:
    """Return the question whether the result is what one of these computes from the arguments."""
    return lambda given, right, *case: any(are_close(given, compute(*case)) for compute in computed)


def _cuts(*masks: Callable[[Tensor, int, int], Tensor]) -> Callable[..., bool]:
    """Return the question whether the gradient passes where one of these, of x / step, holds."""
    return lambda given, right, x, step, low, high, gradient: any(
        are_close(given, gradient * mask(x / step, low, high)) for mask in masks
    )


GRADIENT_MISTAKES = [
    Mistake(
        "wrong shape",
        lambda given, right, *case: to_floats(given).shape != right.shape,
        "The result does not have the shape of x: every value of x has a gradient.",
        "What is the gradient of a value where nothing passes? It is not left out.",
    ),
    Mistake(
        "true derivative",
        _is(lambda x, step, low, high, gradient: torch.zeros_like(x)),
        "All gradients are 0: the true derivative of rounding, from which nothing can learn.",
        "What would the derivative be if `round` were not there?",
    ),
    Mistake(
        "rounded values",
        _is(
            lambda x, step, low, high, gradient: (x / step).round().clamp(low, high) * step,
            lambda x, step, low, high, gradient: (x / step).round().clamp(low, high),
        ),
        "These are the rounded values: the way forward, not the way back.",
        "The result is made of the numbers in `gradient`.",
    ),
    Mistake(
        "gradient forgotten",
        _is(
            lambda x, step, low, high, gradient: _inside(x / step, low, high).float(),
            lambda x, step, low, high, gradient: x * _inside(x / step, low, high),
        ),
        "You know where it passes, but what passes is not `gradient`.",
        "The chain rule: the derivative of y by x, times the derivative of the loss by y.",
    ),
    Mistake(
        "no cut-off",
        _is(lambda x, step, low, high, gradient: gradient),
        "The gradient passes everywhere.",
        "What happens to y when an x far beyond the largest integer grows? Look at x, not at y.",
    ),
    Mistake(
        "gradient cut off",
        _is(
            lambda x, step, low, high, gradient: gradient.clamp(low, high),
            lambda x, step, low, high, gradient: gradient.clamp(low * step, high * step),
            lambda x, step, low, high, gradient: gradient * _inside(gradient, low, high),
        ),
        "You compare the gradient with the limits.",
        "The limits are those of an integer. What was rounded to it?",
    ),
    Mistake(
        "inverted",
        _cuts(lambda steps, low, high: ~_inside(steps, low, high)),
        "The gradient passes where the values are cut off, and nowhere else.",
        "Where does y move with x: between the limits or beyond them?",
    ),
    Mistake(
        "x instead of steps",
        _is(lambda x, step, low, high, gradient: gradient * _inside(x, low, high)),
        "You compare x itself with the limits.",
        "`low` and `high` are integers. In what unit do they count?",
    ),
    Mistake(
        "one side",
        _cuts(lambda steps, low, high: steps <= high, lambda steps, low, high: steps >= low),
        "The gradient is cut off on one side only.",
        "Rounded values have a smallest one and a largest one.",
    ),
    Mistake(
        "symmetric limits",
        _cuts(
            lambda steps, low, high: steps.abs() <= high,
            lambda steps, low, high: steps.abs() < high,
            lambda steps, low, high: steps.abs() <= -low,
        ),
        "You cut off at the same distance from 0 on both sides.",
        "Absolute values forget that `low` need not be `-high`.",
    ),
    Mistake(
        "step in the gradient",
        _is(
            *(
                lambda x, step, low, high, gradient, power=power, cuts=cuts: (
                    gradient * step**power * (_inside(x / step, low, high) if cuts else 1)
                )
                for power in (1, -1)
                for cuts in (True, False)
            )
        ),
        "The gradients are multiplied or divided by the step.",
        "y = step · (x / step), if `round` is left out: how often does the step occur?",
    ),
    Mistake(
        "rounded first",
        _cuts(lambda steps, low, high: _inside(steps.round(), low, high)),
        "Values up to half a step beyond the limits still pass: you compare the rounded ones.",
        "PyTorch's own `fake_quantize` does so too. The task compares something else.",
    ),
    Mistake(
        "open limits",
        _cuts(
            lambda steps, low, high: (steps > low) & (steps < high),
            lambda steps, low, high: (steps >= low) & (steps < high),
            lambda steps, low, high: (steps > low) & (steps <= high),
        ),
        "A value exactly on a limit gets no gradient; after a ReLU, that is every 0.",
        "`<` or `<=`?",
    ),
]
