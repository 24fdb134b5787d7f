"""Quantization: real numbers as small integers and a scale.

A quantized tensor stands for ``scale * (integers - zero_point)``. *Symmetric* means that the
zero point is 0 and the range is ``[-max|x|, max|x|]``; *affine* (or asymmetric) means that the
range is ``[min x, max x]``. One scale may serve the whole tensor or each output channel its
own. Vocabulary and method: Jacob et al., 2018, arXiv 1712.05877; Krishnamoorthi, 2018,
arXiv 1806.08342.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

SMALLEST_BITS, LARGEST_BITS = 2, 16
FLOAT_BITS = 32
Extreme = Callable[..., Tensor]


@dataclass(frozen=True)
class QuantizedTensor:
    """Integers of a given width, and how to read them.

    Attributes:
        integers: int32, any shape.
        scale: float32, the size of one step; a scalar, or shaped to broadcast over channels.
        zero_point: int32, the integer that stands for 0; shaped as ``scale``.
        bits: Width of one integer.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int

    def dequantize(self) -> Tensor:
        """Return the real numbers that the integers stand for: float32, same shape."""
        return self.scale * (self.integers - self.zero_point)


def quantize_symmetric(
    tensor: Tensor, bits: int, channel_axis: int | None = None
) -> QuantizedTensor:
    """Round to integers in ``[-(2**(bits-1) - 1), 2**(bits-1) - 1]``, with zero point 0.

    Args:
        tensor: Real numbers, any shape.
        bits: 2 to 16.
        channel_axis: One scale for each index of this axis; None: one for the whole tensor.

    Raises:
        ValueError: ``bits`` is out of range, or the tensor is empty or not finite.
    """
    _check(tensor, bits)
    largest_integer = 2 ** (bits - 1) - 1
    largest = _reduce(torch.amax, tensor.abs(), channel_axis)
    scale = _usable(largest / largest_integer)
    integers = torch.round(tensor / scale).clamp(-largest_integer, largest_integer)
    return QuantizedTensor(integers.int(), scale, torch.zeros_like(scale).int(), bits)


def quantize_affine(tensor: Tensor, bits: int, channel_axis: int | None = None) -> QuantizedTensor:
    """Round to integers in ``[0, 2**bits - 1]``, the range stretched over ``[min, max]``.

    The range is widened to hold 0, and 0 is represented exactly: padding and ReLU depend on it.

    Args:
        tensor: Real numbers, any shape.
        bits: 2 to 16.
        channel_axis: One scale for each index of this axis; None: one for the whole tensor.

    Raises:
        ValueError: ``bits`` is out of range, or the tensor is empty or not finite.
    """
    _check(tensor, bits)
    largest_integer = 2**bits - 1
    low = _reduce(torch.amin, tensor, channel_axis).clamp(max=0)
    high = _reduce(torch.amax, tensor, channel_axis).clamp(min=0)
    scale = _usable(high / largest_integer - low / largest_integer)
    zero_point = torch.round(-low / scale).clamp(0, largest_integer)
    integers = (torch.round(tensor / scale) + zero_point).clamp(0, largest_integer)
    return QuantizedTensor(integers.int(), scale, zero_point.int(), bits)


def sqnr_db(tensor: Tensor, approximation: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in decibels: infinite where equal.

    ``10 log10(sum x**2 / sum (x - y)**2)``. Each bit more is worth about 6.02 dB as long as
    the rounding error is spread evenly over a step (Bennett, 1948).
    """
    signal = tensor.double().square().sum()
    noise = (tensor.double() - approximation.double()).square().sum()
    return float(10 * torch.log10(signal / noise))


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a copy in which each batch norm is merged into the convolution before it.

    ``gamma * (conv(x) - mean) / sqrt(var + eps) + beta`` is again a convolution: its weights
    are scaled channel by channel. Runtimes do this before they run a model, so it is the
    folded weights that are quantized. In evaluation mode the output stays the same.

    Raises:
        ValueError: The model's forward branches on values, so that it cannot be traced.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).eval())
    except fx.proxy.TraceError as error:
        raise ValueError(
            f"The model cannot be traced, so its batch norms cannot be folded: {error}. Its"
            " forward must not branch on the values of tensors."
        ) from error
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        norm, conv = traced.get_submodule(node.target), traced.get_submodule(str(source.target))
        if not (isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d)):
            continue
        if len(source.users) > 1:  # the convolution's own output is used elsewhere too
            continue
        conv.weight, conv.bias = _fold(conv, norm)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of the convolution that does what both layers do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (channels_out,)
    bias = torch.zeros_like(gain) if conv.bias is None else conv.bias
    weight = conv.weight * gain[:, None, None, None]  # (channels_out, channels_in, rows, columns)
    bias = norm.bias + (bias - norm.running_mean) * gain
    return nn.Parameter(weight.detach()), nn.Parameter(bias.detach())


def quantize_weights(model: nn.Module, bits: int, per_channel: bool = True) -> nn.Module:
    """Return a copy whose convolution and linear weights sit on a grid of ``2**bits - 1`` levels.

    The copy computes in float32 as before ("fake quantization"), so its accuracy is that of
    the width. Each layer remembers its integers (see ``quantized_weights``), so that a runtime
    can run them in an integer kernel where it has one. Biases stay in float32.

    Args:
        model: Anything with ``nn.Conv2d`` or ``nn.Linear`` layers; fold its batch norms first.
        bits: 2 to 16; 32 returns a plain copy.
        per_channel: One scale for each output channel, or one for the whole layer.

    Raises:
        ValueError: ``bits`` is none of these, or a weight is not finite.
    """
    quantized = copy.deepcopy(model)
    if bits == FLOAT_BITS:
        return quantized
    for name, layer in quantized.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            try:
                on_grid = quantize_symmetric(
                    layer.weight.detach(), bits, 0 if per_channel else None
                )
            except ValueError as error:
                raise ValueError(f"Layer {name!r}: {error}") from None
            layer.weight = nn.Parameter(on_grid.dequantize())
            layer.__dict__["quantized_weight"] = on_grid  # beside the weight, not one of them
    return quantized


def quantized_weights(model: nn.Module) -> dict[str, QuantizedTensor]:
    """Return the integers of each layer that ``quantize_weights`` rounded, by parameter name."""
    return {
        f"{name}.weight": vars(layer)["quantized_weight"]
        for name, layer in model.named_modules()
        if "quantized_weight" in vars(layer)
    }


def pack_bits(integers: np.ndarray, bits: int) -> bytes:
    """Return signed integers as two's complement of ``bits`` bits each, without gaps.

    Eight 5-bit weights fill five bytes. Raises ``ValueError`` where one does not fit.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if integers.size and not low <= integers.min() <= integers.max() <= high:
        raise ValueError(
            f"{bits} bits hold {low} to {high}, not {integers.min()} to {integers.max()}."
        )
    unsigned = integers.reshape(-1, 1).astype(np.int64) & (2**bits - 1)
    return np.packbits((unsigned >> np.arange(bits)[::-1]) & 1).tobytes()


def unpack_bits(packed: bytes, bits: int, count: int) -> np.ndarray:
    """Return the ``count`` integers, int32, that ``pack_bits`` packed."""
    ones = np.unpackbits(np.frombuffer(packed, np.uint8), count=count * bits).reshape(-1, bits)
    unsigned = ones.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32)[::-1])
    signed: np.ndarray = unsigned - ((unsigned >> (bits - 1)) << bits)
    return signed


def _check(tensor: Tensor, bits: int) -> None:
    if bits not in range(SMALLEST_BITS, LARGEST_BITS + 1):
        raise ValueError(
            f"{bits} bits cannot be made here: choose {SMALLEST_BITS} to {LARGEST_BITS}"
            f" (or {FLOAT_BITS} to leave the weights of a model as they are)."
        )
    if tensor.numel() == 0:
        raise ValueError("The tensor is empty: there is no range to quantize.")
    strange = int((~torch.isfinite(tensor)).sum())
    if strange:
        raise ValueError(
            f"{strange} of {tensor.numel()} values are NaN or infinite, so there is no range to"
            " quantize. Find where they come from before you quantize."
        )


def _reduce(extreme: Extreme, tensor: Tensor, channel_axis: int | None) -> Tensor:
    """Return the tensor's extreme, kept in a shape that broadcasts over channels."""
    if channel_axis is None:
        return extreme(tensor)
    other = [axis for axis in range(tensor.ndim) if axis != channel_axis % tensor.ndim]
    return extreme(tensor, dim=other, keepdim=True) if other else tensor


def _usable(scale: Tensor) -> Tensor:
    """Give an all-zero tensor or channel a step of 1: any step represents its zeros exactly."""
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
