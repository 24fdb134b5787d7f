"""The checks of exercises: right is accepted, and each wrong answer is told what is wrong."""

import math

import numpy as np
import pytest
import torch
from solutions import load_solutions

from course_utils import progress, quantize
from course_utils.checks.calibration import END_MISTAKES, check_upper_end
from course_utils.checks.outcome import Outcome, judge
from course_utils.checks.quantization import (
    AFFINE_MISTAKES,
    SCALE_MISTAKES,
    check_affine,
    check_channel_scales,
)

EXERCISE = "Affine quantization"


SOLVED = load_solutions("02_quantization")
affine, channel_scales, best_upper_end = SOLVED.affine, SOLVED.channel_scales, SOLVED.best_upper_end


def stub(tensor, bits):
    raise NotImplementedError


def scale_of(tensor, bits):
    return (tensor.max().clamp(min=0) - tensor.min().clamp(max=0)) / (2**bits - 1)


def zero_of(tensor, bits):
    return torch.round(-tensor.min().clamp(max=0) / scale_of(tensor, bits)).int()


# Right answers


def as_numpy(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return integers.numpy(), scale.item(), int(zero_point)


def as_list(tensor, bits):
    return list(affine(tensor, bits))


def as_floats(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return integers.float(), scale.double(), zero_point.float()


def changing_its_argument(tensor, bits):
    result = affine(tensor, bits)
    tensor.zero_()
    return result


def rounded_after_adding(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return torch.round(tensor / scale + zero_point).int(), scale, zero_point


def in_plain_python(tensor, bits):
    """Round with Python's ``round``, number by number."""
    numbers, top = tensor.tolist(), 2**bits - 1
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    scale = (high - low) / top
    zero_point = round(-low / scale)
    integers = [min(max(round(number / scale) + zero_point, 0), top) for number in numbers]
    return integers, scale, zero_point


def from_plain_python(tensor, bits):
    return tuple(map(torch.tensor, in_plain_python(tensor, bits)))


def half_rounded_up(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return torch.floor(tensor / scale + 0.5).int() + zero_point, scale, zero_point


RIGHT = [
    affine,
    as_numpy,
    as_list,
    as_floats,
    changing_its_argument,
    rounded_after_adding,
    in_plain_python,
    from_plain_python,
    half_rounded_up,
]


@pytest.mark.parametrize("right", RIGHT)
def test_a_right_answer_is_accepted_in_any_form(right):
    outcome = check_affine(right)
    assert outcome.is_solved
    assert outcome.state == "solved"
    assert repr(outcome).startswith("✔ Affine quantization: right on all")
    assert f"“{EXERCISE}”: solved" in progress.report()


# The stub


def test_the_stub_is_not_attempted_and_nothing_is_kept():
    outcome = check_affine(stub)
    assert outcome.state == "not attempted"
    assert not outcome.is_solved
    assert outcome.hint
    assert repr(outcome).startswith("○")
    assert "Nothing yet" in progress.report()


# Wrong answers


def scale_first(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return scale, zero_point, integers


def scale_last(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return integers, zero_point, scale


def range_from_zero(tensor, bits):
    """Take the largest value for the width of the range."""
    scale = tensor.max().clamp(min=0) / (2**bits - 1)
    return torch.round(tensor / scale).int(), scale, 0


def range_from_zero_clamped(tensor, bits):
    largest_integer = 2**bits - 1
    scale = tensor.clamp(min=0).max() / largest_integer
    return (tensor / scale).round().clamp(0, largest_integer), scale, torch.tensor(0)


def symmetric(tensor, bits):
    scale = tensor.abs().max() / (2 ** (bits - 1) - 1)
    return torch.round(tensor / scale).int(), scale, 0


def one_level_too_many(tensor, bits):
    low, high = tensor.min().clamp(max=0), tensor.max().clamp(min=0)
    scale = (high - low) / 2**bits
    zero_point = torch.round(-low / scale).int()
    return (torch.round(tensor / scale) + zero_point).int(), scale, zero_point


def range_without_zero(tensor, bits):
    scale = (tensor.max() - tensor.min()) / (2**bits - 1)
    zero_point = torch.round(-tensor.min() / scale)
    return (torch.round(tensor / scale) + zero_point).clamp(0, 2**bits - 1), scale, zero_point


def scale_of_the_largest_value(tensor, bits):
    scale = tensor.abs().max() / (2**bits - 1)
    return (torch.round(tensor / scale) + zero_of(tensor, bits)).int(), scale, zero_of(tensor, bits)


def scale_of_as_many_steps_as_bits(tensor, bits):
    scale = scale_of(tensor, bits) * (2**bits - 1) / bits
    return torch.round(tensor / scale).int(), scale, 0


def steps_of_the_range(tensor, bits):
    """Turn the fraction round."""
    integers, scale, zero_point = affine(tensor, bits)
    return integers, 1 / scale, zero_point


def zero_point_not_whole(tensor, bits):
    scale = scale_of(tensor, bits)
    zero_point = -tensor.min().clamp(max=0) / scale
    return torch.round(tensor / scale + zero_point).int(), scale, zero_point


def zero_point_of_zero(tensor, bits):
    return affine(tensor, bits)[0], scale_of(tensor, bits), 0


def zero_point_of_the_other_sign(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return integers, scale, -zero_point


def integers_not_whole(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return tensor / scale + zero_point, scale, zero_point


def restored_values(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return scale * (integers - zero_point), scale, zero_point


def integers_without_zero_point(tensor, bits):
    integers, scale, zero_point = affine(tensor, bits)
    return integers - zero_point, scale, zero_point


def range_shifted(tensor, bits):
    scale, low = scale_of(tensor, bits), tensor.min().clamp(max=0)
    return torch.round((tensor - low) / scale).int(), scale, zero_of(tensor, bits)


def rounded_down(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return (torch.floor(tensor / scale) + zero_point).int(), scale, zero_point


def cut_off_after_adding(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return (tensor / scale + zero_point).int(), scale, zero_point


def cut_off_before_adding(tensor, bits):
    """Cut off towards 0, so that what is below 0 comes out one too large."""
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return (tensor / scale).int() + zero_point, scale, zero_point


def rounded_down_and_clamped(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    return (tensor // scale + zero_point).clamp(0, 2**bits - 1), scale, zero_point


def cut_off_in_plain_python(tensor, bits):
    scale, zero_point = scale_of(tensor, bits), zero_of(tensor, bits)
    integers = [int(number / scale.item()) + int(zero_point) for number in tensor.tolist()]
    return torch.tensor(integers), scale, zero_point


def nothing(tensor, bits):
    affine(tensor, bits)


def two_values(tensor, bits):
    return affine(tensor, bits)[:2]


def four_values(tensor, bits):
    return *affine(tensor, bits), bits


def only_the_integers(tensor, bits):
    return affine(tensor, bits)[0]


def failing(tensor, bits):
    raise ZeroDivisionError("no step at all")


WRONG = [
    (scale_first, "order of the results"),
    (scale_last, "order of the results"),
    (lambda tensor, bits: list(scale_last(tensor, bits)), "order of the results"),
    (range_from_zero, "range from zero"),
    (range_from_zero_clamped, "range from zero"),
    (symmetric, "symmetric"),
    (one_level_too_many, "one level too many"),
    (range_without_zero, "range without zero"),
    (scale_of_the_largest_value, "range from zero"),
    (scale_of_as_many_steps_as_bits, "wrong scale"),
    (steps_of_the_range, "wrong scale"),
    (zero_point_not_whole, "zero point not whole"),
    (zero_point_of_zero, "wrong zero point"),
    (zero_point_of_the_other_sign, "wrong zero point"),
    (integers_not_whole, "integers not whole"),
    (restored_values, "integers not whole"),
    (integers_without_zero_point, "integers without zero point"),
    (range_shifted, "range shifted"),
    (rounded_down, "cut off instead of rounded"),
    (cut_off_after_adding, "cut off instead of rounded"),
    (cut_off_before_adding, "cut off instead of rounded"),
    (rounded_down_and_clamped, "cut off instead of rounded"),
    (cut_off_in_plain_python, "cut off instead of rounded"),
    (nothing, "returns nothing"),
    (two_values, "wrong number of results"),
    (four_values, "wrong number of results"),
    (only_the_integers, "wrong number of results"),
    (failing, "raises"),
]


@pytest.mark.parametrize(("wrong", "state"), WRONG)
def test_a_wrong_answer_is_named_and_gets_a_hint(wrong, state):
    outcome = check_affine(wrong)
    assert outcome.state == state
    assert not outcome.is_solved
    assert outcome.message
    assert outcome.hint
    assert repr(outcome).startswith("✘")
    assert outcome.hint in repr(outcome)


def test_every_named_mistake_is_made_here():
    assert {mistake.name for mistake in AFFINE_MISTAKES} <= {state for _, state in WRONG}


def test_an_exception_is_shown_with_the_case_that_raised_it():
    outcome = check_affine(failing)
    assert "ZeroDivisionError: no step at all" in outcome.message
    assert "tensor([-1.0000" in outcome.message


# How a case is shown


def judge_one(case: tuple) -> Outcome:
    """Judge a function that is right about nothing."""
    return judge("One", lambda *_: 1, lambda *_: 2, [case], lambda given, right: False, [])


@pytest.mark.parametrize("count", [1, 5, 12])
def test_a_tensor_of_a_few_values_is_shown_whole(count):
    values = torch.arange(float(count)) - 3
    message = judge_one((values, 4)).message
    assert f"Called with {values}, 4, it returned\n1\nbut this is right:\n2" in message


@pytest.mark.parametrize("shape", [(13,), (40,), (3, 2, 2, 2), (4, 500)])
def test_a_tensor_of_many_values_is_shown_in_a_line(shape):
    values = torch.linspace(-1.5, 3, math.prod(shape)).reshape(shape)
    message = judge_one((values, 4)).message
    shown = f"{math.prod(shape)} values from -1.5 to 3, shape {shape}"
    assert f"Called with {shown}, 4, it returned" in message
    assert "tensor(" not in message


def test_each_argument_is_shown_in_its_own_way():
    message = judge_one((torch.zeros(13), torch.zeros(2), "a word", [1.5] * 20)).message
    assert "13 values from 0 to 0, shape (13,), tensor([0., 0.]), a word, [1.5, 1.5" in message


@pytest.mark.parametrize(
    "garbage",
    [
        "a string",
        "abc",
        42,
        object(),
        (),
        [None, None, None],
        ("a", "b", "c"),
        {"integers": 1},
        (np.zeros(3), np.zeros(2), np.zeros(5)),
        (torch.tensor([]), torch.tensor(1.0), torch.tensor(0)),
        (float("nan"), float("nan"), float("nan")),
    ],
    ids=lambda garbage: type(garbage).__name__,
)
def test_garbage_is_rejected_and_gets_a_hint(garbage):
    outcome = check_affine(lambda tensor, bits: garbage)
    assert not outcome.is_solved
    assert outcome.state in {"wrong number of results", "wrong result", "wrong scale"}
    assert outcome.message
    assert outcome.hint


@pytest.mark.parametrize("strange", [lambda: None, lambda tensor: tensor, 42, None])
def test_what_cannot_be_called_so_is_rejected(strange):
    outcome = check_affine(strange)
    assert outcome.state == "raises"
    assert "TypeError" in outcome.message


def test_attempts_are_kept_with_what_came_of_them():
    check_affine(symmetric)
    check_affine(rounded_down)
    assert f"“{EXERCISE}”: not solved yet, 2 tries" in progress.report()
    check_affine(affine)
    assert f"“{EXERCISE}”: solved, 3 tries" in progress.report()


# A scale for each channel


def scales_as_numpy(weight, bits):
    return channel_scales(weight, bits).numpy()


def scales_as_float64(weight, bits):
    return channel_scales(weight, bits).double()


def scales_as_list(weight, bits):
    """Loop over channels and over numbers, in plain Python."""
    scales = []
    for channel in weight:
        largest = max(abs(number) for number in channel.flatten().tolist())
        scales.append(largest / (2 ** (bits - 1) - 1) if largest else 1.0)
    return scales


def scales_in_numpy(weight, bits):
    largest = np.abs(weight.numpy().reshape(len(weight), -1)).max(axis=1)
    return np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1)


def scales_changing_their_argument(weight, bits):
    scales = channel_scales(weight, bits)
    weight.zero_()
    return scales


RIGHT_SCALES = [
    channel_scales, scales_as_numpy, scales_as_float64, scales_as_list, scales_in_numpy,
    scales_changing_their_argument, lambda weight, bits: tuple(scales_as_list(weight, bits)),
]  # fmt: skip


def one_scale_for_all(weight, bits):
    return (weight.abs().max() / (2 ** (bits - 1) - 1)).repeat(len(weight))


def one_number(weight, bits):
    return weight.abs().max() / (2 ** (bits - 1) - 1)


def scales_of_input_channels(weight, bits):
    return channel_scales(weight.transpose(0, 1).contiguous(), bits)


def scales_ready_to_broadcast(weight, bits):
    return channel_scales(weight, bits).reshape(-1, *[1] * (weight.ndim - 1))


def scales_in_one_row(weight, bits):
    return channel_scales(weight, bits)[None]


def scales_of_all_but_the_last_axis(weight, bits):
    return weight.abs().amax(-1) / (2 ** (bits - 1) - 1)


def zero_scale_of_zeros(weight, bits):
    return weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)


def tiny_scale_of_zeros(weight, bits):
    return zero_scale_of_zeros(weight, bits).clamp(min=1e-12)


def scales_chosen_among_largest_weights(weight, bits):
    """Put a 1 in place of the largest weight 0, and divide it like the others."""
    largest = weight.flatten(1).abs().amax(1)
    return torch.where(largest == 0, 1.0, largest) / (2 ** (bits - 1) - 1)


def scales_that_are_no_numbers_for_zeros(weight, bits):
    scales = zero_scale_of_zeros(weight, bits)
    return scales * scales / scales


def values_and_places(weight, bits):
    return weight.flatten(1).abs().max(1)


def scales_and_places(weight, bits):
    largest, places = weight.flatten(1).abs().max(1)
    return largest / (2 ** (bits - 1) - 1), places


def divided_by_an_exclusive_or(weight, bits):
    """``2 ^ (bits - 1) - 1`` is ``2 ^ (bits - 2)``, which is 0 for 4 bits."""
    return weight.flatten(1).abs().amax(1) / (2 ^ (bits - 1) - 1)


def largest_weights(weight, bits):
    return weight.flatten(1).abs().amax(1)


def steps_for_each_unit(weight, bits):
    return (2 ** (bits - 1) - 1) / weight.flatten(1).abs().amax(1)


def largest_with_its_sign(weight, bits):
    largest = weight.flatten(1).amax(1) / (2 ** (bits - 1) - 1)
    return torch.where(largest == 0, 1.0, largest)


def affine_scales(weight, bits):
    rows = weight.flatten(1)
    scales = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    return torch.where(scales == 0, 1.0, scales)


def divided_by(levels):
    def scales(weight, bits):
        return weight.flatten(1).abs().amax(1) / levels(bits)

    return scales


def negative_scales(weight, bits):
    return -channel_scales(weight, bits)


WRONG_SCALES = [
    (one_scale_for_all, "one scale for all"),
    (one_number, "one scale for all"),
    (lambda weight, bits: quantize.quantize_symmetric(weight, bits).scale, "one scale for all"),
    (scales_of_input_channels, "input channels"),
    (scales_ready_to_broadcast, "wrong shape"),
    (scales_in_one_row, "wrong shape"),
    (scales_of_all_but_the_last_axis, "wrong shape"),
    (lambda weight, bits: channel_scales(weight, bits)[:-1], "wrong shape"),
    (zero_scale_of_zeros, "channel of zeros"),
    (tiny_scale_of_zeros, "channel of zeros"),
    (scales_chosen_among_largest_weights, "channel of zeros"),
    (scales_that_are_no_numbers_for_zeros, "channel of zeros"),
    (values_and_places, "values and places"),
    (scales_and_places, "values and places"),
    (divided_by_an_exclusive_or, "not finite"),
    (lambda weight, bits: channel_scales(weight, bits) / 0, "not finite"),
    (lambda weight, bits: torch.full((len(weight),), torch.nan), "not finite"),
    (largest_weights, "largest weights"),
    (lambda weight, bits: largest_weights(weight, bits).tolist(), "largest weights"),
    (steps_for_each_unit, "inverted"),
    (largest_with_its_sign, "signs forgotten"),
    (affine_scales, "affine"),
    (divided_by(lambda bits: 2 ** (bits - 1)), "wrong largest integer"),
    (divided_by(lambda bits: 2**bits - 1), "wrong largest integer"),
    (divided_by(lambda bits: 2**bits), "wrong largest integer"),
    (divided_by(lambda bits: bits), "wrong largest integer"),
    (negative_scales, "wrong result"),
    (lambda weight, bits: 1 / channel_scales(weight, bits), "inverted"),
]


# The upper end of a range


def end_as_float(values, bits):
    return float(best_upper_end(values, bits))


def end_as_array(values, bits):
    return best_upper_end(values, bits).numpy()


def end_in_one_row(values, bits):
    return best_upper_end(values, bits).reshape(1)


def end_in_numpy(values, bits):
    values, levels = values.numpy().astype(np.float64), 2**bits - 1
    best, least = None, np.inf
    for percent in range(1, 101):
        high = percent / 100 * values.max()
        integers = np.clip(np.round(values / (high / levels)), 0, levels)
        error = ((integers * high / levels - values) ** 2).sum()  # the sum has the same least
        if error < least:
            best, least = high, error
    return best


def end_in_plain_python(values, bits):
    numbers, levels = values.tolist(), 2**bits - 1

    def error(high):
        step = high / levels
        return sum((min(max(round(x / step), 0), levels) * step - x) ** 2 for x in numbers)

    return min((max(numbers) * percent / 100 for percent in range(1, 101)), key=error)


def end_by_clipping_first(values, bits):
    """Clip the real numbers and round them then: the same."""
    shares = torch.linspace(0.01, 1, 100)
    errors = []
    for share in shares:
        high = share * values.max()
        step = high / (2**bits - 1)
        errors.append(((values.clamp(max=high) / step).round() * step - values).norm())
    return shares[torch.stack(errors).argmin()] * values.max()


def end_by_the_course_itself(values, bits):
    def error(high):
        made = quantize.quantize_affine(values, bits, limits=(0.0, float(high)))
        return (made.dequantize() - values).square().mean()

    return min((values.max() * percent / 100 for percent in range(1, 101)), key=error)


def end_changing_its_argument(values, bits):
    end = best_upper_end(values, bits)
    values.zero_()
    return end


RIGHT_ENDS = [
    best_upper_end, end_as_float, end_as_array, end_in_one_row, end_in_numpy, end_in_plain_python,
    end_by_clipping_first, end_by_the_course_itself, end_changing_its_argument,
]  # fmt: skip


def search_end(values, steps, error, returned=min):
    """Return the upper end with the least error of rounding to ``steps`` steps."""

    def error_of(high):
        step = high / steps
        rounded = (values / step).round().clamp(0, steps) * step
        return float(error(rounded - values))

    return returned((values.max() * k / 100 for k in range(1, 101)), key=error_of)


def mean_square(off):
    return off.square().mean()


def end_without_clipping(values, bits):
    """Round without clipping: the finer the step, the smaller the error."""

    def error(high):
        step = high / (2**bits - 1)
        return ((values / step).round() * step - values).square().mean()

    return min((values.max() * k / 100 for k in range(1, 101)), key=error)


def end_where_only_clipping_costs(values, bits):
    return min(
        (values.max() * k / 100 for k in range(1, 101)),
        key=lambda high: (values.clamp(max=high) - values).square().mean(),
    )


def end_counting_only_what_is_inside(values, bits):
    def error(high):
        inside = values[values <= high]
        step = high / (2**bits - 1)
        return ((inside / step).round() * step - inside).square().sum()

    return min((values.max() * k / 100 for k in range(1, 101)), key=error)


def end_with_the_largest_error(values, bits):
    return search_end(values, 2**bits - 1, mean_square, returned=max)


def share_of_the_end(values, bits):
    return best_upper_end(values, bits) / values.max()


def percent_of_the_end(values, bits):
    return 100 * share_of_the_end(values, bits)


def place_of_the_end(values, bits):
    """Return where in a list of the 100 errors the least one is."""
    return round(float(percent_of_the_end(values, bits))) - 1


def end_of_tried(percents):
    """Return the end found among other shares of the largest value."""

    def end(values, bits):
        ends = torch.tensor(list(percents)) / 100 * values.max()
        steps = (ends / (2**bits - 1))[:, None]
        rounded = (values / steps).round().clamp(0, 2**bits - 1) * steps
        return ends[(rounded - values).square().mean(1).argmin()]

    return end


def error_of_the_end(values, bits):
    high = best_upper_end(values, bits)
    step = high / (2**bits - 1)
    return ((values / step).round().clamp(0, 2**bits - 1) * step - values).square().mean()


def end_of_the_absolute_error(values, bits):
    return search_end(values, 2**bits - 1, lambda off: off.abs().mean())


def end_with_steps(steps):
    return lambda values, bits: search_end(values, steps(bits), mean_square)


WRONG_ENDS = [
    (lambda values, bits: values.max(), "min-max"),
    (end_where_only_clipping_costs, "min-max"),
    (end_without_clipping, "not clipped"),
    (end_counting_only_what_is_inside, "not clipped"),
    (end_with_the_largest_error, "not clipped"),
    (share_of_the_end, "a share"),
    (percent_of_the_end, "a share"),
    (place_of_the_end, "a share"),
    (lambda values, bits: torch.tensor(place_of_the_end(values, bits)), "a share"),
    (end_of_tried(range(101)), "no range"),
    (end_of_tried(range(100)), "no range"),
    (lambda values, bits: 0, "no range"),
    (lambda values, bits: float("nan"), "no range"),
    (lambda values, bits: values.min(), "no range"),
    (end_of_tried(range(1, 100)), "the largest is missing"),
    (error_of_the_end, "an error"),
    (end_of_the_absolute_error, "absolute error"),
    (end_with_steps(lambda bits: 2**bits), "wrong number of steps"),
    (end_with_steps(lambda bits: 2 ** (bits - 1) - 1), "wrong number of steps"),
    (end_with_steps(lambda bits: 2 ** (bits - 1)), "wrong number of steps"),
    (end_with_steps(lambda bits: 2**bits - 2), "wrong number of steps"),
    (lambda values, bits: 0.5 * best_upper_end(values, bits), "wrong result"),
    (lambda values, bits: -best_upper_end(values, bits), "no range"),
    (lambda values, bits: 1.1 * best_upper_end(values, bits), "wrong result"),
]


# Both


LATER_CHECKS = {
    check_channel_scales: ("A scale for each channel", RIGHT_SCALES, WRONG_SCALES, SCALE_MISTAKES),
    check_upper_end: ("The best range", RIGHT_ENDS, WRONG_ENDS, END_MISTAKES),
}
SHOWN_FIRST = {
    check_channel_scales: "Called with 24 values from -4 to 0.",
    check_upper_end: "Called with 1001 values from 0 to 10, shape (1001,), 3, ",
}
EACH_CHECK = pytest.mark.parametrize("check", LATER_CHECKS)


@EACH_CHECK
@pytest.mark.parametrize(
    ("strange", "error"),
    [
        (failing, "ZeroDivisionError: no step at all"),
        (lambda: None, "TypeError"),
        (lambda values, bits: values.no_such_thing, "AttributeError"),
        (lambda values, bits: values @ values.reshape(-1)[:1], "RuntimeError"),
        (42, "TypeError"),
        (None, "TypeError"),
    ],
)
def test_exceptions_are_shown_with_their_case(check, strange, error):
    outcome = check(strange)
    assert outcome.state == "raises"
    assert error in outcome.message
    assert SHOWN_FIRST[check] in outcome.message


def test_a_mistake_in_the_last_case_alone_is_found():
    """The other weights have no channel of zeros, so that nothing is wrong with them."""
    calls = []

    def counting(weight, bits):
        calls.append(bits)
        return zero_scale_of_zeros(weight, bits)

    assert check_channel_scales(counting).state == "channel of zeros"
    assert len(calls) == 3
