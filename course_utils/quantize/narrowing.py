"""Fewer bits for weights that have their integers already: what a processor's kernel asks for."""

import copy

from torch import fx, nn

from course_utils.quantize.aware import find_roundings, round_biases_
from course_utils.quantize.weights import round_layer_


def narrow_weights(model: nn.Module, bits: int) -> nn.Module:
    """Return a copy in which quantized weights of more than ``bits`` bits have only so many.

    A network that rounds its activations (see ``convert_aware``) has its biases on the grid of
    the sums that they are added to; they are rounded to the new steps.
    """
    narrowed = copy.deepcopy(model)
    for name, layer in narrowed.named_modules():
        grid = vars(layer).get("quantized_weight")
        if grid is not None and grid.bits > bits:
            round_layer_(name, layer, bits, 0 if grid.scale.ndim else None)
    if isinstance(narrowed, fx.GraphModule) and find_roundings(narrowed):
        round_biases_(narrowed)
    return narrowed
