"""Checks of the exercises in lesson 02."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils import quantize
from course_utils.checks.outcome import Mistake, Outcome, judge

Affine = tuple[Tensor, Tensor, Tensor]  # integers, scale, zero point


def check_affine(attempt: Callable[[Tensor, int], Affine]) -> Outcome:
    """Check a function that quantizes a tensor to ``[0, 2**bits - 1]`` with a zero point.

    Args:
        attempt: Takes a float32 tensor and a width in bits; returns integers, scale, zero point.
    """
    cases = [  # no value falls half-way between two integers: any way of rounding will do
        (torch.tensor([-1.0, 0.0, 0.45, 2.0]), 4),
        (torch.tensor([-0.3, -0.1, 0.0, 0.11, 0.27, 0.5]), 8),
        (torch.tensor([0.5, 0.75, 1.1, 2.0]), 3),  # the range has to be widened to hold 0
        (torch.tensor([-4.0, -1.0, -0.2]), 5),
        (torch.linspace(-1, 3, 40), 2),
    ]
    return judge("Affine quantization", attempt, _affine, cases, _is_right, AFFINE_MISTAKES)


def _affine(tensor: Tensor, bits: int) -> Affine:
    right = quantize.quantize_affine(tensor, bits)
    return right.integers, right.scale, right.zero_point


def _is_right(given: Any, right: Affine) -> bool:
    return len(given) == 3 and all(
        torch.allclose(torch.as_tensor(mine).float(), theirs.float(), rtol=1e-4)
        for mine, theirs in zip(given, right, strict=True)
    )


def _scale_is(given: Any, scale: Tensor) -> bool:
    if torch.as_tensor(given[1]).numel() != 1:
        return False
    return torch.isclose(torch.as_tensor(given[1]).float(), scale, rtol=1e-4).item() is True


def _is_whole(number: Any) -> bool:
    tensor = torch.as_tensor(number)
    return bool((tensor == tensor.round()).all())


def _range(x: Tensor) -> Tensor:
    return x.max().clamp(min=0) - x.min().clamp(max=0)


AFFINE_MISTAKES = [
    Mistake(
        "wrong number of results",
        lambda given, right, x, bits: not isinstance(given, tuple | list) or len(given) != 3,
        "It should return three things: the integers, the scale and the zero point.",
        "`return integers, scale, zero_point`",
    ),
    Mistake(
        "order of the results",
        lambda given, right, x, bits: (
            _scale_is((None, given[2]), right[1]) or _scale_is((None, given[0]), right[1])
        ),
        "The scale is right, but it is not the second thing that you return.",
        "`return integers, scale, zero_point`, in this order.",
    ),
    Mistake(
        "range from zero",
        lambda given, right, x, bits: (
            bool(x.min() < 0) and _scale_is(given, x.max().clamp(min=0) / (2**bits - 1))
        ),
        "Your range begins at 0, but there are negative values.",
        "The lower end is the smallest value, or 0 if all values are above 0.",
    ),
    Mistake(
        "symmetric",
        lambda given, right, x, bits: _scale_is(given, x.abs().max() / (2 ** (bits - 1) - 1)),
        "This is symmetric quantization: many of the integers stand for values that do not occur.",
        "Stretch the integers from the smallest to the largest value, not to ±max|x|.",
    ),
    Mistake(
        "one level too many",
        lambda given, right, x, bits: _scale_is(given, _range(x) / 2**bits),
        "The scale is a little too small: the largest value needs an integer that does not exist.",
        "From 0 to 2**bits - 1: how many steps lie between the first and the last integer?",
    ),
    Mistake(
        "range without zero",
        lambda given, right, x, bits: (
            not _scale_is(given, right[1]) and _scale_is(given, (x.max() - x.min()) / (2**bits - 1))
        ),
        "When all values are on one side of 0, no integer of yours stands for 0.",
        "Before you compute the scale, widen the range: min(x.min(), 0) to max(x.max(), 0).",
    ),
    Mistake(
        "wrong scale",
        lambda given, right, x, bits: not _scale_is(given, right[1]),
        "The scale is not the size of one step.",
        "Divide the width of the range, zero included, by the number of steps.",
    ),
    Mistake(
        "zero point not whole",
        lambda given, right, x, bits: not _is_whole(given[2]),
        "The zero point is not a whole number, so 0 is not represented exactly.",
        "Round it: an activation that ReLU set to 0 must stay 0.",
    ),
    Mistake(
        "wrong zero point",
        lambda given, right, x, bits: float(given[2]) != float(right[2]),
        "The zero point is not the integer that stands for 0.",
        "The smallest value of the range gets the integer 0. How many steps above it is 0.0?",
    ),
    Mistake(
        "integers not whole",
        lambda given, right, x, bits: not _is_whole(given[0]),
        "The first result holds fractions; it should hold the integers themselves.",
        "Round after you divide by the scale. Return the integers, not the restored values.",
    ),
    Mistake(
        "integers without zero point",
        lambda given, right, x, bits: torch.equal(given[0].int() + right[2], right[0]),
        "The integers lie around 0; they should lie in 0 … 2**bits - 1.",
        "Add the zero point to the rounded values.",
    ),
    Mistake(
        "range shifted",
        lambda given, right, x, bits: torch.equal(
            given[0].float(), torch.round((x - x.min().clamp(max=0)) / right[1])
        ),
        "0.0 does not get the integer that you return as the zero point.",
        "Round x / scale first and add the zero point then: both are whole numbers.",
    ),
    Mistake(
        "cut off instead of rounded",
        lambda given, right, x, bits: any(
            torch.equal(given[0].float(), cut.clamp(0, 2**bits - 1))
            for cut in (
                torch.trunc(x / right[1]) + right[2],
                torch.floor(x / right[1]) + right[2],
            )
        ),
        "Some integers are one off: they are cut off, not rounded.",
        "`int()`, `floor` and `//` all cut off. Rounding halves the largest error.",
    ),
]


def check_channel_scales(attempt: Callable[[Tensor, int], Tensor]) -> Outcome:
    """Check a function that returns the scale of each output channel, symmetric quantization.

    Args:
        attempt: Takes a weight (channels out, ...) and a width in bits; returns (channels out,).
    """
    ramp = torch.linspace(-1, 0.7, 24).reshape(3, 2, 2, 2)
    cases = [
        (ramp * torch.tensor([4.0, 1.0, 0.1])[:, None, None, None], 4),
        (torch.tensor([[0.5, -2.0], [0.25, 0.125], [-0.1, 0.05], [3.0, 1.0]]), 8),
        (torch.tensor([[0.5, -2.0], [0.0, 0.0]]), 3),  # nothing to divide by in one channel
    ]
    return judge(
        "A scale for each channel", attempt, _channel_scales, cases, _same_scales, SCALE_MISTAKES
    )


def _channel_scales(weight: Tensor, bits: int) -> Tensor:
    return quantize.quantize_symmetric(weight, bits, channel_axis=0).scale.flatten()


def _same_scales(given: Any, right: Tensor) -> bool:
    given = torch.as_tensor(given).float()
    return given.shape == right.shape and torch.allclose(given, right, rtol=1e-4)


def _are(given: Any, scales: Tensor) -> bool:
    """Return whether the scales are these, in whatever shape."""
    given = torch.as_tensor(given).float().flatten()
    return given.shape == scales.shape and torch.allclose(given, scales, rtol=1e-4)


SCALE_MISTAKES = [
    Mistake(
        "values and places",
        lambda given, right, w, bits: isinstance(given, tuple),
        "It returned a tuple, not a tensor.",
        "`max` along an axis returns the values and their places; `amax` returns the values.",
    ),
    Mistake(
        "not finite",
        lambda given, right, w, bits: (
            not torch.isfinite(torch.as_tensor(given)).any()
            or bool(torch.isinf(torch.as_tensor(given)).any())
        ),
        "Some scales are infinite or no numbers at all: you divided by 0.",
        "In Python a power is `2 ** 3`; `2 ^ 3` is something else.",
    ),
    Mistake(
        "largest weights",
        lambda given, right, w, bits: _are(given, w.flatten(1).abs().amax(1)),
        "These are the largest weights of the channels, not the steps.",
        "Which integer does the largest weight stand for?",
    ),
    Mistake(
        "inverted",
        lambda given, right, w, bits: _are(1 / torch.as_tensor(given), right),
        "These are steps for each unit, not the size of one step.",
        "Turn the fraction round: the largest weight divided by the largest integer.",
    ),
    Mistake(
        "one scale for all",
        lambda given, right, w, bits: len(set(torch.as_tensor(given).flatten().tolist())) == 1,
        "All channels have the same scale: this is the per-tensor scheme.",
        "Take the largest weight of each output channel by itself; `amax` has a `dim`.",
    ),
    Mistake(
        "input channels",
        lambda given, right, w, bits: _are(
            given, _channel_scales(w.transpose(0, 1).contiguous(), bits)
        ),
        "These are the scales of the input channels.",
        "Output channels are the first axis: keep axis 0 and reduce over all the others.",
    ),
    Mistake(
        "wrong shape",
        lambda given, right, w, bits: (
            _are(given, right) or torch.as_tensor(given).shape != right.shape
        ),
        "The scales should have the shape (channels out,): one number for each.",
        "`weight.flatten(1)` has one row for each output channel.",
    ),
    Mistake(
        "channel of zeros",
        lambda given, right, w, bits: torch.allclose(
            torch.as_tensor(given).float()[w.flatten(1).any(1)],
            right[w.flatten(1).any(1)],
            rtol=1e-4,
        ),
        "The channels with weights are right; a channel of zeros should get exactly the scale 1.",
        "`torch.where` chooses element by element. Choose among scales, not among largest weights.",
    ),
    Mistake(
        "signs forgotten",
        lambda given, right, w, bits: _are(  # whatever a negative "largest" was turned into
            torch.as_tensor(given)[w.flatten(1).amax(1) > 0],
            w.flatten(1).amax(1)[w.flatten(1).amax(1) > 0] / (2 ** (bits - 1) - 1),
        ),
        "A channel whose largest weight is negative gets too small a scale.",
        "Take absolute values before the largest.",
    ),
    Mistake(
        "affine",
        lambda given, right, w, bits: _are(
            given, (w.flatten(1).amax(1) - w.flatten(1).amin(1)) / (2**bits - 1)
        ),
        "This is the step of affine quantization, from the smallest to the largest weight.",
        "Symmetric: the largest absolute weight stands for the largest integer.",
    ),
    Mistake(
        "wrong largest integer",
        lambda given, right, w, bits: any(
            _are(given, w.flatten(1).abs().amax(1) / number)
            for number in (2 ** (bits - 1), 2**bits - 1, 2**bits, bits)
        ),
        "The largest weight is right, the integer that it is divided by is not.",
        "4 bits, symmetric: the integers run from -7 to 7.",
    ),
]
