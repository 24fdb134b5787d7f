"""Scales as a whole number and a shift, bytes that saturate, pixels."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from course_utils import micro
from course_utils.micro.arithmetic import round_shift, saturate

ACCUMULATORS = st.integers(-(2**31), 2**31 - 1)
MULTIPLIERS = st.integers(2**30, 2**31 - 1)
SHIFTS = st.integers(1, 62)


def to_nearest(value: Fraction) -> int:
    """Return the nearest integer, halves upwards, in exact arithmetic."""
    return math.floor(value + Fraction(1, 2))


@given(ACCUMULATORS, MULTIPLIERS, SHIFTS)
@example(3, 2**30, 31)  # 1.5
@example(-3, 2**30, 31)  # -1.5
@example(-(2**31), 2**31 - 1, 62)
def test_requantizing_is_exact_to_the_nearest_integer(accumulator, multiplier, shift):
    found = micro.requantize(accumulator, multiplier, shift)
    assert found == to_nearest(Fraction(accumulator * multiplier, 2**shift))


def test_halves_are_rounded_upwards():
    assert list(micro.requantize([3, 1, -1, -3], 2**30, 31)) == [2, 1, 0, -1]


@given(ACCUMULATORS, MULTIPLIERS, st.integers(33, 62))
def test_the_upper_half_of_the_product_is_enough(accumulator, multiplier, shift):
    """What the kernels in C do with shifts above 32."""
    upper = accumulator * multiplier >> 32
    assert -(2**31) <= upper + 2 ** (shift - 33) < 2**31
    found = (upper + 2 ** (shift - 33)) >> (shift - 32)
    assert found == micro.requantize(accumulator, multiplier, shift)


def test_each_output_has_a_multiplier_and_a_shift_of_its_own():
    sums = np.array([[100, 100], [-7, 7]], np.int32)
    found = micro.requantize(sums, np.array([2**30, 2**30 + 2**29]), np.array([31, 30]))
    assert found.tolist() == [[50, 150], [-3, 11]]


@pytest.mark.parametrize("shift", [0, 63, [40, -1]])
def test_a_shift_out_of_range_is_refused(shift):
    with pytest.raises(ValueError, match="between 1 and 62"):
        micro.requantize(1, 2**30, shift)


@given(st.integers(-(2**29), 2**29), st.integers(1, 30))
def test_shifting_32_bits_rounds_alike(value, shift):
    found = round_shift(np.array([value], np.int32), shift)
    assert found.dtype == np.int32
    assert found[0] == to_nearest(Fraction(value, 2**shift))


@given(st.floats(2.0**-30, 2.0**29))
@example(1 - 2.0**-53)  # its fraction is rounded up to 1
@example(0.25)
def test_a_multiplier_stands_for_its_ratio(ratio):
    multiplier, shift = micro.find_multiplier(ratio)
    assert 2**30 <= multiplier < 2**31
    assert 1 <= shift <= 62
    assert abs(Fraction(multiplier, 2**shift) / Fraction(ratio) - 1) <= Fraction(1, 2**31)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan, 2.0**40, 2.0**-40])
def test_a_ratio_without_a_multiplier_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        micro.find_multiplier(ratio)


def test_bytes_saturate():
    assert saturate(np.array([-1000, -128, 5, 127, 128])).tolist() == [-128, -128, 5, 127, 127]
    assert saturate(np.array([-1000, 3, 1000]), low=7).tolist() == [7, 7, 127]


def test_every_pixel_survives_the_way_over_float32():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images = np.divide(pixels, 255, dtype=np.float32)
    assert np.array_equal(micro.to_pixels(images, (1, 16, 16)), pixels)
    assert micro.to_pixels(pixels, (1, 16, 16)) is pixels


def test_no_images_are_no_pixels():
    assert micro.to_pixels(np.zeros((0, 1, 4, 4), np.float32), (1, 4, 4)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 1, 4, 5), np.float32), r"\(n, 1, 4, 4\).*float32 of shape \(2, 1, 4, 5\)"),
        (np.zeros((1, 4, 4), np.float32), r"\(n, 1, 4, 4\)"),
        (np.zeros((2, 1, 4, 4)), "given float64"),
        (np.full((2, 1, 4, 4), 200, np.float32), "from 200 to 200.*Divide"),
        (np.full((2, 1, 4, 4), -0.1, np.float32), "from -0.1"),
        (np.full((2, 1, 4, 4), np.nan, np.float32), "from nan"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, told):
    with pytest.raises(ValueError, match=told):
        micro.to_pixels(images, (1, 4, 4))
