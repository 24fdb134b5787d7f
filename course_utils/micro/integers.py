"""A network of whole numbers: what a microcontroller computes, step by step, in NumPy.

An activation is a byte ``q`` that stands for ``scale * (q - zero_point)``, a weight a byte that
stands for ``scale * q`` with a scale for each output channel. Products are summed in 32 bits, and
the sum is brought to the scale of the output by a multiplication and a shift: *requantization*
(Jacob et al., 2018, arXiv 1712.05877, section 2.2). Images lie with their channels last.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from course_utils.micro.arithmetic import LOWEST, requantize, round_shift, saturate, to_pixels

IMAGES_AT_ONCE = 50


class Tensor(NamedTuple):
    """An activation: bytes, and what they stand for.

    Attributes:
        shape: Rows, columns, channels; (1, 1, n) for a vector.
        scale: Size of one step.
        zero_point: The byte that stands for 0.
    """

    shape: tuple[int, int, int]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Operation(ABC):
    """What all operations have.

    Attributes:
        name: Of the layer that it was.
        inputs: The numbers of the tensors that it reads.
        output: The number of the tensor that it writes.
        low: The least byte that it writes: the zero point where a ReLU is part of it, else -128.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    low: int

    @abstractmethod
    def run(self, network: "IntegerNetwork", *values: np.ndarray) -> np.ndarray:
        """Return the output (n, rows, columns, channels) for inputs that lie alike."""


@dataclass(frozen=True)
class WeightedOperation(Operation):
    """What a convolution and a linear layer have in common.

    Attributes:
        weight: (outputs, ...) int8, from -127 to 127.
        bias: (outputs,) int32, in steps of the products.
        multiplier: (outputs,) int32, from 2**30 to 2**31 - 1.
        shift: (outputs,) int32, above 32.
    """

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Convolution(WeightedOperation):
    """A convolution; around the image lie zeros.

    Attributes:
        weight: (outputs, kernel rows, kernel columns, inputs / groups).
        stride: Down and to the right.
        padding: Rows of zeros above, columns of zeros to the left; below and to the right there are
            as many as it takes.
        groups: The outputs of a group read only its inputs.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return self.groups == len(self.weight) > 1 and self.weight.shape[3] == 1

    def run(self, network: "IntegerNetwork", *values: np.ndarray) -> np.ndarray:
        """Return the output, tap by tap of the kernel."""
        source, target = (network.tensors[number] for number in (*self.inputs, self.output))
        rows, columns, outputs = target.shape
        (down, right), (top, left) = self.stride, self.padding
        kernel_rows, kernel_columns = self.weight.shape[1:3]
        bottom = max((rows - 1) * down + kernel_rows - top - source.shape[0], 0)
        beyond = max((columns - 1) * right + kernel_columns - left - source.shape[1], 0)
        centred = values[0].astype(np.int32) - source.zero_point  # 0 stands for 0, as beside it
        padded = np.pad(centred, ((0, 0), (top, bottom), (left, beyond), (0, 0)))
        sums = np.empty((len(padded), rows, columns, outputs), np.int32)
        sums[:] = self.bias
        for row, column in np.ndindex(kernel_rows, kernel_columns):
            seen = padded[:, row : row + rows * down : down]
            seen = seen[:, :, column : column + columns * right : right]
            sums += self._multiply(seen, self.weight[:, row, column])
        scaled = requantize(sums, self.multiplier, self.shift)
        return saturate(scaled + target.zero_point, self.low)

    def _multiply(self, seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return (..., outputs) for pixels (..., inputs) and weights (outputs, inputs / groups)."""
        weight = weight.astype(np.int32)
        if self.is_depthwise:
            depthwise: np.ndarray = seen * weight[:, 0]
            return depthwise
        parts = zip(
            np.split(seen, self.groups, axis=-1), np.split(weight, self.groups), strict=True
        )
        return np.concatenate([pixels @ rows.T for pixels, rows in parts], axis=-1)


@dataclass(frozen=True)
class Linear(WeightedOperation):
    """A fully connected layer. Where it gives the logits, they keep 32 bits.

    Attributes:
        weight: (outputs, inputs).
        gives_logits: Whether it is the last operation of a network.
    """

    gives_logits: bool

    def run(self, network: "IntegerNetwork", *values: np.ndarray) -> np.ndarray:
        """Return (n, 1, 1, outputs)."""
        source, target = (network.tensors[number] for number in (*self.inputs, self.output))
        centred = values[0].reshape(len(values[0]), 1, 1, -1).astype(np.int32) - source.zero_point
        sums = self.bias + centred @ self.weight.astype(np.int32).T
        scaled = requantize(sums, self.multiplier, self.shift)
        if self.gives_logits:
            return scaled.astype(np.int32)
        return saturate(scaled + target.zero_point, self.low)


@dataclass(frozen=True)
class Addition(Operation):
    """A sum of two tensors of one shape: each has a multiplier, the shift is common.

    Attributes:
        multipliers: Of the first and of the second input, so small that 32 bits hold the sum.
        shift: From 1 to 30.
    """

    multipliers: tuple[int, int]
    shift: int

    def run(self, network: "IntegerNetwork", *values: np.ndarray) -> np.ndarray:
        """Return the sum."""
        one, other = (
            (given.astype(np.int32) - network.tensors[number].zero_point) * np.int32(multiplier)
            for given, number, multiplier in zip(values, self.inputs, self.multipliers, strict=True)
        )
        scaled = round_shift(one + other, self.shift)
        return saturate(scaled + network.tensors[self.output].zero_point, self.low)


@dataclass(frozen=True)
class Mean(Operation):
    """The mean of each channel over the plane; its multiplier divides by the number of pixels.

    Attributes:
        multiplier: From 2**30 to 2**31 - 1.
        shift: From 1 to 62.
    """

    multiplier: int
    shift: int

    def run(self, network: "IntegerNetwork", *values: np.ndarray) -> np.ndarray:
        """Return (n, 1, 1, channels)."""
        source, target = (network.tensors[number] for number in (*self.inputs, self.output))
        centred = values[0].astype(np.int32) - source.zero_point
        sums = centred.sum(axis=(1, 2), keepdims=True, dtype=np.int32)
        scaled = requantize(sums, self.multiplier, self.shift)
        return saturate(scaled + target.zero_point, self.low)


@dataclass(frozen=True)
class IntegerNetwork:
    """Operations on bytes, in the order in which they run.

    Attributes:
        tensors: The first is the image, the last the logits.
        operations: Each writes one of the other tensors.
    """

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns of an image, as the course's data have them."""
        rows, columns, channels = self.tensors[0].shape
        return channels, rows, columns

    @property
    def gives_wide_logits(self) -> bool:
        """Whether the logits have 32 bits, since the last operation is a linear layer."""
        last = self.operations[-1]
        return isinstance(last, Linear) and last.gives_logits

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the logits (n, classes), int32: times ``logit_scale`` they are real numbers.

        Args:
            images: (n, channels, rows, columns), pixels as uint8, or as float32 in [0, 1].

        Raises:
            ValueError: The images have another shape or type, or values outside of [0, 1].
        """
        pixels = to_pixels(images, self.image_shape)
        parts = range(0, len(pixels), IMAGES_AT_ONCE)
        runs = [
            list(self.trace(pixels[start : start + IMAGES_AT_ONCE]))[-1].reshape(-1, self.classes)
            for start in parts
        ]
        logits = np.concatenate([np.empty((0, self.classes), np.int32), *runs])
        return logits if self.gives_wide_logits else logits - self.tensors[-1].zero_point

    def trace(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each tensor (n, rows, columns, channels), from the image to the last."""
        pixels = to_pixels(images, self.image_shape)
        values = {0: (pixels.transpose(0, 2, 3, 1).astype(np.int16) + LOWEST).astype(np.int8)}
        yield values[0]
        for operation in self.operations:
            read = (values[number] for number in operation.inputs)
            values[operation.output] = operation.run(self, *read)
            yield values[operation.output]

    @property
    def classes(self) -> int:
        """How many logits it returns."""
        return self.tensors[-1].shape[2]

    @property
    def logit_scale(self) -> float:
        """What a logit of 1 stands for."""
        return self.tensors[-1].scale
