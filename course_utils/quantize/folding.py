"""Batch norms merged into the convolutions before them, as runtimes do before they run."""

import copy

import torch
from torch import Tensor, fx, nn

from course_utils.quantize.integers import QuantizedTensor
from course_utils.quantize.weights import remember_grid_


def fold_batch_norms(model: nn.Module) -> fx.GraphModule:
    """Return a copy in which each batch norm is merged into the convolution before it.

    ``gamma * (conv(x) - mean) / sqrt(var + eps) + beta`` is again a convolution: its weights
    are scaled channel by channel. Runtimes do this before they run a model, so it is the
    folded weights that are quantized. In evaluation mode the output stays the same. A batch
    norm that keeps no statistics, and a convolution that is used elsewhere too, are left alone.
    Weights that are integers and a scale for each channel stay the same integers (or, where
    gamma is negative, their negatives, and where it is 0, zeros): the factor goes into the scale.

    Raises:
        ValueError: The model's forward branches on values, so that it cannot be traced.
    """
    traced = trace(model)
    for node in traced.graph.nodes:
        pair = find_pair(node, traced)
        if pair is not None:
            _fold_(*pair)
            node.replace_all_uses_with(node.all_input_nodes[0])
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def find_pair(node: fx.Node, traced: fx.GraphModule) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """Return the batch norm of a node and the convolution to merge it into; None if it has none."""
    calls = [other for other in traced.graph.nodes if other.op == "call_module"]
    (source,) = node.all_input_nodes[:1] or [node]
    if node not in calls or source not in calls or len(source.users) > 1:
        return None
    if sum(other.target == source.target for other in calls) > 1:
        return None
    conv, norm = traced.get_submodule(str(source.target)), traced.get_submodule(str(node.target))
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return None
    return None if norm.running_mean is None else (conv, norm)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return a copy in evaluation mode whose calls of layers and functions can be rewritten.

    Raises:
        ValueError: The model's forward branches on values, so that it cannot be traced.
    """
    # what depends on self.training is traced as in evaluation
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, fx.GraphModule):
        return copied
    try:
        return fx.symbolic_trace(copied)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"The model cannot be traced, so its layers cannot be rewritten: {reason}. Its forward"
            " must not branch on the values of tensors, nor count them by len or range: take"
            " x.flatten(1) or x.shape[0]."
        ) from None


def _fold_(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let the convolution do what both layers do."""
    mean: Tensor = norm.running_mean  # type: ignore[assignment]
    variance: Tensor = norm.running_var  # type: ignore[assignment]
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
    scale = grid.scale * gain.abs()
    is_dead = scale < torch.finfo(torch.float32).tiny
    integers = torch.where(is_dead, 0, grid.integers * gain.sign().int())
    scale = torch.where(is_dead, grid.scale, scale)  # any will do, but a bias has to fit it too
    folded = QuantizedTensor(integers, scale, torch.zeros_like(scale).int(), grid.bits)
    remember_grid_(conv, folded)
