"""Check of the exercise in lesson 05 on the entropy of a softened answer."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.checks.distillation import Case
from course_utils.checks.outcome import Mistake, Outcome, judge, to_number
from course_utils.distill import measure_entropy, soften

ENTROPY_CASES = [
    Case((np.array([3.0, 1.0, 0.5, -1.0, -2.5], np.float32), 2.0)),
    *(Case((np.array([1.0, 4.0, 2.5, -0.5], np.float32), value)) for value in (0.5, 1.0, 20.0)),
    Case((np.zeros(10, np.float32), 4.0)),
    Case((np.array([0.0, -1.0, -4000.0], np.float32), 2.0)),  # a probability of 0, no overflow
    Case((np.array([4000.0, 3998.5, 3999.0], np.float32), 2.0)),  # an overflow, none of 0
]


def check_entropy(attempt: Callable[[Any, float], float]) -> Outcome:
    """Check a function that returns the entropy of softened answers in bits.

    Args:
        attempt: Takes the logits of one image, (classes,) float32 of NumPy, and a temperature.
    """
    return judge(
        "Entropy at a temperature",
        attempt,
        lambda logits, temperature: _measure(torch.from_numpy(logits).double(), temperature),
        ENTROPY_CASES,
        lambda given, right: _is_near(to_number(given), right),
        ENTROPY_MISTAKES,
        must_keep_arguments=True,
    )


def _is_number(given: Any) -> bool:
    return not math.isnan(to_number(given)) or isinstance(given, float | np.floating)


def _is_near(given: float, right: float) -> bool:
    return math.isclose(given, right, rel_tol=1e-4, abs_tol=1e-5)


def _measure(logits: Tensor, temperature: float) -> float:
    return float(measure_entropy(soften(logits, temperature)))


def _add_up(weights: Tensor) -> float:
    """Return the sum of an entropy for weights that need not be probabilities."""
    return -float((weights * weights.log2()).sum())


def _computes(*ways: Callable[[Tensor, float], float]) -> Callable[..., bool]:
    """Return the question whether the result is what one of these makes of logits and T."""
    return lambda given, right, logits, temperature: any(
        _is_near(to_number(given), way(torch.from_numpy(logits).double(), temperature))
        for way in ways
    )


ENTROPY_MISTAKES = [
    Mistake("no number", lambda given, *_: not _is_number(given),
            "It should return one number.", "What are the type and the shape of your result?"),
    Mistake("overflow",
            lambda given, right, z, *_: not math.isfinite(to_number(given)) and z.max() > 100,
            "Logits of size 1000 are too large for your softmax: it is infinite or no number.",
            "What can be taken from all logits without a change of their softmax?"),
    Mistake("logarithm of 0",
            lambda given, right, z, *_: not math.isfinite(to_number(given)) and z.min() < -100,
            "A probability that is rounded to 0 makes the whole entropy no number.",
            "What does a class add that never comes? What does NumPy make of 0 times -inf?"),
    Mistake("logarithm of logits", lambda given, *_: not math.isfinite(to_number(given)),
            "It is infinite or no number, though the logits are small.",
            "Logits may be below 0. Of what is the logarithm to be taken?"),
    Mistake("wrong sign", _computes(lambda z, t: -_measure(z, t)),
            "The entropy is negative.", "What sign has the logarithm of a probability?"),
    Mistake("other unit", _computes(*(lambda z, t, unit=unit: _measure(z, t) * math.log(2, unit)
                                      for unit in (math.e, 10))),
            "The entropy is not in bits.", "Two equal logits are a fair coin. What do you get?"),
    Mistake("share of the largest", _computes(lambda z, t: _measure(z, t) / math.log2(len(z))),
            "This is a share of the largest possible entropy.",
            "The task asks for bits. How many are in ten equal answers?"),
    Mistake("largest possible", _computes(lambda z, t: math.log2(len(z))),
            "This is the entropy of equal answers, whatever the logits are.",
            "Do the logits get into the sum at all?"),
    Mistake("no temperature", _computes(lambda z, t: _measure(z, 1)),
            "This is the entropy at temperature 1, whatever the temperature is.",
            "Where does `temperature` occur in your function?"),
    Mistake("multiplied", _computes(lambda z, t: _measure(z, 1 / t)),
            "The higher the temperature, the surer are your answers.",
            "Should softened logits be nearer to each other, or further apart?"),
    Mistake("behind the softmax",
            _computes(lambda z, t: _add_up(z.softmax(0) / t), lambda z, t: _measure(z, 1) / t,
                      lambda z, t: _measure(z, t) / t, lambda z, t: _measure(z, t) * t),
            "The temperature divides or multiplies probabilities, or the entropy itself.",
            "What does a temperature divide: what goes into a softmax, or what comes out?"),
    Mistake("sum is not 1", _computes(lambda z, t: _add_up((z / t).exp()),
                                      lambda z, t: _add_up(((z - z.max()) / t).exp()),
                                      lambda z, t: _add_up(z.softmax(0) ** (1 / t))),
            "The numbers that you take for probabilities do not add up to 1.",
            "Print their sum. What does a softmax do last?"),
]  # fmt: skip
