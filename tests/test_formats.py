"""The number formats against torch, the standard library and brute force."""

import itertools
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils import quantize
from course_utils.formats import FORMATS, FloatFormat, IntegerFormat

FLOATS = {name: one for name, one in FORMATS.items() if isinstance(one, FloatFormat)}
INTEGERS = {name: one for name, one in FORMATS.items() if isinstance(one, IntegerFormat)}
NARROW = {  # those of which every code can be tried
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8 E4M3": torch.float8_e4m3fn,
    "fp8 E5M2": torch.float8_e5m2,
}
TORCH = {"fp32": torch.float32, **NARROW}


def as_unsigned(tensor: torch.Tensor) -> np.ndarray:
    """Return the codes of a tensor of a narrow dtype."""
    width = tensor.element_size()
    signed = tensor.view(torch.uint8 if width == 1 else torch.int16).numpy()
    return signed.view({1: np.uint8, 2: np.uint16}[width])


def every_value(name: str) -> torch.Tensor:
    """Return torch's value, float32, of each code in ascending order of the codes."""
    dtype = NARROW[name]
    if dtype.itemsize == 1:
        return torch.arange(256, dtype=torch.uint8).view(dtype).float()
    codes = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16))
    return codes.view(dtype).float()


def hard_values(name: str) -> torch.Tensor:
    """Return, float32: all halfway points, what is just beside them, and values of every size."""
    positive = every_value(name)
    positive = positive[: len(positive) // 2].double()
    positive = positive[positive.isfinite()]
    halfway = ((positive[1:] + positive[:-1]) / 2).float()
    step = positive[-1] - positive[-2]
    ends = torch.tensor([positive[-1] + step / 2, positive[-1] + step, 1e38, math.inf]).float()
    middle = torch.cat([halfway, ends])
    beside = [torch.nextafter(middle, torch.tensor(end)) for end in (0.0, math.inf)]
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(-149, 128, (2000,), generator=generator)
    spread = (torch.rand(2000, generator=generator).double() + 1) * 2.0 ** powers.double()
    magnitudes = torch.cat([positive.float(), middle, *beside, spread.float()])
    return torch.cat([magnitudes, -magnitudes])


def bits_of_float32(value: float) -> str:
    return f"{struct.unpack('>I', struct.pack('>f', value))[0]:032b}"


# What the formats are


def test_the_formats_and_their_widths():
    assert {name: one.bits for name, one in FORMATS.items()} == {
        "fp32": 32, "tf32": 19, "fp16": 16, "bf16": 16,
        "fp8 E4M3": 8, "fp8 E5M2": 8, "int8": 8, "int4": 4,
    }  # fmt: skip
    assert all(one.name == name for name, one in FORMATS.items())


@pytest.mark.parametrize("name", TORCH)
def test_their_reach_and_step_are_torch_s(name):
    one, limits = FLOATS[name], torch.finfo(TORCH[name])
    assert one.bits == limits.bits
    assert one.largest == limits.max
    assert one.smallest_normal == limits.tiny
    assert one.relative_step == limits.eps
    assert one.smallest_subnormal == limits.tiny * limits.eps


def test_tf32_reaches_as_far_as_fp32_and_steps_like_fp16():
    tf32 = FLOATS["tf32"]
    assert tf32.smallest_normal == FLOATS["fp32"].smallest_normal
    assert tf32.relative_step == FLOATS["fp16"].relative_step
    assert tf32.largest == (2 - 2**-10) * 2.0**127


def test_decimal_digits():
    digits = {name: round(one.decimal_digits, 1) for name, one in FLOATS.items()}
    assert digits == {
        "fp32": 7.2, "tf32": 3.3, "fp16": 3.3, "bf16": 2.4, "fp8 E4M3": 1.2, "fp8 E5M2": 0.9,
    }  # fmt: skip


# Every code


@pytest.mark.parametrize("name", NARROW)
def test_every_code_stands_for_torch_s_value(name):
    one = FLOATS[name]
    for code, value in enumerate(every_value(name).tolist()):
        bits = f"{code:0{one.bits}b}"
        decoded = one.decode(bits)
        if math.isnan(value):
            assert math.isnan(decoded), bits
            assert math.isnan(one.decode(one.encode(decoded)))
        else:
            assert decoded == value, bits
            assert math.copysign(1, decoded) == math.copysign(1, value), bits
            assert one.encode(decoded) == bits


@pytest.mark.parametrize("name", NARROW)
def test_every_value_is_rounded_as_torch_casts_it(name):
    one, values = FLOATS[name], hard_values(name)
    cast = values.to(NARROW[name])
    codes = [int(one.encode(value), 2) for value in values.tolist()]
    assert np.array_equal(codes, as_unsigned(cast))
    rounded = one.round_to(values)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, cast.float())
    assert torch.equal(rounded.signbit(), values.signbit())


@pytest.mark.parametrize("name", FLOATS)
def test_a_tensor_is_rounded_as_its_values_are(name):
    one = FLOATS[name]
    values = hard_values("bf16")[::97][:2700].reshape(3, -1)
    stored = [[one.decode(one.encode(value)) for value in row] for row in values.tolist()]
    assert torch.equal(one.round_to(values), torch.tensor(stored, dtype=torch.float32))


def test_a_rounded_tensor_keeps_nan_and_shape_and_leaves_the_argument_alone():
    weights = torch.tensor([[0.1, math.nan]], requires_grad=True)
    rounded = FLOATS["bf16"].round_to(weights)
    assert rounded.shape == (1, 2)
    assert not rounded.requires_grad
    assert rounded[0].tolist()[0] == 0.10009765625
    assert rounded[0, 1].isnan()
    assert weights[0, 0] == torch.tensor(0.1)
    assert FLOATS["fp16"].round_to(torch.tensor(0.1)).item() == 0.0999755859375


# fp32 and tf32, which have too many codes


@given(st.floats(allow_nan=False))
def test_fp32_is_what_the_standard_library_packs(value):
    try:
        expected = bits_of_float32(value)
    except OverflowError:  # struct refuses what IEEE 754 rounds to infinity
        expected = bits_of_float32(math.copysign(math.inf, value))
    assert FLOATS["fp32"].encode(value) == expected


@given(st.integers(0, 2**32 - 2), st.sampled_from([-1, 0, 1]))
def test_halfway_between_two_fp32_values_the_even_code_is_taken(code, aside):
    low, high = (struct.unpack(">f", (code + n).to_bytes(4, "big"))[0] for n in (0, 1))
    if not (math.isfinite(low) and math.isfinite(high)) or low * high < 0:
        return
    middle = (low + high) / 2  # exact in a float64
    value = math.nextafter(middle, high) if aside > 0 else middle
    value = math.nextafter(middle, low) if aside < 0 else value
    expected = {-1: code, 0: code + code % 2, 1: code + 1}[aside]
    assert FLOATS["fp32"].encode(value) == f"{expected:032b}" == bits_of_float32(value)


@given(st.integers(0, 2**32 - 1))
def test_every_fp32_code_comes_back(code):
    bits = f"{code:032b}"
    value = FLOATS["fp32"].decode(bits)
    expected = struct.unpack(">f", code.to_bytes(4, "big"))[0]
    if math.isnan(expected):
        assert math.isnan(value)
    else:
        assert value == expected
        assert FLOATS["fp32"].encode(value) == bits


@given(st.floats(width=32, allow_nan=False))
def test_tf32_is_fp32_with_thirteen_bits_rounded_away(value):
    code = int(bits_of_float32(value), 2)
    kept, dropped = divmod(code, 2**13)
    kept += dropped > 2**12 or (dropped == 2**12 and kept % 2)
    bits = f"{kept:019b}"
    assert FLOATS["tf32"].encode(value) == bits
    assert FLOATS["tf32"].decode(bits) == FLOATS["fp32"].decode(bits + "0" * 13)


# Rounding, by brute force


@pytest.mark.parametrize("name", ["fp8 E4M3", "fp8 E5M2"])
@given(value=st.floats(-400, 400) | st.floats(-0.02, 0.02))
def test_no_other_code_is_nearer(name, value):
    one = FLOATS[name]
    codes = [f"{code:08b}" for code in range(256)]
    finite = {bits: one.decode(bits) for bits in codes if math.isfinite(one.decode(bits))}
    chosen = one.encode(value)
    distance = abs(finite[chosen] - value)
    nearest = {bits for bits in finite if abs(finite[bits] - value) == distance}
    assert all(abs(other - value) >= distance for other in finite.values())
    if len({finite[bits] for bits in nearest}) > 1:  # halfway
        assert chosen.endswith("0")


@pytest.mark.parametrize("name", FLOATS)
@given(values=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)))
def test_rounding_keeps_the_order(name, values):
    one = FLOATS[name]
    low, high = (one.decode(one.encode(value)) for value in sorted(values))
    assert low <= high


@pytest.mark.parametrize("name", FLOATS)
def test_a_normal_number_errs_by_at_most_half_a_relative_step(name):
    one = FLOATS[name]
    random = np.random.default_rng(0)
    powers = random.uniform(math.log2(one.smallest_normal), math.log2(one.largest) - 0.01, 500)
    for value in 2**powers:
        assert abs(one.decode(one.encode(value)) - value) <= value * one.relative_step / 2


# The ends, and what is no number


def test_beyond_the_largest_value():
    largest = {name: one.decode(one.encode(1e39)) for name, one in FLOATS.items()}
    assert largest.pop("fp8 E4M3") == 448
    assert set(largest.values()) == {math.inf}
    assert FLOATS["fp8 E4M3"].decode(FLOATS["fp8 E4M3"].encode(-math.inf)) == -448
    assert FLOATS["fp16"].decode(FLOATS["fp16"].encode(65519.99)) == 65504
    assert FLOATS["fp16"].decode(FLOATS["fp16"].encode(65520)) == math.inf


def test_e4m3_has_one_nan_of_each_sign_and_no_infinity():
    one = FLOATS["fp8 E4M3"]
    decoded = {bits: one.decode(bits) for bits in map("".join, itertools.product("01", repeat=8))}
    assert [bits for bits, value in decoded.items() if math.isnan(value)] == [
        "01111111",
        "11111111",
    ]
    assert not any(math.isinf(value) for value in decoded.values())


@pytest.mark.parametrize("name", FLOATS)
def test_nan_stays_nan_and_zero_keeps_its_sign(name):
    one = FLOATS[name]
    assert math.isnan(one.decode(one.encode(math.nan)))
    assert one.encode(0.0) == "0" * one.bits
    assert one.encode(-0.0) == "1" + "0" * (one.bits - 1)
    assert math.copysign(1, one.decode(one.encode(-0.0))) == -1


def test_the_fields():
    fp16, int4 = FLOATS["fp16"], INTEGERS["int4"]
    assert fp16.fields("0011110000000001") == {
        "sign": "0", "exponent": "01111", "fraction": "0000000001",
    }  # fmt: skip
    assert int4.fields("1001") == {"integer": "1001"}
    for one in FORMATS.values():
        bits = ("01" * 16)[: one.bits]
        assert "".join(one.fields(bits).values()) == bits


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spoil", [lambda b: b + "0", lambda b: b[1:], lambda b: b[1:] + "2"])
@pytest.mark.parametrize("read", ["decode", "fields"])
def test_what_are_no_bits_of_the_format_is_refused(name, spoil, read):
    one = FORMATS[name]
    with pytest.raises(ValueError, match=rf"{name} is written as {one.bits} zeros and ones, not"):
        getattr(one, read)(spoil("0" * one.bits))


# Integers


@pytest.mark.parametrize("name", INTEGERS)
@given(value=st.floats(-1.5, 1.5), largest=st.floats(0.01, 100))
def test_integers_are_those_of_quantize(name, value, largest):
    one = INTEGERS[name].with_range(largest)
    steps = int(
        np.clip(np.rint(value * largest / one.scale), -one.largest_integer, one.largest_integer)
    )
    packed = quantize.pack_bits(np.array([steps]), one.bits)
    expected = "".join(f"{byte:08b}" for byte in packed)[: one.bits]
    assert one.encode(value * largest) == expected
    assert one.decode(expected) == steps * one.scale


@pytest.mark.parametrize("name", INTEGERS)
def test_every_integer_comes_back_except_the_lowest(name):
    one = IntegerFormat(name, INTEGERS[name].bits, scale=0.1)
    for code in range(2**one.bits):
        bits = f"{code:0{one.bits}b}"
        integer = code - 2**one.bits if bits[0] == "1" else code
        assert one.decode(bits) == integer * 0.1
        lowest = integer == -(2 ** (one.bits - 1))
        assert one.encode(one.decode(bits)) == (f"{code + 1:0{one.bits}b}" if lowest else bits)


def test_a_tensor_quantized_symmetrically_has_these_integers():
    tensor = torch.tensor([-1.0, -0.3, -0.02, 0.0, 0.1, 0.55, 1.0])
    for one in INTEGERS.values():
        grid = quantize.quantize_symmetric(tensor, one.bits)
        ours = one.with_range(1.0)
        packed = "".join(ours.encode(value) for value in tensor.tolist())
        expected = quantize.pack_bits(grid.integers.numpy(), one.bits)
        assert (
            int(packed.ljust(8 * len(expected), "0"), 2).to_bytes(len(expected), "big") == expected
        )


def test_the_ends_and_the_middles_of_integers():
    int4 = INTEGERS["int4"]
    assert (int4.largest_integer, int4.largest) == (7, 7.0)
    assert int4.with_range(3.5).scale == 0.5
    stored = [int4.decode(int4.encode(value)) for value in (0.5, 1.5, 2.5, -0.5, -1.5, 99, -1e308)]
    assert stored == [0, 2, 2, 0, -2, 7, -7]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_integer_stands_for_what_is_no_number(value):
    with pytest.raises(ValueError, match=f"int8 has no code for {value}"):
        INTEGERS["int8"].encode(value)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_size_is_refused(scale):
    with pytest.raises(ValueError, match="scale of int8 must be above 0 and finite"):
        IntegerFormat("int8", 8, scale)
    with pytest.raises(ValueError, match="scale of int8 must be above 0 and finite"):
        INTEGERS["int8"].with_range(scale * 127)
