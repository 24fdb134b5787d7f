"""A tensor as integers and a scale: rounding, error, and integers without gaps in bytes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
        ValueError: ``bits`` or the axis is out of range, or the tensor is empty or not finite.
    """
    tensor = _check(tensor, bits, channel_axis)
    largest_integer = 2 ** (bits - 1) - 1
    largest = _reduce(torch.amax, tensor.abs(), channel_axis)
    scale = make_usable(largest / largest_integer)
    integers = torch.round(tensor / scale).clamp(-largest_integer, largest_integer)
    return QuantizedTensor(integers.int(), scale, torch.zeros_like(scale).int(), bits)


def quantize_affine(
    tensor: Tensor,
    bits: int,
    channel_axis: int | None = None,
    limits: tuple[float, float] | None = None,
) -> QuantizedTensor:
    """Round to integers in ``[0, 2**bits - 1]``, the range stretched over ``[min, max]``.

    The range is widened to hold 0, and 0 is represented exactly: padding and ReLU depend on it.

    Args:
        tensor: Real numbers, any shape.
        bits: 2 to 16.
        channel_axis: One scale for each index of this axis; None: one for the whole tensor.
        limits: The range for the whole tensor instead, as calibration chose it: what lies
            outside is clipped.

    Raises:
        ValueError: ``bits``, the axis or the limits are out of range, or the tensor is empty or
            not finite.
    """
    tensor = _check(tensor, bits, channel_axis)
    largest_integer = 2**bits - 1
    low = _reduce(torch.amin, tensor, channel_axis)
    high = _reduce(torch.amax, tensor, channel_axis)
    if limits is not None:
        low, high = torch.tensor(limits, dtype=torch.float32)
        if not (low <= 0 <= high and low < high and torch.isfinite(high - low)):
            raise ValueError(f"A range has to hold 0 and have a finite width, not {limits}.")
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = make_usable(high / largest_integer - low / largest_integer)
    zero_point = torch.round(-low / scale).clamp(0, largest_integer)
    integers = (torch.round(tensor / scale) + zero_point).clamp(0, largest_integer)
    return QuantizedTensor(integers.int(), scale, zero_point.int(), bits)


def quantize_bias(bias: Tensor, input_scale: float, weight: QuantizedTensor) -> QuantizedTensor:
    """Return the bias on the grid of the products that it is added to: 32 bits, zero point 0.

    A product of an input's integer with a weight's stands for ``input_scale * weight.scale``
    times as much; with that as its step a bias is added to the sum of products as it is
    (Jacob et al., 2018, arXiv 1712.05877, section 2.4).

    Args:
        bias: (channels out,) real numbers.
        input_scale: Step of the layer's input.
        weight: Of the same layer, with one scale or one for each output channel.

    Raises:
        ValueError: A bias is so large beside the step that 32 bits cannot hold it.
    """
    scale = (input_scale * weight.scale).reshape(-1)  # (1,) or (channels out,)
    integers = torch.round(bias.double() / scale)
    if not (integers.abs() < 2 ** (FLOAT_BITS - 1)).all():
        raise ValueError("A bias does not fit into 32 bits beside its channel's tiny weights.")
    return QuantizedTensor(integers.int(), scale, torch.zeros_like(scale).int(), FLOAT_BITS)


def spread_integers(weight: QuantizedTensor, bits: int = 7) -> QuantizedTensor:
    """Return the same numbers as larger integers: times a power of two, the step divided by it.

    A kernel for bytes adds biases in whole multiples of step times step. Where weights have few
    bits that is coarse; a byte has room for finer steps. With 7 bits two products of bytes still
    fit into 16 bits.
    """
    factor = 2 ** max(bits - weight.bits, 0)
    bits = max(bits, weight.bits)
    return QuantizedTensor(weight.integers * factor, weight.scale / factor, weight.zero_point, bits)


def sqnr_db(tensor: Tensor, approximation: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in decibels: infinite where equal.

    ``10 log10(sum x**2 / sum (x - y)**2)``. Each bit more is worth about 6.02 dB as long as
    the rounding error is spread evenly over a step (Bennett, 1948).
    """
    signal = tensor.double().square().sum()
    noise = (tensor.double() - approximation.double()).square().sum()
    return math.inf if noise == 0 else float(10 * torch.log10(signal / noise))


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
    """Return the ``count`` integers, int32, of ``pack_bits``; ``ValueError`` if bytes lack."""
    if len(packed) * 8 < count * bits:
        raise ValueError(f"{count} integers of {bits} bits do not fit into {len(packed)} bytes.")
    ones = np.unpackbits(np.frombuffer(packed, np.uint8), count=count * bits).reshape(-1, bits)
    unsigned = ones.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32)[::-1])
    signed: np.ndarray = unsigned - ((unsigned >> (bits - 1)) << bits)
    return signed


def _check(tensor: Tensor, bits: int, channel_axis: int | None) -> Tensor:
    """Return the tensor as float32, if it can be quantized like this."""
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
    if channel_axis is not None and channel_axis not in range(-tensor.ndim, tensor.ndim):
        raise ValueError(
            f"There is no axis {channel_axis} in a tensor of {tensor.ndim} dimensions."
        )
    return tensor.float()


def _reduce(extreme: Extreme, tensor: Tensor, channel_axis: int | None) -> Tensor:
    """Return the tensor's extreme, kept in a shape that broadcasts over channels."""
    if channel_axis is None:
        return extreme(tensor)
    other = [axis for axis in range(tensor.ndim) if axis != channel_axis % tensor.ndim]
    return extreme(tensor, dim=other, keepdim=True) if other else tensor


def make_usable(scale: Tensor) -> Tensor:
    """Give an all-zero tensor or channel a step of 1: any step represents its zeros exactly."""
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
