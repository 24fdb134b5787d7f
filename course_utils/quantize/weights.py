"""The weights of a network, rounded; and the integers that its layers remember."""

import copy
import difflib
from collections.abc import Mapping

import torch
from torch import nn

from course_utils.quantize.integers import FLOAT_BITS, QuantizedTensor, quantize_symmetric

Widths = int | Mapping[str, int]


def quantize_weights(model: nn.Module, bits: Widths, per_channel: bool = True) -> nn.Module:
    """Return a copy whose convolution and linear weights sit on a grid of ``2**bits - 1`` levels.

    The copy computes in float32 as before ("fake quantization"), so its accuracy is that of
    the width. Each layer remembers its integers (see ``quantized_weights``), so that a runtime
    can run them in an integer kernel where it has one. Biases stay in float32.

    Args:
        model: Anything with ``nn.Conv2d`` or ``nn.Linear`` layers; fold its batch norms first.
        bits: 2 to 16, or 32 to leave weights as they are; one width for all layers, or a width by
            the name of each layer.
        per_channel: One scale for each output channel, or one for the whole layer.

    Raises:
        ValueError: A width is none of these, a weight is not finite, or the layers with a width
            are not those of the model.
    """
    quantized = copy.deepcopy(model)
    for name, width in spread_widths(quantized, bits).items():
        if width != FLOAT_BITS:
            round_layer_(name, quantized.get_submodule(name), width, 0 if per_channel else None)
    return quantized


def find_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers whose weights can be rounded, as the model lists them."""
    kinds = nn.Conv2d | nn.Linear
    return [name for name, layer in model.named_modules() if isinstance(layer, kinds)]


def spread_widths(model: nn.Module, bits: Widths) -> dict[str, int]:
    """Return the width of each layer that has weights to round.

    Raises:
        ValueError: A layer has no width, or there is no such layer.
    """
    layers = find_layers(model)
    if not isinstance(bits, Mapping):
        return dict.fromkeys(layers, bits)
    for name in bits:
        if name not in layers:
            nearest = difflib.get_close_matches(str(name), layers, 1)
            guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"There is no layer {name!r} to round.{guess} There are {layers}.")
    lacking = [name for name in layers if name not in bits]
    if lacking:
        raise ValueError(f"Each layer needs a width; there is none for {lacking}.")
    return {name: bits[name] for name in layers}


def round_layer_(name: str, layer: nn.Module, bits: int, channel_axis: int | None) -> None:
    """Round a layer's weights, and let it remember their integers.

    Raises:
        ValueError: A weight is not finite; the message names the layer.
    """
    try:
        on_grid = quantize_symmetric(layer.weight.detach(), bits, channel_axis)  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"Layer {name!r}: {error}") from None
    remember_grid_(layer, on_grid)


def remember_grid_(layer: nn.Module, grid: QuantizedTensor) -> None:
    """Give a layer the weights that the integers stand for, and let it remember them."""
    layer.weight = nn.Parameter(grid.dequantize())
    vars(layer)["quantized_weight"] = grid  # beside the weight, not one of the weights


def quantized_weights(model: nn.Module) -> dict[str, QuantizedTensor]:
    """Return the integers of each layer that ``quantize_weights`` rounded, by parameter name.

    Raises:
        ValueError: A weight was changed since, so that its integers no longer stand for it.
    """
    found = {}
    for name, layer in model.named_modules():
        grid = vars(layer).get("quantized_weight")
        if grid is None:
            continue
        if not torch.equal(layer.weight, grid.dequantize()):
            raise ValueError(f"Layer {name!r} was changed since it was quantized; do it again.")
        found[f"{name}.weight".lstrip(".")] = grid
    return found
