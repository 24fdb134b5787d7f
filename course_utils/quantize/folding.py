"""Batch norms merged into the convolutions before them, as runtimes do before they run."""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

from course_utils.quantize.integers import QuantizedTensor, make_usable
from course_utils.quantize.weights import remember_grid_


def fold_batch_norms(model: nn.Module) -> fx.GraphModule:
    """Return a copy in which each batch norm is merged into the convolution before it.

    ``gamma * (conv(x) - mean) / sqrt(var + eps) + beta`` is again a convolution: its weights
    are scaled channel by channel. Runtimes do this before they run a model, so it is the
    folded weights that are quantized. In evaluation mode the output stays the same. A batch
    norm that keeps no statistics, and a convolution that is used elsewhere too, are left alone.
    Weights that are integers and a scale for each channel stay the same integers (or, where
    gamma is negative, their negatives): the factor goes into the scale.

    Raises:
        ValueError: The model's forward branches on values, so that it cannot be traced.
    """
    traced = trace(model)
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    uses = Counter(node.target for node in calls)
    for node in calls:
        (source,) = node.all_input_nodes[:1] or [node]
        if source not in calls or uses[source.target] > 1 or len(source.users) > 1:
            continue
        norm, conv = traced.get_submodule(node.target), traced.get_submodule(source.target)
        if not (isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d)):
            continue
        if norm.running_mean is not None and norm.running_var is not None:
            _fold_(conv, norm, norm.running_mean, norm.running_var)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def trace(model: nn.Module) -> fx.GraphModule:
    """Return a copy in evaluation mode whose calls of layers and functions can be rewritten.

    Raises:
        ValueError: The model's forward branches on values, so that it cannot be traced.
    """
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, fx.GraphModule):
        return copied
    try:
        return fx.symbolic_trace(copied)
    except fx.proxy.TraceError as error:
        raise ValueError(
            f"The model cannot be traced, so its layers cannot be rewritten: {error}. Its forward"
            " must not branch on the values of tensors."
        ) from None


def _fold_(conv: nn.Conv2d, norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Let the convolution do what both layers do."""
    gain = torch.rsqrt(variance + norm.eps)  # (channels_out,)
    gain = (gain if norm.weight is None else gain * norm.weight).detach()
    bias = torch.zeros_like(gain) if conv.bias is None else conv.bias
    bias = (bias - mean) * gain + (0 if norm.bias is None else norm.bias)
    conv.bias = nn.Parameter(bias.detach())
    gain = gain[:, None, None, None]  # to (channels_out, channels_in, rows, columns)
    grid = vars(conv).get("quantized_weight")
    if grid is None:
        conv.weight = nn.Parameter((conv.weight * gain).detach())
        return
    integers, scale = grid.integers * gain.sign().int(), make_usable(grid.scale * gain.abs())
    folded = QuantizedTensor(integers, scale, torch.zeros_like(scale).int(), grid.bits)
    remember_grid_(conv, folded)
