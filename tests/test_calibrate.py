"""Calibration: how values are counted, and which range each method chooses for them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from course_utils import calibrate
from course_utils.calibrate import (
    Range,
    count,
    entropy,
    mean_squared_error,
    median,
    min_max,
    percentile,
)
from course_utils.quantize import quantize_affine

SIZE = 20_000
LARGE = float(np.float32(1e38))  # a third of the largest float32
NUMBERS = st.one_of(
    st.just(0.0),
    st.floats(-1, 1, width=32, allow_subnormal=False),
    st.floats(-LARGE, LARGE, width=32, allow_subnormal=False),
)


def draw_normal(random):
    return random.normal(size=SIZE)


def draw_shifted(random):
    return random.normal(2, 1, SIZE)


def draw_after_relu(random):
    return np.maximum(random.normal(size=SIZE), 0)


def draw_exponential(random):
    return random.exponential(size=SIZE)


def draw_laplace(random):
    return random.laplace(size=SIZE)


def draw_heavy_tail(random):
    return random.standard_t(2.5, SIZE)


def draw_uniform(random):
    return random.uniform(-1, 3, SIZE)


def draw_outlier(random):
    return np.append(random.uniform(0, 1, SIZE), 30.0)


DRAWS = [
    draw_normal, draw_shifted, draw_after_relu, draw_exponential,
    draw_laplace, draw_heavy_tail, draw_uniform, draw_outlier,
]  # fmt: skip


@pytest.fixture(params=DRAWS, ids=lambda draw: draw.__name__.removeprefix("draw_"))
def values(request) -> np.ndarray:
    """Return float32 numbers of each distribution in turn."""
    return request.param(np.random.default_rng(0)).astype(np.float32)


def percentile_of_99(seen):
    return percentile(seen, 99)


def percentile_of_50_1(seen):
    return percentile(seen, 50.1)


METHODS = [min_max, median, percentile_of_99, percentile_of_50_1, mean_squared_error, entropy]


def width_of_a_bin(seen) -> float:
    return float(seen.edges[1] - seen.edges[0])


def error_of(values: np.ndarray, limits: Range, bits: int) -> float:
    """Return the mean squared error of really rounding the values."""
    tensor = torch.from_numpy(values)
    restored = quantize_affine(tensor, bits, limits=limits).dequantize()
    return float((restored.double() - tensor.double()).square().mean())


@st.composite
def finite_values(draw, elements: st.SearchStrategy[float] = NUMBERS) -> np.ndarray:
    """Draw any numbers, of any sign and size, zeros and a single one among them."""
    return draw(arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=elements))


# Counting


def test_every_value_is_counted_once(values):
    seen = count(values)
    assert len(seen) == values.size
    assert seen.zeros == (values == 0).sum()
    assert seen.counts.shape == (calibrate.BINS,)
    assert seen.edges.shape == (calibrate.BINS + 1,)
    expected, _ = np.histogram(values[values != 0], seen.edges)
    assert np.array_equal(seen.counts, expected)


def test_the_edges_reach_from_the_smallest_value_to_the_largest():
    seen = count(np.array([[-1.5, 0.25], [2.5, 1.0]], np.float32))
    assert (seen.edges[0], seen.edges[-1]) == (-1.5, 2.5)
    assert seen.centres.shape == (calibrate.BINS,)
    assert seen.centres[0] == pytest.approx((seen.edges[0] + seen.edges[1]) / 2)


@given(finite_values())
def test_no_bin_holds_less_than_nothing(values):
    seen = count(values)
    assert (seen.counts >= 0).all()
    assert len(seen) == values.size


@given(finite_values())
def test_two_batches_together_are_counted_as_one(values):
    extremes = calibrate.find_extremes(values)
    flat = values.reshape(-1)
    middle = max(len(flat) // 3, 1)
    parts = [part for part in (flat[:middle], flat[middle:]) if part.size]
    together = count(parts[0], extremes)
    for part in parts[1:]:
        together += count(part, extremes)
    at_once = count(flat)
    assert np.array_equal(together.counts, at_once.counts)
    assert np.array_equal(together.edges, at_once.edges)
    assert (together.zeros, len(together)) == (at_once.zeros, len(at_once))
    assert np.array_equal(together.lows, at_once.lows)
    assert np.array_equal(together.highs, at_once.highs)


@given(finite_values())
def test_each_image_s_extremes_are_kept(values):
    seen = count(values)
    assert seen.lows.shape == seen.highs.shape == (len(values),)
    assert seen.lows.tolist() == [float(image.min()) for image in values]
    assert seen.highs.tolist() == [float(image.max()) for image in values]


def test_the_extremes_of_the_images_of_two_batches_stand_in_their_order():
    values = np.array([[-1, 2], [3, 4], [-6, -5]], np.float32)
    extremes = calibrate.find_extremes(values)
    together = count(values[:2], extremes) + count(values[2:], extremes)
    assert together.lows.tolist() == [-1, 3, -6]
    assert together.highs.tolist() == [2, 4, -5]


@pytest.mark.parametrize(
    ("values", "extremes"),
    [
        ([1, 3, 2], (0, 3)),
        ([-1, -3], (-3, 0)),
        ([-1, 2], (-1, 2)),
        ([5], (0, 5)),
        ([0, 0], (0, 0)),
        ([[-0.5], [0.25]], (-0.5, 0.25)),
    ],
)
def test_extremes_are_widened_to_hold_zero(values, extremes):
    assert calibrate.find_extremes(np.array(values, np.float32)) == extremes


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_cannot_be_counted(shape):
    with pytest.raises(ValueError, match="no values to choose a range for"):
        count(np.zeros(shape, np.float32))


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("extremes", [None, Range(0.0, 1.0)])
def test_values_that_are_not_finite_cannot_be_counted(strange, extremes):
    with pytest.raises(ValueError, match="NaN or infinite: no range can hold them"):
        count(np.array([0.5, strange, 1.0], np.float32), extremes)


# What lies outside


def test_the_share_outside_is_that_of_the_values_beyond_the_ends(values):
    seen = count(values)
    width = width_of_a_bin(seen)
    low, high = min_max(seen)
    for below, above in itertools.product((0.0, 0.1, 0.7), repeat=2):
        limits = Range(low * (1 - below), high * (1 - above))
        beyond = ((values < limits.low) | (values > limits.high)).mean()
        far_beyond = ((values < limits.low - width) | (values > limits.high + width)).mean()
        assert far_beyond - 1e-12 <= seen.share_outside(limits) <= beyond + 1e-12


def test_the_share_outside_of_an_example():
    values = np.array([-2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0], np.float32)
    seen = count(values)
    assert seen.share_outside(Range(-2.5, 7.0)) == 0
    assert seen.share_outside(Range(-2.0, 3.5)) == 0.2
    assert seen.share_outside(Range(-1.5, 3.5)) == 0.3
    assert seen.share_outside(Range(-0.5, 0.5)) == 0.7  # zeros are never outside


def test_nothing_is_outside_of_the_whole_range(values):
    seen = count(values)
    assert seen.share_outside(min_max(seen)) == 0


# The methods


@pytest.mark.parametrize("method", METHODS)
@given(values=finite_values())
def test_a_range_holds_zero_and_lies_within_the_extremes(method, values):
    seen = count(values)
    whole, limits = min_max(seen), method(seen)
    assert isinstance(limits, Range)
    assert whole.low <= limits.low <= 0 <= limits.high <= whole.high
    assert limits.low < limits.high  # so that there is a step


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values", [[0.0], [0.0, 0.0, 0.0], [3.0], [-3.0], [-1.0, -2.0], [0.0, 5.0], [-5.0, 0.0]]
)
def test_few_values_have_a_range_that_can_be_used(method, values):
    values = np.array(values, np.float32)
    limits = method(count(values))
    restored = quantize_affine(torch.from_numpy(values), 8, limits=limits).dequantize()
    assert restored.isfinite().all()
    assert (restored[values == 0] == 0).all()


@pytest.mark.parametrize("power", [-100, -60, 60, 126])
@pytest.mark.parametrize("method", METHODS)
def test_the_range_of_tiny_and_huge_values_is_scaled_like_them(method, power):
    values = np.round(1024 * np.sin(np.arange(1000))).astype(np.float32) / 1024
    plain = method(count(values))
    values = np.ldexp(values, power)
    assert np.isfinite(values).all()
    scaled = method(count(values))
    assert np.ldexp(scaled, -power) == pytest.approx(plain, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[1e-44], [-1e-44, 0], [1e-38, -1e-40], [1e-35]])
def test_values_that_differ_from_zero_by_nothing_have_a_range_too(method, values):
    limits = method(count(np.array(values, np.float32)))
    assert limits.low <= 0 <= limits.high
    assert limits.low < limits.high


@pytest.mark.filterwarnings("error")  # of NumPy: an overflow
def test_the_largest_numbers_of_all_can_be_counted():
    largest = np.finfo(np.float32).max
    seen = count(np.array([-largest, 0, largest], np.float32))
    assert min_max(seen) == (-float(largest), float(largest))
    assert (len(seen), seen.zeros) == (3, 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_range_of_mirrored_values_is_mirrored(method, values):
    limits, mirrored = method(count(values)), method(count(-values))
    width = float(max(values.max(), 0) - min(values.min(), 0))
    assert -mirrored.high == pytest.approx(limits.low, abs=0.01 * width)
    assert -mirrored.low == pytest.approx(limits.high, abs=0.01 * width)


def test_min_max_is_the_smallest_and_the_largest_value(values):
    low, high = float(values.min()), float(values.max())
    assert min_max(count(values)) == (min(low, 0), max(high, 0))


def draw_images(random) -> np.ndarray:
    """Draw 41 images of 3x8x8 whose extremes differ, some of them above 0 only."""
    sizes, shifts = random.uniform(0.5, 2, (2, 41, 1, 1, 1))
    return (sizes * random.normal(size=(41, 3, 8, 8)) + shifts).astype(np.float32)


@pytest.mark.parametrize("images", [41, 40, 2, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_median_is_that_of_the_extremes_of_the_images(images, sign):
    values = sign * draw_images(np.random.default_rng(0))[:images]
    low, high = (np.median(extreme(values, axis=(1, 2, 3))) for extreme in (np.min, np.max))
    assert median(count(values)) == (low, high)
    parts = np.array_split(values, 3) if images > 2 else [values]
    counted = [count(part, calibrate.find_extremes(values)) for part in parts]
    assert median(sum(counted[1:], counted[0])) == (low, high)


@pytest.mark.parametrize("offset", [50, -50])
def test_the_median_is_widened_to_hold_zero(offset):
    values = draw_images(np.random.default_rng(0)) + np.float32(offset)
    low, high = median(count(values))
    assert min(abs(low), abs(high)) == 0
    assert max(abs(low), abs(high)) > 50


@pytest.mark.parametrize("factor", [255, 1e6])
@pytest.mark.parametrize("broken", [1, 10, 20])
def test_fewer_than_half_of_the_images_can_be_broken_without_harm(factor, broken):
    """Not even then does the median leave the extremes of the images that are whole."""
    whole = draw_images(np.random.default_rng(0))
    values = whole.copy()
    values[:broken] *= factor
    limits, before = median(count(values)), median(count(whole))
    assert min_max(count(values)).high > 0.2 * factor * before.high
    lows, highs = whole.min(axis=(1, 2, 3)), whole.max(axis=(1, 2, 3))
    assert lows.min() <= limits.low <= lows.max()
    assert highs.min() <= limits.high <= highs.max()
    if broken == 1:
        assert limits == pytest.approx(before, rel=0.1)


def test_more_than_half_of_the_images_move_the_median():
    values = draw_images(np.random.default_rng(0))
    values[:21] *= 255
    assert median(count(values)).high > 100


@pytest.mark.parametrize("images", [1, 2, 7])
def test_images_of_nothing_but_zeros_have_the_whole_range(images):
    seen = count(np.zeros((images, 4, 4), np.float32))
    assert median(seen) == min_max(seen)


def test_an_activation_that_most_images_leave_at_zero_has_the_whole_range():
    values = np.zeros((9, 4), np.float32)
    values[1, 2], values[4, 1], values[5, 3] = 3.0, 7.0, -2.0
    assert median(count(values)) == (-2, 7)
    values[6:, 0] = [1.0, 2.0, 3.0]  # now five of nine are above 0 somewhere
    assert median(count(values)) == (0, 1)


@pytest.mark.parametrize("percent", [50.5, 75, 90, 99, 99.9, 99.99])
def test_a_percentile_is_a_quantile_to_the_width_of_a_bin(values, percent):
    seen = count(values)
    limits = percentile(seen, percent)
    share = 1 - percent / 100
    for end, quantile in ((limits.low, share), (limits.high, 1 - share)):
        # Between two values there are several conventions: any of them will do.
        nearest = [np.quantile(values, quantile, method=side) for side in ("lower", "higher")]
        if end == limits.low:
            least, most = (min(float(value), 0) for value in nearest)
        else:
            least, most = (max(float(value), 0) for value in nearest)
        assert least - width_of_a_bin(seen) <= end <= most + width_of_a_bin(seen)


@given(finite_values())
def test_the_hundredth_percentile_is_the_whole_range(values):
    assume(values.any())
    seen = count(values)
    assert percentile(seen, 100) == min_max(seen)


@pytest.mark.parametrize("percent", [90, 99, 99.9])
def test_a_percentile_clips_no_more_than_it_may(values, percent):
    low, high = percentile(count(values), percent)
    allowed = 1 - percent / 100
    for beyond in (values < low, values > high):
        assert beyond.mean() <= allowed


def test_zeros_count_in_a_percentile():
    values = np.concatenate([np.zeros(90), np.arange(1, 11)]).astype(np.float32)
    assert percentile(count(values), 95.5).high == pytest.approx(6, abs=1e-3)
    assert percentile(count(values[90:]), 95.5).high == pytest.approx(10, abs=1e-3)
    assert percentile(count(values), 80).high < 1e-3  # a value in ten is no zero


def test_a_smaller_percentile_is_a_narrower_range(values):
    seen = count(values)
    ranges = [percentile(seen, percent) for percent in (60, 90, 99, 99.9, 100)]
    for narrow, wide in itertools.pairwise(ranges):
        assert wide.low <= narrow.low
        assert narrow.high <= wide.high


@pytest.mark.parametrize("percent", [50, 49.9, 0, -1, 100.1, 1000, math.nan, math.inf])
def test_a_percentile_that_leaves_no_range_is_refused(percent):
    with pytest.raises(ValueError, match="choose more than 50 and at most 100") as error:
        percentile(count(np.arange(5, dtype=np.float32)), percent)
    assert str(percent) in str(error.value)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_no_shrunken_range_rounds_much_better_than_the_one_chosen(values, bits):
    """The search tries ranges 9 % apart: that costs a little at most."""
    seen = count(values)
    low, high = min_max(seen)
    chosen = error_of(values, mean_squared_error(seen, bits), bits)
    tried = [
        error_of(values, Range(low * share, high * share), bits)
        for share in np.linspace(0.005, 1, 200)
    ]
    assert chosen <= 1.1 * min(tried)
    assert chosen <= 1.005 * error_of(values, min_max(seen), bits)


@pytest.mark.parametrize(("method", "bits"), [(mean_squared_error, 4), (entropy, 8)])
def test_one_outlier_is_clipped(method, bits):
    even = np.random.default_rng(1).uniform(0, 1, SIZE)
    outlier = count(np.append(even, 100).astype(np.float32))
    limits = method(outlier, bits)
    assert 0.9 < limits.high < 20
    assert outlier.share_outside(limits) == pytest.approx(1 / SIZE, rel=0.01)


def test_an_outlier_that_costs_less_than_a_finer_step_saves_is_kept():
    """Clipping it costs 9801; 8 bits over the whole range cost SIZE * 0.39**2 / 12, or 256."""
    even = np.random.default_rng(1).uniform(0, 1, SIZE)
    assert mean_squared_error(count(np.append(even, 100).astype(np.float32)), 8).high == 100


@pytest.mark.parametrize("method", [mean_squared_error, entropy])
@pytest.mark.parametrize("lowest", [0, -1, -5])
def test_evenly_spread_values_are_kept(method, lowest):
    even = np.linspace(lowest, 1, 50_001, dtype=np.float32)
    limits = method(count(even))
    assert limits == pytest.approx((lowest, 1), rel=0.05)


def test_fewer_bits_clip_more(values):
    seen = count(values)
    highs = [mean_squared_error(seen, bits).high for bits in (2, 3, 4, 6, 8)]
    assert highs == sorted(highs)


def test_entropy_clips_a_heavy_tail_but_little_of_it():
    values = np.abs(draw_heavy_tail(np.random.default_rng(2))).astype(np.float32)
    seen = count(values)
    limits = entropy(seen)
    assert limits.high < 0.6 * min_max(seen).high
    assert 0 < seen.share_outside(limits) < 0.02


def test_entropy_ends_at_the_same_distance_or_at_the_extreme(values):
    seen = count(values)
    low, high = entropy(seen)
    whole = min_max(seen)
    edge = max(-low, high)
    assert low == pytest.approx(max(whole.low, -edge))
    assert high == pytest.approx(min(whole.high, edge))


@pytest.mark.parametrize("method", [entropy, mean_squared_error])
@pytest.mark.parametrize("zeros", [1, 1000, 10 * SIZE])
def test_zeros_do_not_move_a_range(method, values, zeros):
    nonzero = values[values != 0]
    more = np.concatenate([nonzero, np.zeros(zeros, np.float32)])
    assert method(count(more)) == method(count(nonzero))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("method", [entropy, mean_squared_error])
def test_a_range_can_be_chosen_for_every_width(method, bits):
    seen = count(np.random.default_rng(0).normal(size=2000).astype(np.float32))
    whole, limits = min_max(seen), method(seen, bits)
    assert whole.low <= limits.low < 0 < limits.high <= whole.high
