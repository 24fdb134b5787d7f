"""Quantization: the integers, what they stand for, and what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from course_utils import quantize
from course_utils.models import MLP
from course_utils.quantize import (
    fold_batch_norms,
    narrow_weights,
    pack_bits,
    quantize_affine,
    quantize_bias,
    quantize_symmetric,
    quantize_weights,
    quantized_weights,
    sqnr_db,
    unpack_bits,
)

WIDTHS = st.integers(2, 16)
LARGE = float(np.float32(1e38))  # a third of the largest float32
NUMBERS = st.one_of(
    st.floats(-1, 1, width=32, allow_subnormal=False),
    st.floats(-LARGE, LARGE, width=32, allow_subnormal=False),
)


@st.composite
def tensors(draw, least_dims: int = 0) -> torch.Tensor:
    """Draw a float32 tensor of up to four dimensions."""
    shape = array_shapes(min_dims=least_dims, max_dims=4, max_side=4)
    return torch.from_numpy(np.array(draw(arrays(np.float32, shape, elements=NUMBERS))))


@st.composite
def tensors_with_axis(draw) -> tuple[torch.Tensor, int]:
    """Draw a tensor and one of its axes, counted from the front or from the back."""
    tensor = draw(tensors(least_dims=1))
    return tensor, draw(st.integers(-tensor.ndim, tensor.ndim - 1))


def assert_error_is_at_most_half_a_step(tensor, quantized):
    """Check every number.

    A float32 has 24 bits, and a handful of roundings lie between a number and what its integer
    stands for: hence a tolerance of 2**-21 of the largest number.
    """
    error = (quantized.dequantize().double() - tensor.double()).abs()
    tolerance = 2.0**-21 * tensor.double().abs().max()
    assert (error <= quantized.scale.double() / 2 + tolerance).all()


def assert_integers_are_within(quantized, low, high):
    assert quantized.integers.dtype == torch.int32
    assert low <= quantized.integers.min()
    assert quantized.integers.max() <= high


# Rounding to integers


@given(tensors(), WIDTHS)
def test_symmetric_error_is_at_most_half_a_step(tensor, bits):
    assert_error_is_at_most_half_a_step(tensor, quantize_symmetric(tensor, bits))


@given(tensors(), WIDTHS)
def test_affine_error_is_at_most_half_a_step(tensor, bits):
    assert_error_is_at_most_half_a_step(tensor, quantize_affine(tensor, bits))


@given(tensors_with_axis(), WIDTHS)
def test_error_is_at_most_half_a_step_of_the_channel(case, bits):
    tensor, axis = case
    assert_error_is_at_most_half_a_step(tensor, quantize_symmetric(tensor, bits, axis))
    assert_error_is_at_most_half_a_step(tensor, quantize_affine(tensor, bits, axis))


@given(tensors(), WIDTHS)
def test_symmetric_integers_reach_as_far_down_as_up(tensor, bits):
    quantized = quantize_symmetric(tensor, bits)
    assert_integers_are_within(quantized, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    assert (quantized.zero_point == 0).all()


@given(tensors(), WIDTHS)
def test_affine_integers_and_zero_point_are_never_negative(tensor, bits):
    quantized = quantize_affine(tensor, bits)
    assert_integers_are_within(quantized, 0, 2**bits - 1)
    assert 0 <= quantized.zero_point <= 2**bits - 1
    assert quantized.zero_point.dtype == torch.int32


@given(tensors_with_axis(), WIDTHS, st.sampled_from([quantize_symmetric, quantize_affine]))
def test_each_channel_is_quantized_as_if_it_were_alone(case, bits, quantize_tensor):
    tensor, axis = case
    quantized = quantize_tensor(tensor, bits, axis)
    ones = [1] * tensor.ndim
    ones[axis] = tensor.shape[axis]
    assert list(quantized.scale.shape) == list(quantized.zero_point.shape) == ones
    for channel in range(tensor.shape[axis]):
        alone = quantize_tensor(tensor.select(axis, channel), bits)
        assert torch.equal(quantized.integers.select(axis, channel), alone.integers)
        assert quantized.scale.select(axis, channel).item() == alone.scale.item()
        assert quantized.zero_point.select(axis, channel).item() == alone.zero_point.item()


@given(tensors_with_axis(), WIDTHS, st.booleans())
def test_symmetric_quantization_of_the_result_changes_nothing(case, bits, per_channel):
    tensor, axis = case
    once = quantize_symmetric(tensor, bits, axis if per_channel else None)
    twice = quantize_symmetric(once.dequantize(), bits, axis if per_channel else None)
    assert torch.equal(once.integers, twice.integers)


@given(tensors(), WIDTHS)
def test_affine_quantization_of_the_result_changes_nothing(tensor, bits):
    once = quantize_affine(tensor, bits)
    # Where 0 lies half-way between two steps of the range, the range moves by half a step, and
    # its last integer may stay unused. The result then spans one step less than the original.
    step = once.scale.double()
    zero = -tensor.double().min().clamp(max=0) / step
    assume(abs(zero % 1 - 0.5) > 0.02)  # 0.02: float32 places 0 no better among 2**16 integers
    twice = quantize_affine(once.dequantize(), bits)
    assert torch.equal(once.integers, twice.integers)
    assert torch.equal(once.zero_point, twice.zero_point)


@given(tensors(least_dims=1), WIDTHS, st.sampled_from([quantize_symmetric, quantize_affine]))
def test_zero_stays_exactly_zero(tensor, bits, quantize_tensor):
    tensor = torch.cat([tensor.flatten(), torch.zeros(1)])
    quantized = quantize_tensor(tensor, bits)
    assert quantized.dequantize()[tensor == 0].eq(0).all()
    assert quantized.integers[-1] == quantized.zero_point


@given(NUMBERS.filter(lambda number: abs(number) > 1e-30), WIDTHS)
def test_equal_numbers_get_the_integer_at_the_end_of_the_range(number, bits):
    tensor = torch.full((3, 2), number)
    symmetric, affine = quantize_symmetric(tensor, bits), quantize_affine(tensor, bits)
    last = 2 ** (bits - 1) - 1
    assert (symmetric.integers == (last if number > 0 else -last)).all()
    assert (affine.integers == (2**bits - 1 if number > 0 else 0)).all()
    for quantized in (symmetric, affine):
        assert torch.allclose(quantized.dequantize(), tensor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("axis", [None, 0])
def test_zeros_stay_zeros(bits, axis):
    tensor = torch.zeros(2, 3)
    for quantized in (quantize_symmetric(tensor, bits, axis), quantize_affine(tensor, bits, axis)):
        assert torch.equal(quantized.dequantize(), tensor)
        assert (quantized.scale > 0).all()


def test_a_channel_of_zeros_does_not_disturb_the_others():
    tensor = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.5, 1.0]])
    quantized = quantize_symmetric(tensor, 8, channel_axis=0)
    assert quantized.integers.tolist() == [[0, 0, 0], [-127, 64, 127]]


@pytest.mark.parametrize("largest", [1e-44, 1e-38, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("quantize_tensor", [quantize_symmetric, quantize_affine])
def test_tiny_and_huge_numbers(largest, quantize_tensor):
    tensor = largest * torch.linspace(-1, 1, 9)
    quantized = quantize_tensor(tensor, 4)
    assert quantized.dequantize().isfinite().all()
    assert_error_is_at_most_half_a_step(tensor, quantized)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2, 5)])
@pytest.mark.parametrize("quantize_tensor", [quantize_symmetric, quantize_affine])
def test_the_shape_is_kept(shape, quantize_tensor):
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    quantized = quantize_tensor(tensor, 8)
    assert quantized.integers.shape == quantized.dequantize().shape == tensor.shape
    assert quantized.scale.shape == quantized.zero_point.shape == ()


def test_the_integers_of_an_example():
    tensor = torch.tensor([-1.2, 0.0, 0.45, 2.0])
    symmetric = quantize_symmetric(tensor, 4)  # one step is 2 / 7
    assert symmetric.integers.tolist() == [-4, 0, 2, 7]
    affine = quantize_affine(tensor, 4)  # one step is 3.2 / 15
    assert affine.integers.tolist() == [0, 6, 8, 15]
    assert affine.zero_point == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("quantize_tensor", [quantize_symmetric, quantize_affine])
def test_tensors_of_other_types_are_quantized_in_float32(dtype, quantize_tensor):
    tensor = torch.linspace(-3, 3, 50).to(dtype)
    quantized = quantize_tensor(tensor, 16)
    assert quantized.scale.dtype == quantized.dequantize().dtype == torch.float32
    assert_error_is_at_most_half_a_step(tensor, quantized)


@pytest.mark.parametrize("quantize_tensor", [quantize_symmetric, quantize_affine])
def test_the_tensor_itself_is_not_changed(quantize_tensor):
    tensor = torch.tensor([0.3, -1.2, 2.7])
    quantize_tensor(tensor, 2)
    assert torch.equal(tensor, torch.tensor([0.3, -1.2, 2.7]))


# Rounding to a range that was chosen before


def test_the_integers_of_a_range():
    tensor = torch.tensor([-9.0, -1.0, -0.26, 0.0, 0.24, 1.44, 2.0, 77.0])
    made = quantize_affine(tensor, 4, limits=(-1.0, 2.0))  # one step is 0.2
    assert made.integers.tolist() == [0, 0, 4, 5, 6, 12, 15, 15]
    assert made.zero_point == 5
    assert made.integers.dtype == made.zero_point.dtype == torch.int32
    assert made.scale.dtype == torch.float32


@given(tensors(), WIDTHS)
def test_the_extremes_as_range_change_nothing(tensor, bits):
    low, high = min(tensor.min().item(), 0), max(tensor.max().item(), 0)
    assume(low < high)
    expected = quantize_affine(tensor, bits)
    made = quantize_affine(tensor, bits, limits=(low, high))
    assert torch.equal(made.integers, expected.integers)
    assert made.scale == expected.scale
    assert made.zero_point == expected.zero_point


@pytest.mark.parametrize("limits", [(0.0, 3.0), (-3.0, 0.0), (-1.0, 3.0)])
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_clipped_values_end_at_the_range(limits, bits):
    far = torch.tensor([-1e30, -1e3, 1e3, 1e30])
    made = quantize_affine(far, bits, limits=limits)
    assert made.integers.tolist() == [0, 0, 2**bits - 1, 2**bits - 1]
    ends = made.dequantize().tolist()
    half_a_step = 0.5001 * made.scale.item()  # what rounding the zero point may move the ends
    assert ends[0] == ends[1] == pytest.approx(limits[0], abs=half_a_step)
    assert ends[2] == ends[3] == pytest.approx(limits[1], abs=half_a_step)


@given(tensors(), st.floats(-50, 0, width=32), st.floats(0.125, 50, width=32), WIDTHS)
def test_what_is_inside_of_the_range_is_rounded_and_zero_stays_zero(tensor, low, high, bits):
    made = quantize_affine(tensor, bits, limits=(low, high))
    assert_integers_are_within(made, 0, 2**bits - 1)
    assert 0 <= made.zero_point <= 2**bits - 1
    error = (made.dequantize() - tensor).abs()
    inside = (tensor >= low) & (tensor <= high)
    assert (error[inside] <= 1.001 * made.scale).all()  # at an end, half a step more
    assert (made.dequantize()[tensor == 0] == 0).all()


@pytest.mark.parametrize(
    "limits",
    [(0.0, 0.0), (1.0, 2.0), (-2.0, -1.0), (1.0, -1.0), (math.nan, 1.0), (-1.0, math.nan),
     (-1.0, math.inf), (-math.inf, 0.0), (-3e38, 3e38)],
)  # fmt: skip
def test_a_range_without_zero_or_a_finite_width_is_refused(limits):
    with pytest.raises(ValueError, match="has to hold 0 and have a finite width") as error:
        quantize_affine(torch.ones(3), 8, limits=limits)
    assert f"not ({limits[0]}, {limits[1]})" in str(error.value)


@pytest.mark.parametrize("limits", [(0.0, 1e-44), (-1e-44, 0.0), (-1e-40, 1e-40)])
def test_a_range_too_narrow_for_a_step_makes_no_strange_integers(limits):
    made = quantize_affine(torch.tensor([-1.0, 0.0, 1.0]), 8, limits=limits)
    assert made.dequantize().isfinite().all()
    assert_integers_are_within(made, 0, 255)
    assert made.dequantize()[1] == 0


# A bias, on the grid of the products that it is added to


def test_the_bias_of_an_example():
    weight = quantize_symmetric(torch.tensor([[12.7, 0.0], [-1.27, 0.5]]), 8, channel_axis=0)
    bias = quantize_bias(torch.tensor([1.0, -0.0123]), 0.5, weight)  # steps of 0.05 and 0.005
    assert bias.integers.tolist() == [20, -2]
    assert bias.scale.tolist() == pytest.approx([0.05, 0.005])
    assert bias.zero_point.tolist() == [0, 0]
    assert (bias.bits, bias.integers.dtype) == (32, torch.int32)


@given(
    arrays(np.float32, 3, elements=st.floats(-10, 10, width=32)),
    st.floats(1e-3, 10),
    st.integers(2, 8),
    st.booleans(),
)
def test_a_bias_is_off_by_half_a_step_at_most(numbers, input_scale, bits, per_channel):
    weight = quantize_symmetric(
        torch.tensor([[0.5, -1.0], [0.02, 0.01], [4.0, 3.0]]), bits, 0 if per_channel else None
    )
    bias = torch.from_numpy(numbers)
    made = quantize_bias(bias, input_scale, weight)
    steps = (input_scale * weight.scale.reshape(-1)).expand(3).double()
    restored = steps * made.integers
    assert ((restored - bias).abs() <= 0.5 * steps + 1e-6 * bias.abs()).all()
    assert torch.allclose(made.dequantize().double(), restored, rtol=1e-6)


def test_sums_of_integers_with_their_bias_are_the_layer(tiny_mlp):
    """The layer in integers alone, multiplied by one step for each channel at the end."""
    layer = tiny_mlp.get_submodule("layers.0")
    random = torch.Generator().manual_seed(0)
    x = quantize_affine(torch.rand(5, 144, generator=random), 8)
    weight = quantize_symmetric(layer.weight.detach(), 8, channel_axis=0)
    bias = quantize_bias(layer.bias.detach(), x.scale.item(), weight)
    sums = (x.integers - x.zero_point).long() @ weight.integers.long().T + bias.integers
    real = x.dequantize().double() @ weight.dequantize().double().T + layer.bias.double()
    # half a step by the rounding of the bias, and float32 has seven digits for 200,000 steps
    assert ((bias.scale * sums - real).abs() <= 0.55 * bias.scale).all()


@pytest.mark.parametrize(
    ("bias", "largest_weight"),
    [(1.0, 1e-9), (-1.0, 1e-9), (3e38, 1.0), (math.nan, 1.0), (math.inf, 1.0), (2.0**31, 127.0)],
)
def test_a_bias_that_32_bits_cannot_hold_is_refused(bias, largest_weight):
    weight = quantize_symmetric(torch.tensor([[127.0], [largest_weight]]), 8, channel_axis=0)
    with pytest.raises(ValueError, match="does not fit into 32 bits"):
        quantize_bias(torch.tensor([0.0, bias]), 1.0, weight)


def test_the_largest_bias_that_fits_is_kept():
    weight = quantize_symmetric(torch.tensor([[127.0]]), 8)  # a step of 1
    bias = torch.tensor([2.0**31 - 1], dtype=torch.float64)
    assert quantize_bias(bias, 1.0, weight).integers.item() == 2**31 - 1


# What cannot be quantized


@pytest.mark.parametrize("quantize_tensor", [quantize_symmetric, quantize_affine])
class TestRefusals:
    @pytest.mark.parametrize("bits", [1, 17, 0, -3, 2.5, 32])
    def test_a_width_that_does_not_exist(self, quantize_tensor, bits):
        with pytest.raises(ValueError, match=f"{bits} bits cannot be made here: choose 2 to 16"):
            quantize_tensor(torch.ones(3), bits)

    @pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite(self, quantize_tensor, strange):
        with pytest.raises(ValueError, match=r"1 of 3 values are NaN or infinite.*Find where they"):
            quantize_tensor(torch.tensor([1.0, strange, 2.0]), 8)

    def test_an_empty_tensor(self, quantize_tensor):
        with pytest.raises(ValueError, match="empty: there is no range"):
            quantize_tensor(torch.ones(0, 3), 8)

    @pytest.mark.parametrize("axis", [2, 5, -3])
    def test_an_axis_that_does_not_exist(self, quantize_tensor, axis):
        with pytest.raises((ValueError, IndexError), match=str(axis)):
            quantize_tensor(torch.ones(2, 3), 8, axis)


# Signal to noise


@pytest.mark.parametrize("bits", range(2, 13))
def test_signal_to_noise_of_evenly_spread_numbers(bits):
    even = torch.linspace(-1, 1, 200_001, dtype=torch.float64).float()
    rounded = quantize_symmetric(even, bits).dequantize()
    assert sqnr_db(even, rounded) == pytest.approx(20 * math.log10(2**bits - 2), abs=0.05)


def test_signal_to_noise_of_an_example():
    tensor, approximation = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert sqnr_db(tensor, approximation) == pytest.approx(10 * math.log10(25 / 0.25))


@pytest.mark.parametrize("tensor", [torch.tensor([1.0, -2.0]), torch.zeros(3)])
def test_signal_to_noise_is_infinite_where_equal(tensor):
    assert sqnr_db(tensor, tensor.clone()) == math.inf


# Batch norms


def norms_of(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def give_statistics_(model):
    """Give batch norms statistics as after a training."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms_of(model):
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None:
                tensor.data.uniform_(0.5, 2, generator=generator)
    return model.eval()


@torch.inference_mode()
def assert_same_output(model, other, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    expected = model(images)
    assert torch.allclose(other(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_folding_keeps_the_output_and_leaves_no_batch_norm(tiny_resnet):
    folded = fold_batch_norms(tiny_resnet)
    assert_same_output(tiny_resnet, folded, (5, 1, 12, 12))
    assert len(norms_of(tiny_resnet)) == 1 + 3 * 2 + 2  # stem, three blocks, two shortcuts
    assert norms_of(folded) == []


def test_folding_does_not_change_its_argument(tiny_resnet):
    before = copy.deepcopy(tiny_resnet.state_dict())
    tiny_resnet.train()
    folded = fold_batch_norms(tiny_resnet)
    assert tiny_resnet.training
    assert not folded.training
    tiny_resnet.eval()
    after = tiny_resnet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bias_before_a_batch_norm_is_folded_too():
    model = give_statistics_(nn.Sequential(nn.Conv2d(2, 3, 3, bias=True), nn.BatchNorm2d(3)))
    folded = fold_batch_norms(model)
    assert norms_of(folded) == []
    assert_same_output(model, folded, (2, 2, 5, 5))


class OutputUsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm2(self.conv(self.norm1(self.conv(x))))


def test_a_convolution_whose_output_is_used_twice_is_left_alone():
    model = give_statistics_(OutputUsedTwice())
    folded = fold_batch_norms(model)
    assert len(norms_of(folded)) == 1
    assert_same_output(model, folded, (2, 1, 6, 6))


def test_a_convolution_that_is_called_twice_is_left_alone():
    model = give_statistics_(CalledTwice())
    folded = fold_batch_norms(model)
    assert len(norms_of(folded)) == 2
    assert_same_output(model, folded, (2, 2, 8, 8))


def test_a_batch_norm_before_its_convolution_is_left_alone():
    model = give_statistics_(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)))
    folded = fold_batch_norms(model)
    assert len(norms_of(folded)) == 1
    assert_same_output(model, folded, (2, 2, 5, 5))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_a_batch_norm_without_weights_or_statistics_keeps_the_output(options):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, **options))
    model = give_statistics_(model)
    folded = fold_batch_norms(model)
    assert len(norms_of(folded)) == (0 if "affine" in options else 1)
    assert_same_output(model, folded, (2, 2, 5, 5))


class NormCalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv2(self.norm(self.conv1(x))))


def test_a_batch_norm_that_is_called_twice_is_folded_twice():
    model = give_statistics_(NormCalledTwice())
    folded = fold_batch_norms(model)
    assert norms_of(folded) == []
    assert_same_output(model, folded, (2, 2, 8, 8))


# The weights of a model


@pytest.mark.parametrize("per_channel", [True, False])
def test_every_weight_sits_on_its_grid_and_nothing_else_changes(tiny_convnet, per_channel):
    quantized = quantize_weights(tiny_convnet, 4, per_channel)
    integers = quantized_weights(quantized)
    before, after = tiny_convnet.state_dict(), quantized.state_dict()
    assert integers.keys() == {name for name in before if name.endswith("weight")}
    for name, weight in before.items():
        if name in integers:
            expected = quantize_symmetric(weight, 4, 0 if per_channel else None)
            assert torch.equal(integers[name].integers, expected.integers)
            assert torch.equal(after[name], expected.dequantize())
        else:
            assert torch.equal(after[name], weight)


def test_per_channel_has_a_scale_for_each_output_channel(tiny_convnet):
    weights = quantized_weights(quantize_weights(tiny_convnet, 4, per_channel=True))
    assert all(len(w.scale) == w.scale.numel() == len(w.integers) for w in weights.values())
    weights = quantized_weights(quantize_weights(tiny_convnet, 4, per_channel=False))
    assert all(weight.scale.numel() == 1 for weight in weights.values())


def test_quantizing_does_not_change_the_model(tiny_convnet):
    before = copy.deepcopy(tiny_convnet.state_dict())
    quantize_weights(tiny_convnet, 2)
    after = tiny_convnet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert quantized_weights(tiny_convnet) == {}


def test_32_bits_are_a_plain_copy(tiny_convnet):
    plain = quantize_weights(tiny_convnet, 32)
    assert plain is not tiny_convnet
    assert quantized_weights(plain) == {}
    before, after = tiny_convnet.state_dict(), plain.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].data_ptr() != after[name].data_ptr() for name in before)


def test_a_copy_of_a_quantized_model_remembers_its_integers(tiny_convnet):
    quantized = quantize_weights(tiny_convnet, 3)
    copied = quantized_weights(copy.deepcopy(quantized))
    assert copied.keys() == quantized_weights(quantized).keys()
    assert all(weight.bits == 3 for weight in copied.values())


@pytest.mark.parametrize("bits", [1, 17, 33, 0])
def test_a_model_cannot_have_a_width_that_does_not_exist(bits):
    with pytest.raises(ValueError, match=f"{bits} bits cannot be made here: choose 2 to 16"):
        quantize_weights(MLP([4, 2]), bits)


def test_the_layer_of_a_strange_weight_is_named():
    model = MLP([4, 3, 2])
    model.layers[1].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"'layers\.1'.* 1 of 6 values are NaN"):
        quantize_weights(model, 8)


def change_in_place(model):
    model[0].weight.data[0, 0] += 1e-3


def replace_parameter(model):
    model[0].weight = nn.Parameter(2 * model[0].weight.detach())


def load_other_weights(model):
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


@pytest.mark.parametrize("change", [change_in_place, replace_parameter, load_other_weights])
def test_integers_of_a_weight_that_was_changed_since_are_refused(change):
    model = quantize_weights(nn.Sequential(nn.Linear(4, 3)), 4)
    assert quantized_weights(model).keys() == {"0.weight"}
    change(model)
    with pytest.raises(ValueError, match="Layer '0' was changed since it was quantized"):
        quantized_weights(model)
    assert quantized_weights(quantize_weights(model, 4)).keys() == {"0.weight"}


def test_a_changed_bias_leaves_the_integers_as_they_are():
    model = quantize_weights(nn.Sequential(nn.Linear(4, 3)), 4)
    model[0].bias.data += 1
    assert quantized_weights(model).keys() == {"0.weight"}


def test_a_layer_that_is_the_whole_model_is_named_as_its_parameter():
    model = quantize_weights(nn.Linear(4, 3), 4)
    assert quantized_weights(model).keys() <= dict(model.named_parameters()).keys()


@pytest.mark.parametrize("per_channel", [True, False])
def test_only_wider_weights_are_narrowed(per_channel):
    wide, narrow, plain = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
    model = nn.Sequential(
        quantize_weights(nn.Sequential(wide), 8, per_channel),
        quantize_weights(nn.Sequential(narrow), 5, per_channel),
        plain,
    )
    before = quantized_weights(model)
    narrowed = narrow_weights(model, 7)
    after = quantized_weights(narrowed)
    assert {name: grid.bits for name, grid in after.items()} == {"0.0.weight": 7, "1.0.weight": 5}
    axis = 0 if per_channel else None
    expected = quantize_symmetric(before["0.0.weight"].dequantize(), 7, axis)
    assert torch.equal(after["0.0.weight"].integers, expected.integers)
    assert torch.equal(after["0.0.weight"].scale, expected.scale)
    assert torch.equal(narrowed[0][0].weight, expected.dequantize())
    assert torch.equal(after["1.0.weight"].integers, before["1.0.weight"].integers)
    assert torch.equal(narrowed[1][0].weight, model[1][0].weight)
    assert torch.equal(narrowed[2].weight, plain.weight)
    assert torch.equal(narrowed[0][0].bias, wide.bias)


def test_narrowing_does_not_change_the_model(tiny_mlp):
    model = quantize_weights(tiny_mlp, 8)
    before = copy.deepcopy(model.state_dict())
    narrow_weights(model, 7)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {grid.bits for grid in quantized_weights(model).values()} == {8}


def test_a_model_that_was_not_quantized_is_not_narrowed(tiny_mlp):
    narrowed = narrow_weights(tiny_mlp, 7)
    assert quantized_weights(narrowed) == {}
    before = tiny_mlp.state_dict()
    assert all(torch.equal(before[name], value) for name, value in narrowed.state_dict().items())


# A width for each layer


def test_each_layer_gets_its_own_width(tiny_mlp):
    widths = {"layers.0": 3, "layers.1": 32, "layers.2": 16}
    quantized = quantize_weights(tiny_mlp, widths)
    grids = quantized_weights(quantized)
    assert {name: grid.bits for name, grid in grids.items()} == {
        "layers.0.weight": 3, "layers.2.weight": 16,
    }  # fmt: skip
    for name, bits in widths.items():
        alone = quantize_weights(tiny_mlp, bits).get_parameter(f"{name}.weight")
        assert torch.equal(quantized.get_parameter(f"{name}.weight"), alone)


@pytest.mark.parametrize("bits", [2, 8, 16, 32])
def test_one_width_for_each_layer_is_the_width_of_all(tiny_convnet, bits):
    widths = dict.fromkeys(quantize.count_weights(tiny_convnet), bits)
    one, other = (quantize_weights(tiny_convnet, given_) for given_ in (bits, widths))
    before, after = one.state_dict(), other.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert quantized_weights(one).keys() == quantized_weights(other).keys()


def test_the_order_of_the_names_does_not_matter(tiny_mlp):
    widths = {"layers.0": 3, "layers.1": 4, "layers.2": 5}
    turned = dict(reversed(widths.items()))
    one, other = (quantize_weights(tiny_mlp, given_).state_dict() for given_ in (widths, turned))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("layers.00", "layers.0"), ("layer.1", "layers.1"), ("layers.2.weight", "layers.2")],
)
def test_a_layer_that_does_not_exist_is_named_with_the_nearest(tiny_mlp, name, nearest):
    widths = {"layers.0": 4, "layers.1": 4, "layers.2": 4, name: 4}
    with pytest.raises(ValueError, match=f"no layer {name!r} .*Did you mean {nearest!r}"):
        quantize_weights(tiny_mlp, widths)


def test_a_name_that_is_near_to_none_is_answered_with_all(tiny_mlp):
    with pytest.raises(ValueError, match="no layer 'stem' to round") as error:
        quantize_weights(tiny_mlp, {"stem": 4})
    assert "Did you mean" not in str(error.value)
    assert "['layers.0', 'layers.1', 'layers.2']" in str(error.value)


def test_layers_without_a_width_are_named(tiny_mlp):
    with pytest.raises(ValueError, match=r"none for \['layers\.0', 'layers\.2'\]"):
        quantize_weights(tiny_mlp, {"layers.1": 4})
    with pytest.raises(ValueError, match="Each layer needs a width"):
        quantize_weights(tiny_mlp, {})


@pytest.mark.parametrize("bits", [1, 17, 33, 0])
def test_the_layer_of_a_width_that_does_not_exist_is_named(tiny_mlp, bits):
    widths = {"layers.0": 4, "layers.1": bits, "layers.2": 4}
    with pytest.raises(ValueError, match=rf"'layers\.1'.*{bits} bits cannot be made here"):
        quantize_weights(tiny_mlp, widths)


# Batch norms folded into steps


def rounded_before_its_norm(bits: int, gamma: list[float]) -> nn.Module:
    """Return a convolution of integers, and a batch norm of three channels behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(quantize_weights(nn.Conv2d(2, 3, 3), bits), nn.BatchNorm2d(3))
    give_statistics_(model)
    model[1].weight.data = torch.tensor(gamma)
    return model


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("gamma", [[1.0, 0.3, 2.0], [-1.0, 0.5, -0.25]])
def test_folding_keeps_the_integers_and_changes_their_steps(bits, gamma):
    model = rounded_before_its_norm(bits, gamma)
    (before,) = quantized_weights(model).values()
    folded = fold_batch_norms(model)
    (after,) = quantized_weights(folded).values()
    signs = torch.tensor(gamma).sign().view(3, 1, 1, 1)
    assert torch.equal(after.integers, before.integers * signs.int())
    assert after.integers.dtype == torch.int32
    gain = torch.tensor(gamma).abs() / (model[1].running_var + model[1].eps).sqrt()
    assert torch.allclose(after.scale, before.scale * gain.view(3, 1, 1, 1))
    assert (after.scale > 0).all()
    assert after.bits == bits
    assert norms_of(folded) == []
    assert_same_output(model, folded, (4, 2, 7, 7))


@pytest.mark.parametrize("gamma", [0.0, 1e-40, -1e-42])
def test_a_channel_that_its_norm_switches_off_has_zeros_and_a_step(gamma):
    model = rounded_before_its_norm(4, [gamma, 1.0, 1.0])
    (before,) = quantized_weights(model).values()
    folded = fold_batch_norms(model)
    (after,) = quantized_weights(folded).values()
    assert (after.integers[0] == 0).all()
    assert torch.equal(after.integers[1:], before.integers[1:])
    assert torch.equal(after.scale[0], before.scale[0])
    assert_same_output(model, folded, (4, 2, 7, 7))


def test_one_step_for_the_layer_becomes_one_for_each_channel():
    model = rounded_before_its_norm(4, [1.0, 0.5, 2.0])
    model[0] = quantize_weights(nn.Sequential(model[0]), 4, per_channel=False)[0]
    (before,) = quantized_weights(model).values()
    assert before.scale.numel() == 1
    folded = fold_batch_norms(model)
    (after,) = quantized_weights(folded).values()
    assert after.scale.shape == (3, 1, 1, 1)
    assert torch.equal(after.integers, before.integers)
    assert_same_output(model, folded, (4, 2, 7, 7))


def test_a_norm_without_gamma_is_folded_into_steps_too():
    model = rounded_before_its_norm(4, [1.0, 1.0, 1.0])
    model[1] = nn.BatchNorm2d(3, affine=False)
    give_statistics_(model)
    folded = fold_batch_norms(model)
    assert norms_of(folded) == []
    assert quantized_weights(folded).keys() == {"0.weight"}
    assert_same_output(model, folded, (4, 2, 7, 7))


# Integers that fill a byte


@pytest.mark.parametrize("bits", range(2, 9))
def test_spread_integers_stand_for_the_same_numbers(bits):
    weight = quantize_symmetric(torch.linspace(-1, 1, 60).reshape(3, 20), bits, channel_axis=0)
    spread = quantize.spread_integers(weight)
    assert torch.equal(spread.dequantize(), weight.dequantize())
    assert spread.bits == max(bits, 7)
    assert spread.integers.abs().max() <= 2 ** (spread.bits - 1) - 1
    if bits < 7:
        assert spread.integers.abs().max() > 31  # more would not fit
    assert (spread.integers % 2 ** max(7 - bits, 0) == 0).all()


# Packing


@st.composite
def widths_and_integers(draw) -> tuple[int, np.ndarray]:
    bits = draw(WIDTHS)
    fitting = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return bits, np.array(draw(st.lists(fitting, max_size=50)), np.int32)


@given(widths_and_integers())
def test_packed_integers_come_back(case):
    bits, integers = case
    packed = pack_bits(integers, bits)
    assert len(packed) == math.ceil(len(integers) * bits / 8)
    unpacked = unpack_bits(packed, bits, len(integers))
    assert unpacked.dtype == np.int32
    assert unpacked.tolist() == integers.tolist()


def test_integers_are_packed_without_gaps():
    packed = pack_bits(np.array([1, -1, 3]), 5)
    assert packed == bytes([0b00001_111, 0b11_00011_0])


@pytest.mark.parametrize("bits", range(2, 17))
def test_integers_that_do_not_fit_are_refused(bits):
    for strange in (-(2 ** (bits - 1)) - 1, 2 ** (bits - 1)):
        with pytest.raises(ValueError, match=f"{bits} bits hold .* to .*, not .*{strange}"):
            pack_bits(np.array([0, strange]), bits)


@given(WIDTHS, st.integers(1, 40), st.integers(1, 9))
def test_packed_integers_of_which_bytes_are_missing_are_refused(bits, count, missing):
    packed = pack_bits(np.zeros(count, int), bits)
    cut = packed[: max(len(packed) - missing, 0)]
    with pytest.raises(ValueError, match=f"^{count} integers of {bits} bits do not fit") as error:
        unpack_bits(cut, bits, count)
    assert str(error.value).endswith(f" into {len(cut)} bytes.")


@pytest.mark.parametrize(("bits", "count"), [(5, 8), (4, 2), (16, 3), (3, 5)])
def test_one_integer_more_than_the_bytes_hold_is_refused(bits, count):
    packed = pack_bits(np.arange(count) % 2, bits)
    fitting = len(packed) * 8 // bits
    assert unpack_bits(packed, bits, fitting)[:count].tolist() == [n % 2 for n in range(count)]
    with pytest.raises(ValueError, match=f"{fitting + 1} integers of {bits} bits do not fit"):
        unpack_bits(packed, bits, fitting + 1)


@pytest.mark.parametrize("bits", range(2, 17))
def test_what_quantization_makes_can_be_packed(bits):
    quantized = quantize_symmetric(torch.linspace(-1, 1, 33), bits).integers.numpy()
    assert np.array_equal(unpack_bits(pack_bits(quantized, bits), bits, 33), quantized)


def test_the_widths_offered_are_the_widths_tested_here():
    assert (quantize.SMALLEST_BITS, quantize.LARGEST_BITS, quantize.FLOAT_BITS) == (2, 16, 32)
