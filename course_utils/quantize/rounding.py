"""Fake quantization: a module that rounds real numbers to the values of integers, and learns.

Rounding has a gradient of 0 nearly everywhere; the *straight-through estimator* takes 1 instead
(Bengio et al., 2013, arXiv 1308.3432). The step between two values is learned like a weight
(LSQ: Esser et al., 2020, arXiv 1902.08153).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils import calibrate
from course_utils.quantize.integers import make_usable

SHRINKING = torch.linspace(0.1, 1.0, 91)  # of the widest step, to find the best one


class _Round(torch.autograd.Function):
    """Round to multiples of a step; gradients as in LSQ, equations 3 and 5."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float
    ) -> Tensor:
        steps = x / step
        ctx.save_for_backward(steps, step)
        ctx.limits = low, high, gradient_scale
        return steps.round().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        steps, step = ctx.saved_tensors
        low, high, gradient_scale = ctx.limits
        is_inside = (steps >= low) & (steps <= high)
        integers = steps.round().clamp_(low, high)
        of_step = gradient * torch.where(is_inside, integers - steps, integers)
        of_step = of_step.sum_to_size(step.shape) * gradient_scale
        return gradient * is_inside, of_step, None, None, None


def fake_quantize(
    x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float = 1.0
) -> Tensor:
    """Return ``step * clamp(round(x / step), low, high)``, with gradients to train by.

    The gradient of ``x`` passes straight through where nothing is cut off and is 0 elsewhere; that
    of ``step`` is that of LSQ, equation 3, times ``gradient_scale``. A value at a limit is not cut
    off.

    Args:
        x: Real numbers, any shape.
        step: Above 0; a scalar, or shaped to broadcast over channels.
        low: The smallest integer.
        high: The largest integer.
        gradient_scale: How fast the step learns beside the rest.
    """
    rounded: Tensor = _Round.apply(x, step, low, high, gradient_scale)  # type: ignore[no-untyped-call]
    return rounded


class LearnedStep(nn.Module):
    """Rounds a tensor to the multiples ``low`` to ``high`` of a step that training changes.

    Attributes:
        step: () for one step, or (channels out,) for weights.
        low: The smallest integer; ``-low`` is the zero point of unsigned integers.
        high: The largest integer.
        count: How many values of one image, or weights, share a step: its gradient is divided
            by ``sqrt(count * high)`` (or ``-low``, if that is larger), so that steps learn as fast
            as weights (LSQ, section 2.2).
    """

    def __init__(
        self, step: Tensor, low: int, high: int, count: int, *, is_learned: bool = True
    ) -> None:
        super().__init__()
        self.step = nn.Parameter(step.detach().clone(), requires_grad=is_learned)
        self.low, self.high, self.count = low, high, count

    @property
    def bits(self) -> int:
        """Width of the integers."""
        return (self.high - self.low).bit_length()

    @property
    def positive_step(self) -> Tensor:
        """The step as it is used: an optimiser may push one below 0."""
        return self.step.abs().clamp(min=torch.finfo(torch.float32).tiny)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded tensor: same shape."""
        step = self.positive_step
        step = step.view(-1, *[1] * (x.ndim - 1)) if step.ndim else step
        gradient_scale = 1 / math.sqrt(self.count * max(self.high, -self.low))
        return fake_quantize(x, step, self.low, self.high, gradient_scale)

    def extra_repr(self) -> str:
        """Say what is rounded to what."""
        return f"{self.bits} bits, {self.low} to {self.high}, {self.step.numel()} steps"


class RoundedLayer(nn.Module):
    """A layer that computes with its weights rounded; the weights themselves stay as they are."""

    def __init__(self, layer: nn.Module, rounding: LearnedStep) -> None:
        super().__init__()
        self.layer, self.rounding = layer, rounding

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer returns."""
        weight = self.rounding(self.layer.weight)
        output: Tensor = functional_call(self.layer, {"weight": weight}, (x,))
        return output


def round_pixels(images: Tensor) -> LearnedStep:
    """Return the rounding of images in [0, 1] to bytes, which they are made of: it never learns."""
    return LearnedStep(torch.tensor(1 / 255), 0, 255, images[0].numel(), is_learned=False)


def round_activation(values: Tensor, bits: int) -> LearnedStep:
    """Return the rounding of a tensor to unsigned integers, with the step of least squared error.

    It is the least of ``calibrate.mean_squared_error``: steps 9 % apart are tried.

    Args:
        values: (images, ...) that it holds.
        bits: Width of an integer.
    """
    levels, count = 2**bits - 1, values[0].numel()
    low, high = calibrate.mean_squared_error(calibrate.count(values.numpy()), bits)
    step = make_usable(torch.tensor((high - low) / levels, dtype=torch.float32))
    zero_point = min(round(-low / float(step)), levels)
    return LearnedStep(step, -zero_point, levels - zero_point, count)


def round_weight(layer: nn.Module, bits: int) -> LearnedStep:
    """Return the rounding of a layer's weights, with each channel's step of least squared error.

    Tried are 91 steps, from a tenth of the one that reaches the largest weight to that one.
    """
    weight = layer.weight.detach().flatten(1)  # type: ignore[operator]
    high = 2 ** (bits - 1) - 1
    widest = weight.abs().amax(1, keepdim=True) / high  # (channels out, 1)
    steps = make_usable(widest * SHRINKING)  # (channels out, tried)
    errors = [  # one step at a time: all at once would take 91 times the layer's memory
        (torch.round(weight / step).clamp(-high, high) * step - weight).square().sum(1)
        for step in torch.split(steps, 1, dim=1)
    ]
    best = steps.gather(1, torch.stack(errors, 1).argmin(1, keepdim=True))[:, 0]
    return LearnedStep(best, -high, high, weight[0].numel())
