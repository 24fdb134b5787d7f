"""Check of the exercise in lesson 07 on bringing a sum back to a byte, with integers alone."""

from collections.abc import Callable
from typing import Any

import numpy as np

from course_utils import micro
from course_utils.checks.distillation import Case
from course_utils.checks.outcome import Mistake, Outcome, judge

LOWEST, HIGHEST = -128, 127
INTEGER_BITS = 31  # of an int32 beside its sign


def _case(accumulator: Any, multiplier: int, shift: int, zero_point: int) -> Case:
    return Case((np.array(accumulator, np.int32), multiplier, shift, zero_point))


REQUANTIZATION_CASES = [
    _case([0, 7, -7, 1000, -1000, 1200, -1200, 12_345, -12_345, 54_321, -54_321, 250_000,
           -250_000], 1_518_500_250, 40, 3),  # no two ways to go wrong give the same here
    _case([[4, -4, 12], [-12, 20, -20]], 2**30, 33, 0),  # exactly half way
    _case([150_000, -150_000, 60_000, -60_000, 90_000, -90_000], 2**30, 39, -100),
    _case([150_000, -150_000, 60_000, -60_000, 90_000, -90_000], 2**30, 39, 127),
    _case([3, -3, 0], 2_000_000_011, 31, -7),  # the least shift that a byte allows here
    _case([2**31 - 1, -(2**31), 2**30], 2**31 - 1, 62, 11),  # the largest product and shift
    _case([903_763_834, -903_763_834, 655_000_000], 1_494_947_947, 55, 0),  # 53 bits do not do
]  # fmt: skip


def check_requantize(attempt: Callable[[np.ndarray, int, int, int], np.ndarray]) -> Outcome:
    """Check a function that makes signed bytes of 32-bit sums.

    Args:
        attempt: Takes the sums (int32, any shape), the multiplier, the shift and the zero point;
            returns int8 of the same shape.
    """
    return judge(
        "Requantize",
        attempt,
        _solve,
        REQUANTIZATION_CASES,
        lambda given, right: _has_type(given, np.int8) and np.array_equal(given, right),
        REQUANTIZATION_MISTAKES,
        must_keep_arguments=True,
    )


def _solve(sums: np.ndarray, multiplier: int, shift: int, zero_point: int) -> Any:
    return _saturate(micro.requantize(sums, multiplier, shift) + zero_point).astype(np.int8)


def _saturate(values: np.ndarray, low: int = LOWEST, high: int = HIGHEST) -> Any:
    return np.clip(values, low, high)


def _product(sums: np.ndarray, multiplier: int) -> Any:
    return sums.astype(np.int64) * multiplier


def _round_away(product: np.ndarray, shift: int) -> Any:
    magnitude = np.abs(product) + (1 << (shift - 1)) >> shift
    return np.sign(product) * magnitude


def _round_to_even(product: np.ndarray, shift: int) -> Any:
    up = product + (1 << (shift - 1)) >> shift
    is_tie = product & (1 << shift) - 1 == 1 << (shift - 1)
    return up - (is_tie & (up % 2 == 1))


def _truncate(product: np.ndarray, shift: int) -> Any:
    return np.sign(product) * (np.abs(product) >> shift)


def _in_floats(sums: np.ndarray, multiplier: int, shift: int) -> Any:
    return np.floor(sums.astype(float) * multiplier / 2.0**shift + 0.5).astype(np.int64)


def _shift_by(product: np.ndarray, shift: int) -> np.ndarray:
    return micro.requantize(product, 1, shift)


def _has_type(given: Any, kind: Any) -> bool:
    return isinstance(given, np.ndarray) and given.dtype == kind


def _is_array(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.dtype.kind in "iuf"


def _returns(*ways: Callable[..., np.ndarray], is_saturated: bool = True) -> Callable[..., bool]:
    """Return the question whether the result is what one of these computes, in whatever type.

    Args:
        ways: Each takes the sums, the multiplier, the shift and the zero point.
        is_saturated: Whether what they compute becomes bytes in the right way.
    """

    def is_made(given: Any, right: np.ndarray, *case: Any) -> bool:
        for way in ways if not np.array_equal(given, right) else ():
            try:
                values = way(*case)
            except ValueError:  # there is no such shift
                continue
            if np.array_equal(given, _saturate(values) if is_saturated else values):
                return True
        return False

    return is_made


def _scales(*ways: Callable[[np.ndarray, int], np.ndarray]) -> Callable[..., bool]:
    """Return the question whether the product was rounded in a wrong way; each takes the shift."""
    return _returns(
        *(
            lambda sums, multiplier, shift, zero, way=way: (
                way(_product(sums, multiplier), shift) + zero
            )
            for way in ways
        )
    )


def _right(sums: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    return micro.requantize(sums, multiplier, shift)


def _wrapped(sums: np.ndarray, multiplier: int) -> Any:
    """Return the product as 32 bits hold it."""
    return _product(sums, multiplier).astype(np.int32)


REQUANTIZATION_MISTAKES = [
    Mistake("fails in 32 bits", lambda given, *_: isinstance(given, OverflowError),
            "It raised an OverflowError: a number does not fit into 32 bits.",
            "`accumulator` has 32 bits, and so has all that NumPy computes with it. Who needs"
            " more?", of_failures=True),
    Mistake("no array", lambda given, *_: not _is_array(given),
            "It should return a NumPy array of whole numbers.",
            "What is the type of your result? It should have the shape of `accumulator`."),
    Mistake("other shape", lambda given, right, *_: given.shape != right.shape,
            "The result has another shape than `accumulator`.",
            "Every sum becomes one byte. Does anything in your function add up or flatten?"),
    Mistake("nothing left", lambda given, right, s, m, shift, z: (given == z).all(),
            "All of your results are the zero point: nothing is left of the sums.",
            "Either the products have lost their upper bits (31 bits times 31 bits: how many has"
            " the product?), or they are shifted too far: by `shift`, and by no more."),
    Mistake("product in 32 bits",
            _returns(lambda s, m, shift, z: (_wrapped(s, m).astype(np.int64) >> shift) + z,
                     lambda s, m, shift, z: (_wrapped(s, m) >> shift) + z),
            "Your products do not fit into 32 bits, and NumPy says nothing.",
            "31 bits times 31 bits: how many has the product? Which type has as many?"),
    Mistake("halves downwards",
            _scales(lambda product, shift: product + (1 << (shift - 1)) - 1 >> shift),
            "0.5 comes out as 0: you round halves downwards.",
            "How much is one half, in the unit of the last bit that is cut off?"),
    Mistake("no rounding", _scales(lambda product, shift: product >> shift),
            "Your results are rounded down: too small by one in half of the cases.",
            "A shift to the right cuts off, downwards. What can be added before it?"),
    Mistake("cut towards zero", _scales(_truncate),
            "Your results are cut off towards 0.",
            "0.9 should become 1, and −0.9 should become −1. What can be added before the shift?"),
    Mistake("halves to even", _scales(_round_to_even),
            "0.5 and 2.5 come out as 0 and 2: you round halves to the even number.",
            "`round` and `np.round` do that. What does adding one half and cutting off do?"),
    Mistake("halves away from zero", _scales(_round_away),
            "−0.5 comes out as −1: you round halves away from 0.",
            "The task wants them rounded upwards, below 0 too. Is the sign worth the trouble?"),
    Mistake("another half",
            _scales(lambda product, shift: product + (1 << shift) >> shift,
                    lambda product, shift: product + (1 << (shift - 2)) >> shift,
                    lambda product, shift: product + 1 >> shift),
            "What you add before the shift is not one half.",
            "After the shift it should be worth 0.5. What is it worth before, as a power of 2?"),
    Mistake("shift by 31", _scales(lambda product, shift: _shift_by(product, INTEGER_BITS)),
            "You shift by 31, whatever `shift` is.",
            "`shift` tells all of it: the multiplier stands for multiplier / 2**shift."),
    Mistake("31 too many or too few",
            _scales(lambda product, shift: _shift_by(product, shift - INTEGER_BITS),
                    lambda product, shift: product >> INTEGER_BITS >> shift),
            "Beside `shift` you shift by 31 once more, or you take 31 off.",
            "Is the 2**31 that the multiplier is a share of in `shift` already?"),
    Mistake("one bit too many or too few",
            _scales(lambda product, shift: _shift_by(product, shift - 1),
                    lambda product, shift: _shift_by(product, shift + 1)),
            "Your results are twice or half as large as they should be.",
            "Do you shift by the same number as you computed the half for?"),
    Mistake("multiplier left out",
            _returns(lambda s, m, shift, z: _shift_by(s, shift - INTEGER_BITS) + z),
            "The multiplier is missing.", "By what is a sum multiplied before it is shifted?"),
    Mistake("no zero point", _returns(lambda s, m, shift, z: _right(s, m, shift)),
            "The zero point is missing, or so small that nothing is seen of it.",
            "Which byte should a sum of 0 become? Is the zero point scaled with the sums?"),
    Mistake("zero point subtracted", _returns(lambda s, m, shift, z: _right(s, m, shift) - z),
            "The zero point is taken off, not added.", "Which byte should a sum of 0 become?"),
    Mistake("saturated too early",
            _returns(lambda s, m, shift, z: _saturate(_right(s, m, shift)) + z,
                     lambda s, m, shift, z: _saturate(_saturate(_right(s, m, shift)) + z),
                     lambda s, m, shift, z:
                         (_saturate(_right(s, m, shift)) + z).astype(np.int8),
                     is_saturated=False),
            "You saturate before the zero point is added.",
            "Scaled 200 and a zero point of −100 make 100. What do you make of it?"),
    Mistake("wrapped around",
            _returns(lambda s, m, shift, z: (_right(s, m, shift) + z).astype(np.int8),
                     is_saturated=False),
            "What is larger than 127 comes out at the other end, below 0.",
            "A cast to int8 keeps the last 8 bits. What has to happen before it?"),
    Mistake("not saturated",
            _returns(lambda s, m, shift, z: _right(s, m, shift) + z, is_saturated=False),
            "Some of your results are no signed bytes: they lie outside of −128 … 127.",
            "What should 300 become?"),
    Mistake("unsigned bytes",
            _returns(lambda s, m, shift, z: _saturate(_right(s, m, shift) + z, 0, 255),
                     lambda s, m, shift, z: _saturate(_right(s, m, shift) + z, 0),
                     is_saturated=False),
            "Nothing of yours is below 0.", "From where to where do *signed* bytes reach?"),
    Mistake("other ends",
            _returns(*(lambda s, m, shift, z, low=low, high=high:
                       _saturate(_right(s, m, shift) + z, low, high)
                       for low, high in ((-127, 127), (-128, 128), (-127, 128), (-128, 126))),
                     is_saturated=False),
            "You saturate at other ends than those of a signed byte.",
            "Which is the least, and which the largest number in 8 bits with a sign?"),
    Mistake("floats", _returns(lambda s, m, shift, z: _in_floats(s, m, shift) + z),
            "For large sums one result is wrong by one: a product has more bits than a float.",
            "float64 keeps 53 bits, the product can have 62. Which type of integers holds it?"),
    Mistake("another type",
            lambda given, right, *_: np.array_equal(given, right),
            "The numbers are right, but they are not int8.",
            "What is `dtype` of your result? Four bytes for each would be a waste."),
]  # fmt: skip
