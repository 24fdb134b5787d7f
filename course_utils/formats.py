"""Number formats: how a real number becomes a few bits, and which number the bits stand for.

A floating-point number is ``(-1)**sign * 1.fraction * 2**(exponent - bias)``: the fraction bits
set how finely it is rounded, the exponent bits how far it reaches. A stored exponent of 0 means
``0.fraction * 2**(1 - bias)``: the *subnormal* numbers, which fill the gap around 0. Integers
count steps of one size. fp32, fp16: IEEE 754; fp8: Micikevicius et al., 2022, arXiv 2209.05433.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format; bits are written as ``sign exponent fraction``.

    Attributes:
        name: What it is called.
        exponent_bits: Width of the exponent.
        fraction_bits: Width of the fraction.
        has_infinity: Whether the highest exponent is kept for infinity and NaN, as in IEEE 754.
            If not, all ones are NaN, and what is too large becomes the largest value.
    """

    name: str
    exponent_bits: int
    fraction_bits: int
    has_infinity: bool = True

    @property
    def bits(self) -> int:
        """Width of one number."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the stored exponent."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return self._magnitude(self._largest_code)

    @property
    def smallest_normal(self) -> float:
        """The smallest value above 0 that has the full precision."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest value above 0."""
        return 2.0 ** (1 - self.bias - self.fraction_bits)

    @property
    def relative_step(self) -> float:
        """The gap between 1 and the next value; rounding errs by at most half of it."""
        return 2.0**-self.fraction_bits

    @property
    def decimal_digits(self) -> float:
        """How many decimal digits the fraction and its leading 1 are worth."""
        return (self.fraction_bits + 1) * math.log10(2)

    def encode(self, value: float) -> str:
        """Return the bits of the nearest value; of two equally near ones, the even code.

        What is too large becomes infinity, or the largest value where there is no infinity, as
        in torch's casts. NaN is all ones.
        """
        sign = "1" if math.copysign(1, value) < 0 else "0"
        if math.isnan(value):
            return sign + "1" * (self.bits - 1)
        magnitude = min(abs(value), 2 * self.largest)  # infinity is one of the too large ones
        # The magnitude is in [2**(exponent - 1), 2**exponent), or below if it is subnormal.
        _, exponent = math.frexp(max(magnitude, self.smallest_normal))
        significand = round(math.ldexp(magnitude, self.fraction_bits - exponent + 1))
        # The leading 1 of the significand, and a carry from rounding, add 1 to the exponent.
        code = ((exponent + self.bias - 2) << self.fraction_bits) + significand
        return sign + f"{min(code, self._overflow_code):0{self.bits - 1}b}"

    def decode(self, bits: str) -> float:
        """Return the value that the bits stand for; ``ValueError`` if they are not bits of it."""
        _check_bits(bits, self.bits, self.name)
        return math.copysign(self._magnitude(int(bits[1:], 2)), -1 if bits[0] == "1" else 1)

    def fields(self, bits: str) -> dict[str, str]:
        """Return the bits of the sign, the exponent and the fraction, by these names."""
        _check_bits(bits, self.bits, self.name)
        split = 1 + self.exponent_bits
        return {"sign": bits[0], "exponent": bits[1:split], "fraction": bits[split:]}

    def round_to(self, tensor: Tensor) -> Tensor:
        """Return each value as this format stores it: float32, same shape, no gradient."""
        exact = tensor.detach().double().cpu().numpy()
        _, exponent = np.frexp(np.maximum(np.abs(exact), self.smallest_normal))
        last_place = exponent - 1 - self.fraction_bits
        rounded = np.ldexp(np.rint(np.ldexp(exact, -last_place)), last_place)
        overflow = np.copysign(self._magnitude(self._overflow_code), exact)
        stored = np.where(np.abs(rounded) > self.largest, overflow, rounded)
        return tensor.detach().float().new_tensor(stored)

    @property
    def _largest_code(self) -> int:
        """The code of the largest finite value; those after it are infinity and NaN."""
        all_ones = (1 << (self.bits - 1)) - 1
        return all_ones - (1 << self.fraction_bits if self.has_infinity else 1)

    @property
    def _overflow_code(self) -> int:
        return self._largest_code + self.has_infinity

    def _magnitude(self, code: int) -> float:
        """Return the value of a code without its sign."""
        if code > self._largest_code:
            return math.inf if self.has_infinity and code == self._overflow_code else math.nan
        exponent, fraction = divmod(code, 1 << self.fraction_bits)
        leading = 1 << self.fraction_bits if exponent else 0
        return math.ldexp(leading + fraction, max(exponent, 1) - self.bias - self.fraction_bits)


@dataclass(frozen=True)
class IntegerFormat:
    """Integers in two's complement that count steps of one size.

    As in ``quantize.quantize_symmetric``, no value is rounded to the lowest code (-128 of int8).

    Attributes:
        name: What it is called.
        bits: Width of one integer.
        scale: Size of one step.
    """

    name: str
    bits: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"The scale of {self.name} must be above 0 and finite: {self.scale}.")

    @property
    def largest_integer(self) -> int:
        """The largest integer that is chosen; its negative is the smallest."""
        return (1 << (self.bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest value; what is beyond is stored as this."""
        return self.largest_integer * self.scale

    def with_range(self, largest: float) -> IntegerFormat:
        """Return the format whose steps reach from ``-largest`` to ``largest``."""
        return replace(self, scale=largest / self.largest_integer)

    def encode(self, value: float) -> str:
        """Return the bits of the nearest integer (of two, the even one); beyond an end, the end."""
        if not math.isfinite(value):
            raise ValueError(f"{self.name} has no code for {value}: every code is a number.")
        steps = max(-self.largest_integer, min(self.largest_integer, value / self.scale))
        return f"{round(steps) % 2**self.bits:0{self.bits}b}"

    def decode(self, bits: str) -> float:
        """Return the value that the bits stand for; ``ValueError`` if they are not bits of it."""
        _check_bits(bits, self.bits, self.name)
        return (int(bits, 2) - (int(bits[0]) << self.bits)) * self.scale

    def fields(self, bits: str) -> dict[str, str]:
        """Return all bits as one field; the first of them weighs ``-2**(bits - 1)``."""
        _check_bits(bits, self.bits, self.name)
        return {"integer": bits}


def _check_bits(bits: str, count: int, name: str) -> None:
    if len(bits) != count or set(bits) - {"0", "1"}:
        raise ValueError(f"{name} is written as {count} zeros and ones, not {bits!r}.")


FORMATS: dict[str, FloatFormat | IntegerFormat] = {
    number_format.name: number_format
    for number_format in (
        FloatFormat("fp32", exponent_bits=8, fraction_bits=23),
        # tf32 takes 32 bits in memory, but only 19 count: these are the ones modelled here.
        FloatFormat("tf32", exponent_bits=8, fraction_bits=10),
        FloatFormat("fp16", exponent_bits=5, fraction_bits=10),
        FloatFormat("bf16", exponent_bits=8, fraction_bits=7),
        FloatFormat("fp8 E4M3", exponent_bits=4, fraction_bits=3, has_infinity=False),
        FloatFormat("fp8 E5M2", exponent_bits=5, fraction_bits=2),
        IntegerFormat("int8", bits=8),
        IntegerFormat("int4", bits=4),
    )
}
