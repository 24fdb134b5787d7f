"""Bias correction: undo the shift that rounding the weights gives to each channel.

Rounding errors of a channel's weights do not cancel, so its outputs are off by some amount on
average. The bias can be moved back by as much: that needs no training and no labels, and costs
no bytes and no time (Nagel et al., 2019, arXiv 1906.04721, section 4.2).
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn


def correct_biases(rounded: nn.Module, original: nn.Module, images: np.ndarray) -> nn.Module:
    """Return a copy of a network with rounded weights whose outputs are right on average.

    Layer by layer in the order of the network, so that each one sees what the corrected ones
    before it return. Layers without a bias are left as they are.

    Args:
        rounded: From ``quantize.quantize_weights``.
        original: What it was made from.
        images: A batch (n, ...) float32 to take the means over.

    Raises:
        ValueError: The two networks do not have the same layers, or there are no images.
    """
    if len(images) == 0 or not np.isfinite(images).all():
        raise ValueError("There are no images to take the means over, or some hold NaN.")
    corrected = copy.deepcopy(rounded)
    wanted = _output_means(original, images)
    found = _output_means(corrected, images[:1])
    if {n: m.shape for n, m in wanted.items()} != {n: m.shape for n, m in found.items()}:
        raise ValueError("The rounded network does not have the layers of the original one.")
    for name, mean in wanted.items():
        layer = corrected.get_submodule(name)
        if layer.bias is not None:
            shift = mean - _output_means(corrected, images)[name]
            layer.bias = nn.Parameter(layer.bias.detach() + shift)  # type: ignore[operator]
    return corrected


@torch.no_grad()
def _output_means(model: nn.Module, images: np.ndarray) -> dict[str, Tensor]:
    """Return each layer's mean output by channel, in the order they run: (channels out,)."""
    model = copy.deepcopy(model).eval()
    means: dict[str, Tensor] = {}

    def remember(name: str, layer: nn.Module, output: Tensor) -> None:
        channels_first = output.transpose(0, -1 if isinstance(layer, nn.Linear) else 1)
        means[name] = channels_first.flatten(1).mean(1)

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda own, _, output, name=name: remember(name, own, output)
            )
    model(torch.from_numpy(images))
    return means
