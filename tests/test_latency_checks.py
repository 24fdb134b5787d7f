"""The checks of lesson 01: a percentile, a deadline, and four flawed benchmarks."""

import itertools
import math
import statistics
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions

from course_utils import progress
from course_utils.checks import latency
from course_utils.checks.benchmarks import FLAW_MISTAKES, FLAWS, WORDS, check_flaws
from course_utils.checks.deadline import BATCH_MISTAKES, CASES, check_largest_batch
from course_utils.checks.latency import LIBRARIES, PERCENTILE_MISTAKES, check_percentile
from course_utils.checks.outcome import Mistake, judge, to_number

SOLVED = load_solutions("01_inference_basics")
percentile, largest_batch, name_flaws = SOLVED.percentile, SOLVED.largest_batch, SOLVED.name_flaws


def endless(*arguments):
    return endless(*arguments)


def failing(*_):
    raise ZeroDivisionError("no calls at all")


# A percentile: right answers


def by_weights(samples, percent):
    """Weigh the two neighbours, and do not go beyond the last one."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return (1 - (place - low)) * ordered[low] + (place - low) * ordered[high]


def in_numpy(samples, percent):
    ordered = np.sort(samples)
    return np.interp((len(ordered) - 1) * percent / 100, np.arange(len(ordered)), ordered)


def in_float32(samples, percent):
    return torch.tensor(percentile(samples, percent), dtype=torch.float32)


def sorted_on_a_copy(samples, percent):
    samples = samples.copy()
    samples.sort()
    return percentile(samples, percent)


def from_fractions(samples, percent):
    return Fraction(percentile(samples, percent))


def slowly(samples, percent):
    time.sleep(0.02)
    return percentile(samples, percent)


def sorted_by_all_orders(samples, percent):
    """Sort by trying every order of at most seven samples."""
    if len(samples) > 7:
        return percentile(samples, percent)
    orders = itertools.permutations(samples)
    ordered = next(o for o in orders if all(a <= b for a, b in itertools.pairwise(o)))
    return percentile(ordered, percent)


RIGHT_PERCENTILES = [
    percentile, by_weights, in_numpy, in_float32, sorted_on_a_copy, from_fractions, slowly,
    sorted_by_all_orders,
    lambda samples, percent: np.float64(percentile(samples, percent)),
    lambda samples, percent: np.float32(percentile(samples, percent)),
    lambda samples, percent: np.array([percentile(samples, percent)]),
    lambda samples, percent: torch.tensor(percentile(samples, percent), requires_grad=True),
]  # fmt: skip


@given(
    st.lists(st.floats(0.01, 1e4), min_size=1, max_size=50),
    st.floats(0, 100),
)
def test_the_percentile_of_the_solution_and_of_the_check_is_numpys(samples, percent):
    theirs = np.percentile(samples, percent)
    assert percentile(samples, percent) == pytest.approx(theirs, rel=1e-6)
    assert latency._percentile(samples, percent) == pytest.approx(theirs, rel=1e-6)


# A percentile: wrong answers


def place_of(samples, percent):
    return (len(samples) - 1) * percent / 100


def between(ordered, place):
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[math.ceil(place)] - ordered[low])


def always_next(samples, percent):
    """Go on to the next sample even from the last one."""
    ordered, place = sorted(samples), place_of(samples, percent)
    low = int(place)
    return ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])


def by_floor_and_ceil(samples, percent):
    ordered, place = sorted(samples), place_of(samples, percent)
    low, high = math.floor(place), math.ceil(place)
    return (high - place) * ordered[low] + (place - low) * ordered[high]


def exchanged(samples, percent):
    ordered, place = sorted(samples), place_of(samples, percent)
    share = place - math.floor(place)
    return share * ordered[math.floor(place)] + (1 - share) * ordered[math.ceil(place)]


def half_way(samples, percent):
    ordered, place = sorted(samples), place_of(samples, percent)
    return (ordered[math.floor(place)] + ordered[math.ceil(place)]) / 2


def nearest_rank(samples, percent):
    return sorted(samples)[max(math.ceil(len(samples) * percent / 100) - 1, 0)]


def at_place(compute):
    """Return a percentile with another place, held between the first and the last sample."""

    def wrong(samples, percent):
        place = compute(len(samples), percent / 100)
        return between(sorted(samples), min(max(place, 0), len(samples) - 1))

    return wrong


def sorting_in_place(samples, percent):
    samples.sort()
    return percentile(samples, percent)


def emptying(samples, percent):
    found = percentile(samples, percent)
    samples.clear()
    return found


def sorting_in_place_and_rounding_down(samples, percent):
    samples.sort()
    return samples[int(place_of(samples, percent))]


def catching_everything(samples, percent):
    try:
        return np.percentile(samples, percent)
    except Exception:
        return 0.5 * min(samples)


WRONG_PERCENTILES = [
    (lambda x, percent: np.percentile(x, percent), "from a library"),
    (lambda x, percent: np.percentile(x, percent / 100), "from a library"),
    (lambda x, percent: np.quantile(x, percent), "from a library"),
    (lambda x, percent: np.nanpercentile(x, percent), "from a library"),
    (lambda x, percent: statistics.quantiles(x, n=100)[percent - 1], "from a library"),
    (lambda x, percent: torch.quantile(torch.tensor(x), percent / 100), "from a library"),
    (lambda x, percent: torch.tensor(x).quantile(percent / 100), "from a library"),
    (catching_everything, "wrong result"),
    (lambda x, percent: between(sorted(x), (len(x) - 1) * percent), "percent as a fraction"),
    (lambda x, percent: sorted(x)[int(len(x) * percent)], "percent as a fraction"),
    (lambda x, percent: np.sort(x)[int(len(x) * percent)], "percent as a fraction"),
    (at_place(lambda n, share: (n - 1) * share * 100), "percent as a fraction"),
    (always_next, "beyond the end"),
    (lambda x, percent: [percentile(x, percent)], "no number"),
    (lambda x, percent: str(percentile(x, percent)), "no number"),
    (lambda x, percent: (1.0, 2.0), "no number"),
    (lambda x, percent: np.array(x), "no number"),
    (lambda x, percent: math.nan, "no number"),
    (lambda x, percent: torch.tensor(math.nan), "no number"),
    (lambda x, percent: True, "no number"),
    (lambda x, percent: sorted, "no number"),
    (lambda x, percent: between(x, place_of(x, percent)), "not sorted"),
    (lambda x, percent: x[int(place_of(x, percent))], "not sorted"),
    (lambda x, percent: x[round(place_of(x, percent))], "not sorted"),
    (place_of, "the place"),
    (lambda x, percent: sorted(x)[int(place_of(x, percent))], "rounded down"),
    (lambda x, percent: sorted(x)[(len(x) - 1) * percent // 100], "rounded down"),
    (lambda x, percent: sorted(x)[math.ceil(place_of(x, percent))], "rounded up"),
    (lambda x, percent: sorted(x)[round(place_of(x, percent))], "rounded up"),
    (lambda x, percent: sorted(x)[int(len(x) * percent / 100)], "rounded up"),
    (nearest_rank, "rounded up"),
    (at_place(lambda n, share: n * share), "another place"),
    (at_place(lambda n, share: n * share - 1), "another place"),
    (at_place(lambda n, share: n * share - 0.5), "another place"),
    (at_place(lambda n, share: (n + 1) * share - 1), "another place"),
    (lambda x, percent: percentile(x, 100 - percent), "the other end"),
    (lambda x, percent: between(sorted(x)[::-1], place_of(x, percent)), "the other end"),
    (lambda x, percent: sum(x) / len(x), "mean"),
    (lambda x, percent: statistics.median(x), "median"),
    (lambda x, percent: np.median(x), "median"),
    (exchanged, "shares exchanged"),
    (half_way, "half-way"),
    (by_floor_and_ceil, "shares of 0"),
    (sorting_in_place, "argument changed"),
    (emptying, "argument changed"),
    (sorting_in_place_and_rounding_down, "rounded down"),
    (lambda x, percent: 10**400, "wrong result"),
    (lambda x, percent: -percentile(x, percent), "wrong result"),
    (lambda x, percent: percentile(x, percent) / 1000, "wrong result"),
    (lambda x, percent: math.inf, "wrong result"),
    (lambda x, percent: None, "returns nothing"),
    (endless, "raises"),
    (failing, "raises"),
    (lambda x: x, "raises"),
    (12.5, "raises"),
]


def test_no_two_mistakes_give_the_same_in_the_first_case():
    samples, percent = [14.0, 25.0, 40.0, 12.0, 11.0, 10.0, 17.0], 80
    ordered, place = sorted(samples), place_of(samples, percent)
    told_apart = [  # "rounded up" holds three of these on purpose
        percentile(samples, percent), between(samples, place), samples[4], samples[5], place,
        ordered[4], ordered[5], max(samples), percentile(samples, 20),
        statistics.mean(samples), statistics.median(samples), exchanged(samples, percent),
        half_way(samples, percent),
        *(between(ordered, other) for other in (5.6, 4.6, 5.1, 5.4)),
    ]  # fmt: skip
    gaps = [abs(a - b) for a, b in itertools.combinations(told_apart, 2)]
    assert min(gaps) > 0.05


def test_the_libraries_work_again_after_a_check():
    before = [getattr(library, name) for library, name in LIBRARIES]
    check_percentile(lambda samples, percent: np.percentile(samples, percent))
    assert [getattr(library, name) for library, name in LIBRARIES] == before
    assert np.percentile([1.0, 2.0], 50) == torch.tensor([1.0, 2.0]).quantile(0.5) == 1.5


def test_an_endless_loop_can_be_broken_off_and_leaves_the_libraries_whole():
    def broken_off(samples, percent):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_percentile(broken_off)
    assert np.quantile([1.0, 2.0], 0.5) == 1.5
    assert "Nothing yet" in progress.report()


# The largest batch


def by_the_percentile(of):
    """Return an answer that compares the 99th percentile with the deadline."""

    def answer(latencies_ms, deadline_ms):
        in_time = [b for b, calls in latencies_ms.items() if of(calls, 99) <= deadline_ms]
        return max(in_time, default=0)

    return answer


def from_the_largest_down(latencies_ms, deadline_ms):
    for batch in sorted(latencies_ms, reverse=True):
        late = [call for call in latencies_ms[batch] if call > deadline_ms]
        if 100 * len(late) <= len(latencies_ms[batch]):
            return batch
    return 0


def counting_percent(latencies_ms, deadline_ms):
    best = 0
    for batch, calls in latencies_ms.items():
        share = 100 * np.mean(np.array(calls) <= deadline_ms)
        if share >= 99 and batch > best:
            best = batch
    return best


RIGHT_BATCHES = [
    largest_batch, from_the_largest_down, counting_percent,
    by_the_percentile(percentile), by_the_percentile(by_weights), by_the_percentile(np.percentile),
    by_the_percentile(nearest_rank),
    lambda ms, limit: float(largest_batch(ms, limit)),
    lambda ms, limit: np.int64(largest_batch(ms, limit)),
    lambda ms, limit: torch.tensor(largest_batch(ms, limit)),
    lambda ms, limit: largest_batch({b: tuple(ms[b]) for b in sorted(ms)}, limit),
]  # fmt: skip


def largest_that(holds):
    """Return an answer that goes by another rule for the calls of a batch."""
    return lambda ms, limit: max((b for b in ms if holds(b, ms[b], limit)), default=0)


def in_time(calls, limit):
    return sum(call <= limit for call in calls) / len(calls) >= 0.99


def first_in_time(latencies_ms, deadline_ms):
    for batch in sorted(latencies_ms):
        if in_time(latencies_ms[batch], deadline_ms):
            return batch
    return 0


def last_in_time(latencies_ms, deadline_ms):
    best = 0
    for batch, calls in latencies_ms.items():
        if in_time(calls, deadline_ms):
            best = batch
    return best


def until_one_fails(order):
    def answer(latencies_ms, deadline_ms):
        best = 0
        for batch in order(latencies_ms):
            if not in_time(latencies_ms[batch], deadline_ms):
                break
            best = batch
        return best

    return answer


def none_or_largest(latencies_ms, deadline_ms):
    return largest_batch(latencies_ms, deadline_ms) or None


def smallest_or_largest(latencies_ms, deadline_ms):
    return largest_batch(latencies_ms, deadline_ms) or min(latencies_ms)


def largest_or_error(latencies_ms, deadline_ms):
    return max(b for b, calls in latencies_ms.items() if in_time(calls, deadline_ms))


def sorting_the_lists(latencies_ms, deadline_ms):
    for calls in latencies_ms.values():
        calls.sort()
    return largest_batch(latencies_ms, deadline_ms)


def removing_batches(latencies_ms, deadline_ms):
    found = largest_batch(latencies_ms, deadline_ms)
    latencies_ms.pop(1, None)
    return found


WRONG_BATCHES = [
    (largest_that(lambda b, calls, limit: statistics.median(calls) <= limit), "median"),
    (largest_that(lambda b, calls, limit: np.percentile(calls, 50) <= limit), "median"),
    (largest_that(lambda b, calls, limit: sum(calls) / len(calls) <= limit), "mean"),
    (largest_that(lambda b, calls, limit: min(calls) <= limit), "fastest call"),
    (largest_that(lambda b, calls, limit: any(c <= limit for c in calls)), "fastest call"),
    (largest_that(lambda b, calls, limit: max(calls) <= limit), "slowest call"),
    (largest_that(lambda b, calls, limit: all(c <= limit for c in calls)), "slowest call"),
    (largest_that(lambda b, calls, limit: np.percentile(calls, 95) <= limit), "95 %"),
    (
        largest_that(lambda b, calls, limit: in_time([c / b for c in calls], limit)),
        "time per image",
    ),
    (
        largest_that(lambda b, calls, limit: statistics.median(calls) / b <= limit),
        "time per image",
    ),
    (
        largest_that(lambda b, calls, limit: sum(c < limit for c in calls) / len(calls) >= 0.99),
        "strictly before",
    ),
    (largest_that(lambda b, calls, limit: np.percentile(calls, 99) < limit), "strictly before"),
    (
        largest_that(lambda b, calls, limit: sum(c <= limit for c in calls) / len(calls) > 0.99),
        "more than 99 %",
    ),
    (
        largest_that(lambda b, calls, limit: sorted(calls)[int(0.99 * len(calls))] <= limit),
        "more than 99 %",
    ),
    (largest_that(lambda b, calls, limit: sum(c <= limit for c in calls) >= 99), "99 calls"),
    (largest_that(lambda b, calls, limit: in_time([c / 1000 for c in calls], limit)),
     "largest of all"),
    (lambda ms, limit: max(ms), "largest of all"),
    (lambda ms, limit: 0, "finds none"),
    (until_one_fails(list), "finds none"),
    (until_one_fails(sorted), "stops at a failure"),
    (first_in_time, "smallest"),
    (lambda ms, limit: min(ms), "smallest"),
    (last_in_time, "order of the dict"),
    (lambda ms, limit: list(ms)[-1], "order of the dict"),
    (none_or_largest, "fails when none holds"),
    (largest_or_error, "fails when none holds"),
    (smallest_or_largest, "a batch although none holds"),
    (lambda ms, limit: largest_batch(ms, limit) or -1, "no batch"),
    (lambda ms, limit: largest_batch(ms, limit) or False, "no batch"),
    (lambda ms, limit: [largest_batch(ms, limit)], "no batch"),
    (lambda ms, limit: str(largest_batch(ms, limit)), "no batch"),
    (lambda ms, limit: math.nan, "no batch"),
    (lambda ms, limit: "16", "no batch"),
    (lambda ms, limit: torch.tensor([4, 8]), "no batch"),
    (lambda ms, limit: max(ms.values()), "no batch"),
    (lambda ms, limit: 10**400, "wrong result"),
    (sorting_the_lists, "argument changed"),
    (removing_batches, "argument changed"),
    (lambda ms, limit: None, "returns nothing"),
    (endless, "raises"),
    (failing, "raises"),
    (lambda ms: 4, "raises"),
    ({}, "raises"),
]  # fmt: skip


def test_the_cases_hold_what_the_task_speaks_of():
    right = [largest_batch(*case) for case in CASES]
    assert 0 in right
    assert any(list(latencies_ms) != sorted(latencies_ms) for latencies_ms, _ in CASES)
    assert any(deadline_ms in calls for ms, deadline_ms in CASES for calls in ms.values())
    assert any(  # a smaller batch fails where a larger one holds
        not in_time(ms[batch], deadline_ms)
        for (ms, deadline_ms), largest in zip(CASES, right, strict=True)
        for batch in ms
        if batch < largest
    )


def test_a_case_is_shown_so_that_it_can_be_typed_again():
    outcome = check_largest_batch(failing)
    shown = outcome.message.removeprefix("Called with ").split(", it raised")[0]
    assert len(shown) < 400
    assert eval(f"[{shown}]") == list(CASES[0])


# The four benchmarks


def changed(**words):
    return lambda: FLAWS | words


RIGHT_FLAWS = [
    name_flaws,
    lambda: dict(FLAWS),
    lambda: {letter.lower(): flaw for letter, flaw in FLAWS.items()},
    lambda: {f" {letter} ": f"  {flaw.upper()} " for letter, flaw in FLAWS.items()},
    changed(C="No warmup"),
    changed(C="no  warm up"),
    lambda: {np.str_(letter): np.str_(flaw) for letter, flaw in FLAWS.items()},
    lambda: dict(reversed(FLAWS.items())),
]
WRONG_FLAWS = [
    (lambda: None, "returns nothing"),
    (lambda: "the loading is timed", "no dict"),
    (lambda: list(FLAWS.values()), "no dict"),
    (lambda: set(FLAWS.values()), "no dict"),
    (lambda: math.nan, "no dict"),
    (lambda: torch.zeros(4), "no dict"),
    (dict, "other keys"),
    (lambda: {"A": FLAWS["A"]}, "other keys"),
    (lambda: dict(zip("1234", FLAWS.values(), strict=True)), "other keys"),
    (lambda: dict(enumerate(FLAWS.values())), "other keys"),
    (changed(E="none"), "other keys"),
    (lambda: {flaw: letter for letter, flaw in FLAWS.items()}, "other keys"),
    (changed(A="loading"), "other words"),
    (changed(C="no warmpu"), "other words"),
    (changed(B=""), "other words"),
    (changed(B=None), "other words"),
    (changed(D=["different batch sizes"]), "other words"),
    (changed(A="none"), "A is wrong"),
    (changed(B="no warm-up"), "B is wrong"),
    (changed(C="the loading is timed"), "C is wrong"),
    (changed(D="none"), "D is wrong"),
    (changed(A="no warm-up", C="the loading is timed"), "two are right"),
    (changed(A="none", B="none"), "two are right"),
    (changed(B="none", C="none", D="none"), "one is right"),
    (lambda: dict.fromkeys("ABCD", "nothing ran"), "one is right"),
    (lambda: dict.fromkeys("ABCD", "none"), "none is right"),
    (lambda: dict(zip("ABCD", ("no warm-up", *list(FLAWS.values())[:3]), strict=True)),
     "none is right"),
    (lambda first: FLAWS, "raises"),
    (endless, "raises"),
    (failing, "raises"),
    (FLAWS, "raises"),
]  # fmt: skip


def test_there_is_a_flaw_of_its_own_for_each_letter_and_a_word_for_none():
    assert list(FLAWS) == ["A", "B", "C", "D"]
    assert sorted(WORDS) == sorted({*FLAWS.values(), "none"})
    assert len(WORDS) == 5


def test_two_right_answers_do_not_tell_which():
    outcomes = [
        check_flaws(changed(**dict.fromkeys(pair, "none")))
        for pair in itertools.combinations("ABCD", 2)
    ]
    assert len({repr(outcome) for outcome in outcomes}) == 1
    assert "Two of four" in outcomes[0].message


@pytest.mark.parametrize("letter", "ABCD")
def test_a_single_wrong_answer_is_pointed_at_without_its_name(letter):
    outcome = check_flaws(changed(**{letter: "none"}))
    assert f"Look at {letter} again" in outcome.message
    assert not any(word in outcome.hint for word in WORDS)


def test_words_that_are_no_answer_are_told_the_five():
    hint = check_flaws(changed(A="loading")).hint
    assert all(word in hint for word in WORDS)


def test_a_failing_answer_without_arguments_is_shown_so():
    message = check_flaws(failing).message
    assert message == "Called with no arguments, it raised ZeroDivisionError: no calls at all"


# All three


CHECKS = {
    check_percentile: (
        "A percentile by hand", RIGHT_PERCENTILES, WRONG_PERCENTILES, PERCENTILE_MISTAKES,
    ),
    check_largest_batch: (
        "The largest batch in time", RIGHT_BATCHES, WRONG_BATCHES, BATCH_MISTAKES,
    ),
    check_flaws: ("Four benchmarks", RIGHT_FLAWS, WRONG_FLAWS, FLAW_MISTAKES),
}  # fmt: skip


def test_endless_recursion_is_told_as_such():
    for check in CHECKS:
        assert "RecursionError" in check(endless).message


# What the checks of this lesson asked of the machinery of all checks


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (3, 3), (2.5, 2.5), (np.float32(1.5), 1.5), (np.int64(4), 4), (torch.tensor(2), 2),
        (torch.tensor([[7.0]]), 7), (np.array([1.0]), 1), (Fraction(1, 4), 0.25),
    ],
)  # fmt: skip
def test_a_single_number_of_any_kind_is_a_number(given, number):
    assert to_number(given) == number
    assert type(to_number(given)) is float


@pytest.mark.parametrize(
    "given", ["3", True, None, [3], (3,), 1j, np.array([1, 2]), torch.ones(2), np.str_("3"), {}]
)
def test_anything_else_is_none(given):
    assert math.isnan(to_number(given))


def test_mistakes_see_the_arguments_as_they_were():
    def emptying_its_argument(numbers):
        numbers.clear()
        return 0

    is_first = Mistake("first", lambda given, right, numbers: numbers == [1, 2], "Message", "Hint")
    outcome = judge(
        "One", emptying_its_argument, lambda numbers: 1, [([1, 2],)],
        lambda given, right: given == right, [is_first],
    )  # fmt: skip
    assert outcome.state == "first"


def test_changed_arguments_are_no_mistake_where_nobody_asked_for_them_to_be_kept():
    def emptying_its_argument(numbers):
        numbers.clear()
        return 1

    def judge_it(must_keep):
        return judge(
            "One", emptying_its_argument, lambda numbers: 1, [([1, 2],), ([3],)],
            lambda given, right: given == right, [], must_keep_arguments=must_keep,
        ).state  # fmt: skip

    assert judge_it(must_keep=False) == "solved"
    assert judge_it(must_keep=True) == "argument changed"


@pytest.mark.parametrize("failure", [lambda: None, failing])
def test_only_mistakes_that_ask_for_failures_see_them(failure):
    def judge_with(of_failures):
        anything = Mistake("anything", lambda given, right: True, "Message", "Hint", of_failures)
        return judge("One", failure, lambda: 1, [()], lambda *_: True, [anything]).state

    assert judge_with(of_failures=True) == "anything"
    assert judge_with(of_failures=False) in {"raises", "returns nothing"}


def test_no_hint_holds_the_name_of_a_flaw():
    for mistake in (m for m in FLAW_MISTAKES if m.name != "other words"):
        assert not any(word in mistake.message + mistake.hint for word in FLAWS.values())
