"""Check of the exercise in lesson 01 on the largest batch that keeps a deadline."""

from collections.abc import Callable, Iterable
from itertools import takewhile
from statistics import fmean, median

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

Latencies = dict[int, list[float]]  # batch size -> milliseconds of each call
Rule = Callable[[list[float], float], bool]  # takes the calls of a batch and the deadline

SHARE_IN_TIME = 0.99


def check_largest_batch(attempt: Callable[[Latencies, float], int]) -> Outcome:
    """Check a function that finds the largest batch that keeps a deadline.

    In all cases it comes to the same to compare the 99th percentile of ``check_percentile``.

    Args:
        attempt: Takes the milliseconds of the calls of each batch size, and the deadline in
            milliseconds; returns a batch size, or 0.
    """
    return judge(
        "The largest batch in time",
        attempt,
        lambda latencies_ms, deadline_ms: _largest(latencies_ms, deadline_ms, _in_time),
        CASES,
        lambda given, right: to_number(given) == right,
        BATCH_MISTAKES,
        must_keep_arguments=True,
    )


CASES: list[tuple[Latencies, float]] = [
    (  # behind each batch: what a function looks at that takes it
        {
            16: [12.0] * 40 + [40.0] * 10 + [12.0] * 50,  # the mean
            1: [2.0] * 100,  # the smallest
            128: [90.0] * 100,  # the time per image
            4: [6.0] * 100,  # what the task says
            64: [50.0] * 95 + [15.5] * 5,  # the fastest call
            8: [30.0] * 3 + [11.0] * 97,  # 95 %
            256: [9000.0] * 100,  # nothing
            32: [15.0] * 60 + [40.0] * 40,  # the median
            2: [3.5] * 100,  # the order of the dict
        },
        16.0,
    ),
    (  # too strict: `<` takes 4, and one late call in 200 leaves 1
        {4: [90.0] + [6.0] * 199, 16: [90.0] + [7.0] * 150 + [8.0] * 49, 1: [2.0] * 200},
        8.0,
    ),
    ({16: [12.0] * 100, 2: [3.0] * 100, 8: [7.0] * 100, 4: [60.0] * 5 + [5.0] * 95}, 8.0),
    ({1: [2.0] * 100, 8: [50.0] + [3.0] * 99, 4: [50.0] + [2.5] * 199}, 8.0),
    ({1: [1.0] * 10, 2: [30.0] + [2.0] * 9}, 8.0),
    ({1: [9.0] * 100, 4: [20.0] * 100}, 5.0),
]


def _share(calls: list[float], deadline_ms: float) -> float:
    """Return the share of the calls that ended in time."""
    return sum(call <= deadline_ms for call in calls) / len(calls)


def _in_time(calls: list[float], deadline_ms: float) -> bool:
    return _share(calls, deadline_ms) >= SHARE_IN_TIME


def _largest(latencies_ms: Latencies, deadline_ms: float, rule: Rule) -> int:
    return max((b for b, calls in latencies_ms.items() if rule(calls, deadline_ms)), default=0)


def _takes(rule: Rule) -> Callable[..., bool]:
    """Return the question whether the result is the largest batch by another rule."""
    return lambda given, right, latencies_ms, deadline_ms: (
        to_number(given) == _largest(latencies_ms, deadline_ms, rule)
    )


def _last(batches: Iterable[int]) -> int:
    return [0, *batches][-1]


BATCH_MISTAKES = [
    Mistake(
        "fails when none holds",
        lambda given, right, ms, deadline: (
            right == 0 and (given is None or isinstance(given, Exception))
        ),
        "When no batch keeps the deadline, it returns nothing, or raises.",
        "Try `largest_batch({1: [9.0]}, 5.0)`. What does the task want then?",
        of_failures=True,
    ),
    Mistake(
        "no batch",
        lambda given, right, ms, deadline: (
            isinstance(given, bool) or to_number(given) not in {0, *ms}
        ),
        "What it returns is not one of the batch sizes.",
        "Return a key of `latencies_ms`, as one number.",
    ),
    Mistake(
        "a batch although none holds",
        lambda given, right, ms, deadline: right == 0,
        "When no batch keeps the deadline, it returns one all the same.",
        "What is returned when the search has found nothing? The task says what should be.",
    ),
    Mistake(
        "time per image",
        lambda given, right, ms, deadline: (
            to_number(given)
            == max(b for b in ms if _in_time([call / b for call in ms[b]], deadline))
        ),
        "You compare the time per image with the deadline.",
        "When does the first image of a batch get its answer, and when the last?",
    ),
    Mistake(
        "fastest call",
        _takes(lambda calls, deadline: min(calls) <= deadline),
        "You look at the fastest call only.",
        "One call in time is not enough. How many have to be?",
    ),
    Mistake(
        "median",
        _takes(lambda calls, deadline: median(calls) <= deadline),
        "You look at the median: nearly half of the calls may come too late.",
        "The median is the 50th percentile. Which one does the task speak of?",
    ),
    Mistake(
        "mean",
        _takes(lambda calls, deadline: fmean(calls) <= deadline),
        "You look at the mean: it hides that one call in ten comes too late.",
        "A fast call does not help whoever waits for a slow one. Count calls instead.",
    ),
    Mistake(
        "95 %",
        _takes(lambda calls, deadline: _share(calls, deadline) >= 0.95),
        "You take a batch of which more than 1 % of the calls come too late.",
        "Read again what share has to be in time.",
    ),
    Mistake(
        "strictly before",
        _takes(lambda calls, deadline: sum(c < deadline for c in calls) / len(calls) >= 0.99),
        "You drop calls that take exactly as long as the deadline allows.",
        "`<` or `<=`?",
    ),
    Mistake(
        "slowest call",
        _takes(lambda calls, deadline: max(calls) <= deadline),
        "A single late call makes you drop a batch.",
        "How many of 200 calls may be late?",
    ),
    Mistake(
        "99 calls",
        _takes(lambda calls, deadline: sum(call <= deadline for call in calls) >= 99),
        "You ask for 99 calls, however many there are.",
        "A share is a count divided by what?",
    ),
    Mistake(
        "more than 99 %",
        _takes(lambda calls, deadline: _share(calls, deadline) > SHARE_IN_TIME),
        "A batch of which exactly 99 % of the calls are in time is dropped.",
        "*At least* 99 %: `>` or `>=`? In a sorted list of 100, which is the 99th?",
    ),
    Mistake(
        "stops at a failure",
        lambda given, right, ms, deadline: (
            to_number(given) == _last(takewhile(lambda b: _in_time(ms[b], deadline), sorted(ms)))
        ),
        "The search ends at the first batch that fails, but a larger one keeps the deadline.",
        "One size can have had bad luck. Look at all of them.",
    ),
    Mistake(
        "smallest",
        lambda given, right, ms, deadline: (
            to_number(given) == min(b for b in ms if _in_time(ms[b], deadline))
        ),
        "This is the smallest batch that keeps the deadline.",
        "Does your loop return before it has seen them all?",
    ),
    Mistake(
        "order of the dict",
        lambda given, right, ms, deadline: (
            to_number(given) == _last(b for b in ms if _in_time(ms[b], deadline))
        ),
        "This is the last batch in the dict that keeps the deadline, not the largest.",
        "A dict keeps the order in which it was filled. Here nobody has sorted it.",
    ),
    Mistake(
        "largest of all",
        lambda given, right, ms, deadline: to_number(given) == max(ms),
        "You take the largest batch of all, whatever its calls took.",
        "Do you compare all the calls with the deadline, and milliseconds with milliseconds?",
    ),
    Mistake(
        "finds none",
        lambda given, right, ms, deadline: to_number(given) == 0,
        "It finds no batch, but one does keep the deadline.",
        "Does it end at the first batch that fails? The sizes come in no order.",
    ),
]
