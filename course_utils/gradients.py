"""Gradients of a real backward pass, and what becomes of them in a number format.

What flows back from layer to layer in bf16 or fp16 are 16-bit numbers, in memory and in the
kernels' input and output; within a kernel sums have more bits. Nothing of that is simulated.
Only fp8 is: torch trains nothing in it on a processor, so fp32 gradients are cast to it.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import formats
from course_utils.mixed_precision import PRECISIONS, autocast

DTYPES = {**PRECISIONS, "fp8 E4M3": torch.float8_e4m3fn, "fp8 E5M2": torch.float8_e5m2}
FORMATS = {
    name: found
    for name, found in formats.FORMATS.items()
    if name in DTYPES and isinstance(found, formats.FloatFormat)
}


def find_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    precision: str = "fp32",
    loss_scale: float = 1.0,
    of: Literal["outputs", "weights"] = "outputs",
) -> dict[str, Tensor]:
    """Return the gradients of one backward pass, as it leaves them: the scale is not undone.

    They are those of the mean cross-entropy, of a copy of the model in training mode.

    Args:
        model: Takes the images and returns logits.
        images: (n, ...) float32.
        labels: (n,) int64.
        precision: A key of ``mixed_precision.PRECISIONS``.
        loss_scale: What the loss is multiplied with before the backward pass.
        of: "outputs": of what each layer with parameters returns, by the layer's name, in the
            type that they were computed in. "weights": of each parameter, by its name, in
            float32, though those of convolutions and matrices were 16-bit numbers a cast before;
            in fp16 a convolution can take a second an image, see ``mixed_precision.build_step``.

    Raises:
        ValueError: There is no such precision, or a layer takes no part in what is returned.
    """
    learner = copy.deepcopy(model).train().requires_grad_()
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        outputs[name] = output
        return output.clone()  # for the next layer, which may overwrite it

    for name, layer in learner.named_modules():
        if any(True for _ in layer.parameters(recurse=False)):
            layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
    with autocast(precision):
        logits = learner(images)
    loss = F.cross_entropy(logits.float(), labels) * loss_scale
    wanted = outputs if of == "outputs" else dict(learner.named_parameters())
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    unused = [name for name, gradient in zip(wanted, found, strict=True) if gradient is None]
    if unused:
        raise ValueError(f"What the model returns does not depend on {unused}: leave them out.")
    return dict(zip(wanted, found, strict=True))


def cast_gradients(
    gradients: Mapping[str, Tensor], number_format: str, loss_scale: float = 1.0
) -> dict[str, Tensor]:
    """Return gradients scaled and cast to a format: a key of ``DTYPES``.

    So each is rounded once. In a backward pass in the format (see ``find_gradients``) each is
    computed from others that were rounded, lost or infinite before.
    """
    dtype = _find_dtype(number_format)
    return {name: (gradient * loss_scale).to(dtype) for name, gradient in gradients.items()}


@dataclass(frozen=True)
class Fate:
    """What became of gradients: shares, in [0, 1], of those that are not 0 in fp32.

    Attributes:
        underflow: Are 0.
        subnormal: Are too small for the format's full precision, but not 0.
        overflow: Are infinite or NaN, or the largest value if the format has no infinity.
        count: How many are not 0 in fp32.
    """

    underflow: float
    subnormal: float
    overflow: float
    count: int


def tell_fate(exact: Mapping[str, Tensor], held: Mapping[str, Tensor], number_format: str) -> Fate:
    """Return what became of the gradients of an fp32 pass in a format, comparing one by one.

    Args:
        exact: Of a pass in fp32.
        held: The same in the format, from ``cast_gradients`` or from a pass in it. A pass has a
            few zeros (in ResNet-8 less than one in a thousand) that the format's range is not
            to blame for: values were rounded to the same and cancel out, or a ReLU closed.
        number_format: A key of ``DTYPES``.

    Raises:
        ValueError: There is no such format, or all gradients are 0.
    """
    _find_dtype(number_format)
    reach = FORMATS[number_format]
    limit = math.inf if reach.has_infinity else reach.largest
    count = underflow = subnormal = overflow = 0
    for name, gradient in exact.items():
        size = held[name].float().abs().where(gradient != 0, 1.0)  # 1 is none of the three
        count += int(gradient.count_nonzero())
        underflow += int((size == 0).count_nonzero())
        subnormal += int(((size > 0) & (size < reach.smallest_normal)).count_nonzero())
        overflow += int((~(size < limit)).count_nonzero())  # NaN is not below the limit either
    if count == 0:
        raise ValueError("All gradients are 0 in fp32: there is nothing to lose.")
    return Fate(underflow / count, subnormal / count, overflow / count, count)


def find_stuck_share(
    model: nn.Module, gradients: Mapping[str, Tensor], learning_rate: float, number_format: str
) -> float:
    """Return the share of weights that a step does not change if a format keeps them.

    A step of less than half the gap to the next value is rounded away. The step itself is
    computed in fp32: so this is the best that the format can do. Weights with a gradient of 0
    do not count.

    Args:
        model: Its weights are rounded to the format first.
        gradients: Of its weights, by name, not scaled; see ``find_gradients``.
        learning_rate: The step is this times the gradient.
        number_format: A key of ``DTYPES``; "fp32" for master weights.
    """
    dtype = _find_dtype(number_format)
    stuck = count = 0
    for name, gradient in gradients.items():
        before = model.get_parameter(name).detach().to(dtype)
        after = (before.float() - learning_rate * gradient).to(dtype)
        stuck += int(((after.float() == before.float()) & (gradient != 0)).sum())
        count += int((gradient != 0).sum())
    return stuck / max(count, 1)


def _find_dtype(number_format: str) -> torch.dtype:
    if number_format not in DTYPES:
        raise ValueError(f"There is no format {number_format!r}; choose one of {list(DTYPES)}.")
    return DTYPES[number_format]
