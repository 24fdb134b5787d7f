"""The checks of lesson 07: requantizing, the limit that binds, reading and curing an export."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions

from course_utils import export_clinic, micro
from course_utils.checks import binding_limit, export_errors, requantization
from course_utils.checks.binding_limit import (
    BINDING_CASES,
    BINDING_MISTAKES,
    check_binding_limit,
    find_shares,
)
from course_utils.checks.export_errors import (
    CAUSE_MISTAKES,
    CAUSES,
    CURE_CASES,
    CURE_MISTAKES,
    check_causes,
    check_cured,
)
from course_utils.checks.requantization import (
    REQUANTIZATION_CASES,
    REQUANTIZATION_MISTAKES,
    check_requantize,
)
from course_utils.edge_devices import DEVICES
from course_utils.edge_fit import Needs, check_fit

SOLVED = load_solutions("07_edge_deployment")
requantize, find_binding_limit, name_causes, brighten = (
    SOLVED.requantize, SOLVED.find_binding_limit, SOLVED.name_causes, SOLVED.brighten,
)  # fmt: skip


def failing(*_):
    raise ZeroDivisionError("divided by no scale")


# Requantizing: right answers


def by_the_course(sums, multiplier, shift, zero):
    scaled = micro.requantize(sums, multiplier, shift)
    return np.clip(scaled + zero, -128, 127).astype(np.int8)


def one_by_one(sums, multiplier, shift, zero):
    made = [
        max(-128, min(127, (int(one) * multiplier + 2 ** (shift - 1)) // 2**shift + zero))
        for one in sums.ravel()
    ]
    return np.array(made, np.int8).reshape(sums.shape)


def by_fractions(sums, multiplier, shift, zero):
    def scale(one):
        exact = Fraction(int(one) * multiplier, 2**shift) + Fraction(1, 2)
        return min(max(exact.numerator // exact.denominator + zero, -128), 127)

    return np.vectorize(scale, otypes=[np.int8])(sums)


RIGHT_REQUANTIZATIONS = [requantize, by_the_course, one_by_one, by_fractions]


# Requantizing: wrong answers


def as_bytes(values):
    return np.clip(values, -128, 127).astype(np.int8)


def wide(sums, multiplier):
    return sums.astype(np.int64) * multiplier


def scaling(way):
    """Return an attempt that scales in this way; it takes the product and the shift."""
    return lambda sums, multiplier, shift, zero: as_bytes(way(wide(sums, multiplier), shift) + zero)


def half(shift):
    return 1 << (shift - 1)


def halves_up(product, shift):
    return (product + half(shift)) >> shift


def to_even(product, shift):
    return np.array([round(Fraction(int(one), 2**shift)) for one in product.ravel()]).reshape(
        product.shape
    )


def away(product, shift):
    return np.sign(product) * ((np.abs(product) + half(shift)) >> shift)


def ending(way):
    """Return an attempt that scales rightly; then this gets the scaled sums and the zero point."""
    return lambda sums, multiplier, shift, zero: way(halves_up(wide(sums, multiplier), shift), zero)


def changing(sums, multiplier, shift, zero):
    made = requantize(sums, multiplier, shift, zero)
    sums[:] = 0
    return made


WRONG_REQUANTIZATIONS = [
    (lambda s, m, shift, z: as_bytes(((s * np.int32(m) + half(shift)) >> shift) + z),
     "fails in 32 bits"),
    (lambda s, m, shift, z: as_bytes((s * m + np.int32(half(shift)) >> shift) + z),
     "fails in 32 bits"),
    (lambda s, m, shift, z: as_bytes(halves_up((s * np.int32(m)).astype(np.int64), shift) + z),
     "nothing left"),
    (lambda s, m, shift, z: as_bytes(((s * m) >> np.int32(shift)) + z), "product in 32 bits"),
    (lambda s, m, shift, z: as_bytes(((s * m).astype(np.int64) >> shift) + z),
     "product in 32 bits"),
    (lambda s, m, shift, z: requantize(s, m, shift, z).tolist(), "no array"),
    (lambda s, m, shift, z: str(requantize(s, m, shift, z)), "no array"),
    (lambda s, m, shift, z: torch.from_numpy(requantize(s, m, shift, z)), "no array"),
    (lambda s, m, shift, z: requantize(s, m, shift, z)[1:], "other shape"),
    (lambda s, m, shift, z: requantize(s, m, shift, z)[None], "other shape"),
    (lambda s, m, shift, z: requantize(s, m, shift, z).sum(dtype=np.int8), "no array"),
    (lambda s, m, shift, z: requantize(s, m, shift, z).ravel(), "other shape"),
    (scaling(lambda p, shift: p >> shift), "no rounding"),
    (scaling(lambda p, shift: p // 2**shift), "no rounding"),
    (scaling(lambda p, shift: np.sign(p) * (np.abs(p) >> shift)), "cut towards zero"),
    (scaling(lambda p, shift: (p / 2.0**shift).astype(np.int64)), "cut towards zero"),
    (scaling(to_even), "halves to even"),
    (scaling(lambda p, shift: np.round(p / 2.0**shift).astype(np.int64)), "halves to even"),
    (scaling(away), "halves away from zero"),
    (scaling(lambda p, shift: (p + half(shift) - 1) >> shift), "halves downwards"),
    (scaling(lambda p, shift: (p + (1 << shift)) >> shift), "another half"),
    (scaling(lambda p, shift: (p + (1 << (shift - 2))) >> shift), "another half"),
    (scaling(lambda p, shift: (p + 1) >> shift), "no rounding"),
    (scaling(lambda p, shift: halves_up(p, 31)), "shift by 31"),
    (scaling(lambda p, shift: halves_up(p, shift - 31)), "31 too many or too few"),
    (scaling(lambda p, shift: halves_up(halves_up(p, 31), shift)), "nothing left"),
    (scaling(lambda p, shift: halves_up(p, shift - 1)), "one bit too many or too few"),
    (scaling(lambda p, shift: halves_up(p, shift + 1)), "one bit too many or too few"),
    (lambda s, m, shift, z: as_bytes(halves_up(s.astype(np.int64), shift) + z),
     "nothing left"),
    (lambda s, m, shift, z: as_bytes(halves_up(s.astype(np.int64), shift - 31) + z),
     "multiplier left out"),
    (ending(lambda scaled, zero: as_bytes(scaled)), "no zero point"),
    (ending(lambda scaled, zero: as_bytes(scaled - zero)), "zero point subtracted"),
    (lambda s, m, shift, z: as_bytes(halves_up(wide(s, m) + z, shift)), "no zero point"),
    (lambda s, m, shift, z: as_bytes(halves_up(wide(s.astype(np.int64) + z, m), shift)),
     "no zero point"),
    (ending(lambda scaled, zero: as_bytes(scaled) + np.int8(zero)), "saturated too early"),
    (ending(lambda scaled, zero: as_bytes(scaled).astype(int) + zero), "saturated too early"),
    (ending(lambda scaled, zero: as_bytes(as_bytes(scaled).astype(int) + zero)),
     "saturated too early"),
    (ending(lambda scaled, zero: (scaled + zero).astype(np.int8)), "wrapped around"),
    (ending(lambda scaled, zero: scaled + zero), "not saturated"),
    (ending(lambda scaled, zero: (scaled + zero).astype(np.int32)), "not saturated"),
    (ending(lambda scaled, zero: np.clip(scaled + zero, 0, 255).astype(np.uint8)),
     "unsigned bytes"),
    (ending(lambda scaled, zero: np.clip(scaled + zero, 0, 127).astype(np.int8)),
     "unsigned bytes"),
    (ending(lambda scaled, zero: np.clip(scaled + zero, -127, 127).astype(np.int8)), "other ends"),
    (ending(lambda scaled, zero: np.clip(scaled + zero, -128, 128)), "other ends"),
    (lambda s, m, shift, z: as_bytes(np.floor(s.astype(float) * m / 2.0**shift + 0.5) + z),
     "floats"),
    (lambda s, m, shift, z: requantize(s, m, shift, z).astype(np.int32), "another type"),
    (lambda s, m, shift, z: requantize(s, m, shift, z).astype(np.float32), "another type"),
    (lambda s, m, shift, z: requantize(s, m, shift, z) + 1, "wrong result"),
    (changing, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda sums: sums, "raises"),
    (42, "raises"),
]  # fmt: skip


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    st.integers(2**30, 2**31 - 1),
    st.integers(31, 62),
    st.integers(-128, 127),
)
def test_the_solution_is_the_courses_and_that_of_exact_arithmetic(sums, multiplier, shift, zero):
    case = np.array(sums, np.int32), multiplier, shift, zero
    made = requantize(*case)
    assert made.dtype == np.int8
    np.testing.assert_array_equal(made, by_the_course(*case))
    np.testing.assert_array_equal(made, by_fractions(*case))


def test_the_cases_of_requantizing_hold_what_the_task_speaks_of():
    ties = [
        any(int(one) * m % 2**shift == 2 ** (shift - 1) for one in sums.ravel())
        for sums, m, shift, _ in REQUANTIZATION_CASES
    ]
    assert sum(ties) == 1
    for sums, multiplier, shift, zero in REQUANTIZATION_CASES:
        assert sums.dtype == np.int32
        assert 2**30 <= multiplier < 2**31
        assert 31 <= shift <= 62
        assert -128 <= zero <= 127
    made = np.concatenate([requantize(*case).ravel() for case in REQUANTIZATION_CASES])
    assert {-128, 127} < set(made.tolist())


# The limit that binds


def by_numpy(needs, card):
    if card["macs_per_s"].get(needs["arithmetic"]) is None:
        return "arithmetic", np.False_
    rate = card["macs_per_s"][needs["arithmetic"]]
    wanted = [needs["flash_bytes"], needs["ram_bytes"], 1000 * needs["macs"] / rate]
    shares = np.array(wanted) / [card["flash_bytes"], card["ram_bytes"], needs["deadline_ms"]]
    return ("flash", "RAM", "latency")[shares.argmax()], (shares <= 1).all()


RIGHT_LIMITS = [find_binding_limit, by_numpy]


def guarded(way):
    """Return an attempt that is right where the arithmetic is missing; else this is asked."""
    return lambda needs, card: (
        way(needs, card) if find_shares(needs, card) else ("arithmetic", False)
    )


def weighing(verdict=None, **factors):
    """Return an attempt that multiplies shares by these factors."""

    def attempt(needs, card):
        shares = {
            name: share * factors.get(name, 1) for name, share in find_shares(needs, card).items()
        }
        limit = max(shares, key=shares.get)
        return limit, (verdict or (lambda share: share <= 1))(shares[limit])

    return guarded(attempt)


def choosing(pick):
    """Return an attempt that picks a limit by other numbers; it takes needs, card and shares."""

    def attempt(needs, card):
        shares = find_shares(needs, card)
        return pick(needs, card, shares), max(shares.values()) <= 1

    return guarded(attempt)


def without_looking(needs, card):
    rate = card["macs_per_s"][needs["arithmetic"]]
    assert rate
    return find_binding_limit(needs, card)


def at_the_highest_rate(needs, card):
    rates = card["macs_per_s"]
    return find_binding_limit(needs, card | {"macs_per_s": dict.fromkeys(
        [needs["arithmetic"]], min(rates.values()))})  # fmt: skip


def first_over(needs, card, shares):
    over = [name for name in shares if shares[name] > 1]
    return over[0] if over else max(shares, key=shares.get)


def by_numbers(needs, card, shares):
    ms = shares["latency"] * needs["deadline_ms"]
    numbers = {"flash": needs["flash_bytes"], "RAM": needs["ram_bytes"], "latency": ms}
    return max(numbers, key=numbers.get)


def by_rest(needs, card, shares):
    there = {
        "flash": card["flash_bytes"], "RAM": card["ram_bytes"], "latency": needs["deadline_ms"],
    }  # fmt: skip
    return min(there, key=lambda name: there[name] - shares[name] * there[name])


def spoiling(needs, card):
    answer = find_binding_limit(needs, card)
    needs.clear()
    return answer


WRONG_LIMITS = [
    (without_looking, "fails without the arithmetic"),
    (lambda needs, card: find_binding_limit(needs, card)[0], "word alone"),
    (lambda needs, card: list(find_binding_limit(needs, card)), "no pair"),
    (lambda needs, card: find_shares(needs, card), "no pair"),
    (lambda needs, card: (*find_binding_limit(needs, card), 1), "no pair"),
    (lambda needs, card: tuple(reversed(find_binding_limit(needs, card))), "another word"),
    (lambda needs, card: (find_binding_limit(needs, card)[0].lower(), True), "another word"),
    (lambda needs, card: ("fits", True), "another word"),
    (lambda needs, card: (find_binding_limit(needs, card)[0], "yes"), "no bool"),
    (lambda needs, card: (find_binding_limit(needs, card)[0], 1), "no bool"),
    (lambda needs, card: (find_binding_limit(needs, card)[0],
                          max(find_shares(needs, card).values(), default=1)), "no bool"),
    (lambda needs, card: find_binding_limit(needs, card) if find_shares(needs, card)
     else ("RAM", True), "arithmetic not asked for"),
    (at_the_highest_rate, "rate of the other arithmetic"),
    (lambda needs, card: ("arithmetic", False), "arithmetic not found"),
    (weighing(verdict=lambda share: share < 1), "exactly all of it"),
    (weighing(verdict=lambda share: share > 1), "other verdict"),
    (weighing(verdict=lambda share: True), "other verdict"),
    (choosing(first_over), "first that is too small"),
    (choosing(by_numbers), "numbers for shares"),
    (choosing(by_rest), "rest for shares"),
    (choosing(lambda needs, card, shares: min(shares, key=shares.get)), "smallest share"),
    (weighing(latency=0), "latency left out"),
    (weighing(latency=1e-3), "latency left out"),
    (weighing(latency=1e3), "latency too large"),
    (guarded(lambda needs, card: find_binding_limit(needs | {"deadline_ms": 1}, card)),
     "latency too large"),
    (weighing(latency=2), "operations for multiply-adds"),
    (weighing(flash=0), "flash left out"),
    (weighing(RAM=0), "RAM left out"),
    (lambda needs, card: ("flash", False), "wrong result"),
    (spoiling, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda needs: ("RAM", True), "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_limits_hold_what_the_task_speaks_of():
    answers = [find_binding_limit(*case) for case in BINDING_CASES]
    assert {word for word, _ in answers} == set(binding_limit.WORDS)
    assert {fits for _, fits in answers} == {True, False}
    every = [find_shares(*case) for case in BINDING_CASES]
    assert any(max(shares.values()) == 1 for shares in every if shares)
    assert sum(sum(share > 1 for share in shares.values()) > 1 for shares in every) == 2
    for shares in every:
        assert len(set(shares.values())) == len(shares)


@pytest.mark.parametrize("device", DEVICES, ids=lambda one: one.name)
@pytest.mark.parametrize("arithmetic", ["int8", "fp32"])
@pytest.mark.parametrize(("flash", "ram", "macs"), [(3e5, 8e4, 4e7), (2e6, 2e3, 2e6)])
def test_the_solution_agrees_with_the_course(device, arithmetic, flash, ram, macs):
    needs = {
        "flash_bytes": flash, "ram_bytes": ram, "macs": macs, "arithmetic": arithmetic,
        "deadline_ms": 100,
    }  # fmt: skip
    card = {
        "flash_bytes": device.flash_bytes, "ram_bytes": device.ram_bytes,
        "macs_per_s": device.macs_per_s,
    }  # fmt: skip
    found = check_fit(device, Needs(flash, ram, macs, arithmetic), 100)
    assert find_binding_limit(needs, card) == (found.binds, found.fits)


# Reading exports

WORDS = list(CAUSES.values())


def naming(**changes):
    """Return an attempt with other causes than the right ones."""
    return lambda: CAUSES | changes


RIGHT_CAUSES = [
    name_causes,
    lambda: {
        "a": "Size is a plain number", "b ": "operator-not-in-ONNX", "c": "REMEMBERS in python",
        " D": "branches  on values",
    },
]  # fmt: skip
A, B, C, D = (CAUSES[letter] for letter in "ABCD")
WRONG_CAUSES = [
    (lambda: list(CAUSES.values()), "no dict"),
    (lambda: A, "no dict"),
    (lambda: {}, "other keys"),
    (lambda: CAUSES | {"E": A}, "other keys"),
    (naming(A="no idea"), "other words"),
    (naming(A=None), "other words"),
    (naming(A=C), "A is wrong"),
    (naming(A="opset too old"), "A is wrong"),
    (naming(B=A), "B is wrong"),
    (naming(B="opset too old"), "B is wrong"),
    (naming(C=D), "C is wrong"),
    (naming(D=B), "D is wrong"),
    (naming(A=B, B=A), "two are right"),
    (naming(A=B, B=C, C=A), "one is right"),
    (naming(A=D, B=C, C=B, D=A), "none is right"),
    (lambda: None, "returns nothing"),
    (failing, "raises"),
    (42, "raises"),
]


def test_each_case_of_the_clinic_is_shown_under_a_letter():
    assert sorted(export_errors.SHOWN.values()) == sorted(export_clinic.CASES)
    assert len(set(CAUSES.values())) == len(CAUSES) == 4
    assert set(CAUSES.values()) < set(export_errors.WORDS)


# A cure


def by_factors(images):
    is_dark = images.flatten(1).mean(1) < 0.25
    return torch.clamp(images * (1 + 0.5 * is_dark[:, None, None, None]), max=1)


def with_mask(images):
    bright, is_dark = images.clone(), images.mean((1, 2, 3)) < 0.25
    bright[is_dark] = (1.5 * images[is_dark]).clamp(max=1)
    return bright


def by_weights(images):
    dark = (images.mean((1, 2, 3), keepdim=True) < 0.25).to(images.dtype)
    return dark * (1.5 * images).clamp(max=1) + (1 - dark) * images


RIGHT_CURES = [brighten, by_factors, with_mask, by_weights]


def brightening(level, *, dark=0.25, most=1.0):
    def attempt(images):
        brighter = 1.5 * images if most is None else (1.5 * images).clamp(max=most)
        return torch.where(level(images) < dark, brighter, images)

    return attempt


def of_each(images):
    return images.mean((1, 2, 3), keepdim=True)


def sick(images):
    return (1.5 * images).clamp(max=1) if images.mean() < 0.25 else images


def asking_each(images):
    return torch.cat([sick(image[None]) for image in images])


def through_numpy(images):
    pixels = images.numpy()
    is_dark = pixels.mean((1, 2, 3), keepdims=True) < 0.25
    return torch.from_numpy(np.where(is_dark, np.minimum(1.5 * pixels, 1), pixels))


def looping(images):
    return torch.cat([brighten(image[None]) for image in images])


def by_its_length(images):
    factors = torch.ones(len(images), 1, 1, 1) + 0.5 * (of_each(images) < 0.25)
    return (factors * images).clamp(max=1)


def different_when_exported(images):
    return brighten(images) + 0.1 * torch.compiler.is_exporting()


def in_place(images):
    images.copy_(brighten(images))
    return images.clone()


WRONG_CURES = [
    (lambda images: brighten(images).tolist(), "no tensor"),
    (lambda images: brighten(images).numpy(), "no tensor"),
    (lambda images: brighten(images)[0], "other shape"),
    (lambda images: brighten(images).flatten(1), "other shape"),
    (sick, "all alike"),
    (lambda images: images, "all alike"),
    (lambda images: (1.5 * images).clamp(max=1), "all alike"),
    (brightening(lambda images: images.mean((2, 3), True)), "mean over other axes"),
    (brightening(lambda images: images.mean(0, True)), "all alike"),
    (brightening(lambda images: images.mean(-1, True)), "mean over other axes"),
    (brightening(lambda images: images), "mean over other axes"),
    (lambda images: torch.where(of_each(images) < 0.25, images, (1.5 * images).clamp(max=1)),
     "bright for dark"),
    (brightening(of_each, most=None), "not clamped"),
    (lambda images: torch.where(of_each(images) <= 0.25, (1.5 * images).clamp(max=1), images),
     "border"),
    (asking_each, "cannot be exported"),
    (through_numpy, "cannot be run"),
    (looping, "fixed batch"),
    (by_its_length, "fixed batch"),
    (lambda images: brighten(images).reshape(int(images.shape[0]), *images.shape[1:]),
     "fixed batch"),
    (different_when_exported, "exported another"),
    (lambda images: brighten(images) + 0.5, "wrong result"),
    (in_place, "argument changed"),
    (lambda images: None, "returns nothing"),
    (failing, "raises"),
    (lambda: None, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_cure_hold_what_the_task_speaks_of():
    dark = [of_each(images).flatten() < 0.25 for (images,) in CURE_CASES]
    assert any(some.all() for some in dark)
    assert any(not some.any() for some in dark)
    assert any(some.any() and not some.all() and images.mean() > 0.25
               for some, (images,) in zip(dark, CURE_CASES, strict=True))  # fmt: skip
    assert any((of_each(images) == 0.25).all() for (images,) in CURE_CASES)
    assert any(images.shape[1] > 1 for (images,) in CURE_CASES)
    for (images,) in CURE_CASES:
        assert images.min() >= 0
        assert images.max() <= 1


def test_the_solution_is_the_cure_of_the_clinic():
    images = torch.rand(9, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.5
    seen = []
    cure = export_clinic.BrighteningEach(lambda given: seen.append(given) or given)
    cure(images)
    torch.testing.assert_close(seen[0], brighten(images))


# All of them


CHECKS = {
    check_requantize: (
        "Requantize", RIGHT_REQUANTIZATIONS, WRONG_REQUANTIZATIONS, REQUANTIZATION_MISTAKES,
    ),
    check_binding_limit: ("The limit that binds", RIGHT_LIMITS, WRONG_LIMITS, BINDING_MISTAKES),
    check_causes: ("Four exports", RIGHT_CAUSES, WRONG_CAUSES, CAUSE_MISTAKES),
    check_cured: ("A cure that exports", RIGHT_CURES, WRONG_CURES, CURE_MISTAKES),
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "cases"),
    [
        (check_requantize, requantization.REQUANTIZATION_CASES),
        (check_binding_limit, binding_limit.BINDING_CASES),
        (check_cured, export_errors.CURE_CASES),
    ],
)
def test_a_check_keeps_its_cases_as_they_are(check, cases):
    def spoiling(*case):
        for part in case:
            if isinstance(part, dict):
                part.clear()
            elif isinstance(part, np.ndarray):
                part[:] = 0
            elif isinstance(part, torch.Tensor):
                part.zero_()

    before = copy.deepcopy(cases)
    check(spoiling)
    assert cases == before
    assert check(CHECKS[check][1][0]).is_solved
