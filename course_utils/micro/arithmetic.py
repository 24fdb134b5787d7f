"""The arithmetic of an integer network: scales as a whole number and a shift, bytes that saturate.

Method: Jacob et al., 2018, arXiv 1712.05877, section 2.2.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

LOWEST, HIGHEST = -128, 127  # of a signed byte
MANTISSA_BITS = 31
LARGEST_SHIFT = 62
LARGEST_PIXEL = 255


def requantize(accumulator: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> np.ndarray:
    """Return ``accumulator * multiplier / 2**shift``, rounded to the nearest integer.

    Exactly half way it rounds up: half of a step is added, then the shift cuts off. Only the
    product needs 64 bits.

    Args:
        accumulator: Integers of 32 bits.
        multiplier: From 2**30 to 2**31 - 1, see ``find_multiplier``.
        shift: From 1 to 62.

    Returns:
        int64, in the shape to which the three broadcast.

    Raises:
        ValueError: A shift is out of range.
    """
    product = np.multiply(accumulator, multiplier, dtype=np.int64)
    return round_shift(product, shift)


def round_shift(values: np.ndarray, shift: ArrayLike) -> np.ndarray:
    """Return ``values / 2**shift`` to the nearest integer, halves upwards, in the values' type.

    Raises:
        ValueError: A shift is not from 1 to 62.
    """
    shift = np.asarray(shift, values.dtype)
    if not ((shift >= 1) & (shift <= LARGEST_SHIFT)).all():
        raise ValueError(f"Shifts have to lie between 1 and {LARGEST_SHIFT}, not {shift}.")
    half = np.left_shift(1, shift - 1, dtype=values.dtype)
    rounded: np.ndarray = (values + half) >> shift
    return rounded


def find_multiplier(ratio: float) -> tuple[int, int]:
    """Return the multiplier and the shift with which ``multiplier / 2**shift`` is nearest a ratio.

    The multiplier lies from 2**30 to 2**31 - 1, so it has 31 bits, however small the ratio is.

    Args:
        ratio: Of two scales; above 0.

    Raises:
        ValueError: No shift from 1 to 62 serves this ratio, or it is none.
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"A ratio of scales is a number above 0, not {ratio}.")
    fraction, exponent = math.frexp(ratio)  # ratio = fraction * 2**exponent, fraction in [0.5, 1)
    multiplier, shift = round(fraction * 2**MANTISSA_BITS), MANTISSA_BITS - exponent
    if multiplier == 2**MANTISSA_BITS:  # rounded up to a whole 1
        multiplier, shift = multiplier // 2, shift - 1
    if not 1 <= shift <= LARGEST_SHIFT:
        raise ValueError(f"A ratio of {ratio:g} would need a shift of {shift}; there is 1 to 62.")
    return multiplier, shift


def saturate(values: np.ndarray, low: int = LOWEST) -> np.ndarray:
    """Return the values as signed bytes; those outside of [low, 127] become its ends."""
    clipped: np.ndarray = np.clip(values, low, HIGHEST).astype(np.int8)
    return clipped


def to_pixels(images: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Return images as a camera gives them: pixels from 0 to 255, uint8.

    Args:
        images: (n, channels, rows, columns) uint8, which stay as they are, or float32 in [0, 1],
            which are multiplied by 255 and rounded.
        image_shape: What one image has to have.

    Raises:
        ValueError: The images have another shape or type, or values outside of [0, 1].
    """
    if images.shape[1:] != image_shape or images.dtype not in (np.uint8, np.float32):
        wanted = ", ".join(map(str, image_shape))
        raise ValueError(
            f"This network takes images of shape (n, {wanted}), as uint8 or as float32 in [0, 1];"
            f" it was given {images.dtype} of shape {images.shape}."
        )
    if images.dtype == np.uint8 or len(images) == 0:
        return images.astype(np.uint8, copy=False)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # so that NaN is refused too
        raise ValueError(
            f"Pixels as float32 run from 0 to 1; these run from {low:g} to {high:g}. Divide whole"
            " numbers up to 255 by 255, or give them as uint8."
        )
    return np.rint(images * np.float32(LARGEST_PIXEL)).astype(np.uint8)
