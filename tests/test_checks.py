"""The checks of exercises: right is accepted, and each wrong answer is told what is wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils import progress
from course_utils.checks.quantization import AFFINE_MISTAKES, check_affine

SOLUTIONS = Path(__file__).parent.parent / "notebooks" / "solutions"
EXERCISE = "Affine quantization"


def load_solutions(name: str):
    spec = importlib.util.spec_from_file_location(name, SOLUTIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


affine = load_solutions("02_quantization").affine


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
    (symmetric, "symmetric"),
    (one_level_too_many, "one level too many"),
    (range_without_zero, "range without zero"),
    (scale_of_the_largest_value, "wrong scale"),
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
