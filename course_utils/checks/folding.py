"""Check of the exercise in lesson 03 on merging a batch norm into a convolution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.aware_training import are_close, to_floats
from course_utils.checks.outcome import Mistake, Outcome, judge

Pair = tuple[Tensor, Tensor]  # weight, bias


def check_folding(attempt: Callable[..., Pair]) -> Outcome:
    """Check a function that merges a batch norm into the convolution before it.

    Args:
        attempt: Takes weight (channels out, channels in, rows, columns), bias, mean, variance,
            gamma and beta, each (channels out,), and eps; returns the new weight and bias.
    """
    return judge("Fold a batch norm", attempt, _fold, CASES, _is_right, FOLDING_MISTAKES)


def _make_case(shape: tuple[int, ...], eps: float, *vectors: list[float]) -> tuple[Any, ...]:
    weight = torch.linspace(-1, 0.8, torch.Size(shape).numel()).reshape(shape)
    return (weight, *map(torch.tensor, vectors), eps)


CASES = [  # eps; then bias, mean, variance, gamma and beta
    _make_case(  # all axes have the same length, so that nothing fails for its shape
        (3, 3, 3, 3), 0.01,
        [0.3, -0.6, 1.1], [0.5, 0.9, -0.4], [0.04, 0.5, 2.0], [0.8, 1.5, 0.4], [0.25, -0.7, 0.1],
    ),
    _make_case(
        (2, 3, 3, 1), 1e-3, [0.2, 0.5], [-0.3, 0.6], [0.3, 1.2], [-0.9, 1.3], [0.4, 0.0]
    ),
    _make_case(  # a convolution without bias; a channel that never varies, and one switched off
        (3, 1, 2, 2), 1e-5,
        [0.0, 0.0, 0.0], [0.2, 0.1, 0.4], [0.0, 1e-4, 0.5], [0.6, -0.5, 0.0], [-0.1, 0.2, 0.3],
    ),
]  # fmt: skip


@dataclass(frozen=True)
class _Layers:
    """The arguments: a convolution, and the batch norm behind it."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    gamma: Tensor
    beta: Tensor
    eps: float

    @cached_property
    def deviation(self) -> Tensor:
        return torch.sqrt(self.variance + self.eps)

    @cached_property
    def factor(self) -> Tensor:
        return self.gamma / self.deviation


Compute = Callable[[_Layers], Tensor]

WRONG_FACTORS: dict[str, list[Compute]] = {
    "eps forgotten": [lambda it: it.gamma / it.variance.sqrt()],
    "eps outside the root": [lambda it: it.gamma / (it.variance.sqrt() + it.eps)],
    "variance without root": [
        lambda it: it.gamma / (it.variance + it.eps),
        lambda it: it.gamma / it.variance,
    ],
    "factor upside down": [
        lambda it: it.gamma * it.deviation,
        lambda it: it.deviation / it.gamma,
    ],
    "gamma forgotten": [lambda it: 1 / it.deviation],
    "gamma alone": [lambda it: it.gamma],
    "beta for gamma": [lambda it: it.beta / it.deviation],
    "sign of gamma": [lambda it: it.factor.abs()],
}


def _fold(*case: Any) -> Pair:
    it = _Layers(*case)
    return it.weight * _to_channels(it.factor), (it.bias - it.mean) * it.factor + it.beta


def _to_channels(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]


def _is_right(given: Any, right: Pair) -> bool:
    return len(given) == 2 and are_close(given[0], right[0]) and are_close(given[1], right[1])


def _has_factor(name: str) -> Callable[..., bool]:
    """Return the question whether the weight has been scaled by a wrong factor."""
    return lambda given, right, *case: (
        not are_close(given[0], right[0])
        and any(
            are_close(given[0], case[0] * _to_channels(compute(_Layers(*case))))
            for compute in WRONG_FACTORS[name]
        )
    )


def _has_bias(*computed: Compute) -> Callable[..., bool]:
    """Return the question whether the bias is what one of these computes."""
    return lambda given, right, *case: any(
        are_close(given[1], compute(_Layers(*case))) for compute in computed
    )


def _has_bias_of_another_factor(given: Any, right: Pair, *case: Any) -> bool:
    it = _Layers(*case)
    factors = [compute(it) for computed in WRONG_FACTORS.values() for compute in computed]
    return any(are_close(given[1], (it.bias - it.mean) * factor + it.beta) for factor in factors)


FOLDING_MISTAKES = [
    Mistake(
        "no pair",
        lambda given, right, *case: not isinstance(given, tuple | list) or len(given) != 2,
        "It should return two things: the weight and the bias of the one convolution.",
        "`return weight, bias`",
    ),
    Mistake(
        "order of the results",
        lambda given, right, *case: _is_right((given[1], given[0]), right),
        "Both are right, but the bias comes first.",
        "`return weight, bias`, in this order.",
    ),
    Mistake(
        "wrong shape",
        lambda given, right, *case: any(
            to_floats(mine).shape != theirs.shape for mine, theirs in zip(given, right, strict=True)
        ),
        "The weight should keep its four axes, and the bias its one: (channels out,).",
        "Print both shapes. A factor shaped for the weight is no factor for the bias.",
    ),
    Mistake(
        "another axis",
        lambda given, right, *case: any(
            are_close(given[0], case[0] * _Layers(*case).factor.reshape(shape))
            for shape in [(1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1)]
            if case[0].shape[shape.index(-1)] == len(case[1])
        ),
        "The factor is right, but it scales input channels, rows or columns.",
        "Broadcasting lines up the last axes. Which axis of the weight counts the outputs?",
    ),
    Mistake(
        "weight unchanged",
        lambda given, right, *case: are_close(given[0], case[0]),
        "The weight is still the old one.",
        "The norm multiplies what the convolution returns. Where can that be done beforehand?",
    ),
    Mistake(
        "eps forgotten",
        _has_factor("eps forgotten"),
        "The weight is scaled as if eps were 0.",
        "Where does eps stand in the batch norm? A channel that never varies has the variance 0.",
    ),
    Mistake(
        "eps outside the root",
        _has_factor("eps outside the root"),
        "eps is added to the root.",
        "Which comes first in the batch norm, adding eps or taking the root?",
    ),
    Mistake(
        "variance without root",
        _has_factor("variance without root"),
        "You divide by the variance.",
        "In what unit is a variance, and in what unit are the values that are divided?",
    ),
    Mistake(
        "factor upside down",
        _has_factor("factor upside down"),
        "Your factor is upside down, or a part of it.",
        "A channel that varies much: does the norm make its numbers smaller or larger?",
    ),
    Mistake(
        "gamma forgotten",
        _has_factor("gamma forgotten"),
        "The weight is normalised, but the norm's own factor is missing.",
        "gamma and beta were learned in training: where did you use them?",
    ),
    Mistake(
        "gamma alone",
        _has_factor("gamma alone"),
        "The weight is scaled by gamma alone.",
        "What else multiplies or divides the convolution's output?",
    ),
    Mistake(
        "beta for gamma",
        _has_factor("beta for gamma"),
        "You have exchanged gamma and beta.",
        "Which of the two does the norm multiply by?",
    ),
    Mistake(
        "sign of gamma",
        _has_factor("sign of gamma"),
        "Where gamma is negative, your weights have the wrong sign.",
        "Training may well make a gamma negative. Do you take a square and a root, or `abs`?",
    ),
    Mistake(
        "wrong weight",
        lambda given, right, *case: not are_close(given[0], right[0]),
        "The weight is not the right one.",
        "Leave out mean, beta and the biases at first: what is left of the formula?",
    ),
    Mistake(
        "bias unchanged",
        _has_bias(lambda it: it.bias),
        "The weight is right; the bias is still the old one.",
        "Put an image of zeros through both layers: what comes out?",
    ),
    Mistake(
        "old bias forgotten",
        _has_bias(lambda it: it.beta - it.mean * it.factor),
        "The weight is right; in the bias the convolution's own one is missing.",
        "Many convolutions before a norm have none; this one has.",
    ),
    Mistake(
        "old bias not scaled",
        _has_bias(lambda it: it.bias - it.mean * it.factor + it.beta),
        "The weight is right; the convolution's own bias is added as it was.",
        "It is part of conv(x). What does the norm do with all of conv(x)?",
    ),
    Mistake(
        "mean forgotten",
        _has_bias(lambda it: it.bias * it.factor + it.beta),
        "The weight is right; in the bias the mean is missing.",
        "The norm subtracts something before it divides.",
    ),
    Mistake(
        "mean added",
        _has_bias(lambda it: (it.bias + it.mean) * it.factor + it.beta),
        "The weight is right; in the bias the mean has the wrong sign.",
        "Is the mean added or subtracted?",
    ),
    Mistake(
        "mean not scaled",
        _has_bias(
            lambda it: it.bias * it.factor - it.mean + it.beta,
            lambda it: it.bias - it.mean + it.beta,
        ),
        "The weight is right; in the bias the mean is not scaled.",
        "Multiply the formula out, bracket by bracket.",
    ),
    Mistake(
        "beta forgotten",
        _has_bias(lambda it: (it.bias - it.mean) * it.factor),
        "The weight is right; in the bias beta is missing.",
        "Which term of the formula has nothing to do with conv(x) or the mean?",
    ),
    Mistake(
        "beta scaled",
        _has_bias(lambda it: (it.bias - it.mean + it.beta) * it.factor),
        "The weight is right; in the bias beta is scaled too.",
        "What comes last in the norm?",
    ),
    Mistake(
        "another factor",
        _has_bias_of_another_factor,
        "The weight is right; the bias is scaled by another factor than the weight.",
        "Compute the factor once, and use it twice.",
    ),
    Mistake(
        "wrong bias",
        lambda given, right, *case: True,
        "The weight is right, the bias is not.",
        "Go through one output channel by hand: conv(x) at an image of zeros, then the norm.",
    ),
]
