"""Zeros that stay zero while a pruned network is trained on."""

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_utils.prune.magnitude import find_weights


class Mask(nn.Module):
    """Multiplies a weight with zeros and ones, in the forward pass and so in the backward pass."""

    mask: Tensor

    def __init__(self, kept: Tensor) -> None:
        """Take which weights are kept: bool, in the shape of the weight."""
        super().__init__()
        self.register_buffer("mask", kept.float())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros where it is masked."""
        return weight * self.mask


def hold_zeros(model: nn.Module) -> nn.Module:
    """Return a copy whose weights that are zero stay zero, however it is trained.

    Each layer computes with ``weight * mask``, so that a masked weight has no gradient, and
    whatever an optimiser's momentum or decay does to the number behind it is never seen.

    Raises:
        ValueError: The zeros of this model are held already, or it has no layers to prune.
    """
    held = copy.deepcopy(model)
    for name, weight in find_weights(held).items():
        layer = held.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", Mask(weight.detach() != 0))
    return held


def release_zeros(model: nn.Module) -> nn.Module:
    """Return a copy with plain weights: what is masked is zero, and nothing holds it there.

    Raises:
        ValueError: The zeros of this model are not held.
    """
    released = copy.deepcopy(model)
    masks = find_masks(released)
    if not masks:
        raise ValueError("The zeros of this model are not held; hold_zeros does that.")
    for name in masks:
        layer = released.get_submodule(name)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        layer.weight = nn.Parameter(layer.weight.detach().clone())  # type: ignore[operator]
    return released


def find_masks(model: nn.Module) -> dict[str, Mask]:
    """Return the mask of each layer whose zeros are held, by layer."""
    return {
        name.removesuffix(".parametrizations.weight.0"): module
        for name, module in model.named_modules()
        if isinstance(module, Mask)
    }
