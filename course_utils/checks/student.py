"""Check of the exercise in lesson 05 on a student for a budget."""

import operator
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge
from course_utils.checks.technique import NONE_FITS

Student = dict[str, Any]  # "name", "alone", "distilled" (accuracies), "latency_ms", "size_bytes"
Budget = dict[str, float]  # "latency_ms", "size_bytes"
Choice = tuple[str, str]  # name and way
WAYS = ("alone", "distilled")


def _make(*values: Any) -> Student:
    return dict(zip(("name", *WAYS, "latency_ms", "size_bytes"), values, strict=True))


BUDGET: Budget = {"latency_ms": 1.0, "size_bytes": 100_000}
STUDENT_CASES: list[tuple[list[Student], Budget]] = [
    ([  # whoever leaves out a limit takes another one each time
        _make("width 64", [94.0, 94.2, 94.1], [94.9, 95.0, 95.1], 2.5, 400_000),
        _make("deep", [92.8, 93.0, 92.9], [93.7, 93.8, 93.9], 1.8, 80_000),
        _make("early", [92.4, 92.6, 92.5], [93.2, 93.3, 93.4], 0.8, 250_000),
        _make("width 32", [91.9, 92.1, 92.0], [92.8, 92.9, 93.0], 0.9, 90_000),
        _make("width 16", [89.9, 90.1, 90.0], [90.8, 90.9, 91.0], 0.5, 30_000),
        _make("shallow", [87.9, 88.1, 88.0], [88.8, 88.9, 89.0], 0.7, 60_000),
    ], BUDGET),
    ([  # all fit; the best has learned alone
        _make("A", [90.6, 90.8, 90.7], [91.5, 91.6, 91.7], 0.6, 60_000),
        _make("B", [92.6, 93.4, 93.0], [93.3, 93.5, 93.4], 0.8, 80_000),
        _make("C", [91.9, 94.4, 92.6], [92.9, 93.1, 93.0], 0.9, 70_000),
        _make("D", [93.0, 93.5, 94.0], [93.0, 93.1, 93.2], 0.9, 90_000),
        _make("E", [90.0, 93.8, 93.7], [92.9, 93.1, 93.0], 0.7, 80_000),
        _make("F", [93.2, 93.3, 93.25], [93.0, 93.1, 93.05], 0.9, 85_000),
        _make("G", [89.7, 89.8, 89.9], [90.5, 90.6, 90.7], 0.3, 50_000),
        _make("H", [90.1, 90.2, 90.3], [91.0, 91.1, 91.2], 0.5, 20_000),
    ], BUDGET),
    ([  # each has another spread; the best has learned from a teacher
        _make("A", [92.0, 92.4, 92.8], [92.7, 93.1, 93.5], 0.8, 80_000),
        _make("B", [91.9, 92.0, 92.1], [92.4, 93.0, 93.6], 0.8, 80_000),
        _make("C", [91.6, 92.1, 92.6], [92.8, 92.9, 93.0], 0.8, 80_000),
        _make("D", [91.9, 92.1, 92.3], [92.6, 92.8, 93.0], 0.8, 80_000),
        _make("E", [91.8, 91.9, 92.0], [92.5, 92.6, 92.7], 0.8, 80_000),
    ], BUDGET),
    ([  # 1.0 more, at a spread of 1.0; a tie
        _make("A", [90.0, 91.0], [91.25, 91.75], 0.8, 80_000),
        _make("B", [90.5, 90.5], [90.5, 90.5], 0.8, 80_000),
    ], BUDGET),
    ([  # exactly as slow and as large as allowed; one seed; a teacher that does harm
        _make("A", [91.0], [91.5], 0.8, 80_000), _make("B", [92.5], [92.0], 1.0, 100_000),
    ], BUDGET),
    ([  # one is too slow, one too large
        _make("A", [92.0, 92.2], [93.0, 93.2], 1.2, 80_000),
        _make("B", [92.1, 92.3], [93.1, 93.3], 0.8, 120_000),
    ], BUDGET),
]  # fmt: skip


def check_student(attempt: Callable[[list[Student], Budget], Choice | None]) -> Outcome:
    """Check a function that picks the most accurate student within a budget, and how it learned.

    Args:
        attempt: Takes the measured students and the budget; returns a name and "alone" or
            "distilled", or None.
    """

    def attempt_or_none(students: list[Student], budget: Budget) -> Any:
        given = attempt(students, budget)
        return NONE_FITS if given is None and not _choose(students, budget) else given

    return judge(
        "A student for a budget",
        attempt_or_none,
        _choose,
        STUDENT_CASES,
        lambda given, right: given in (right or [NONE_FITS]),
        STUDENT_MISTAKES,
        must_keep_arguments=True,
    )


def _fits(one: Student, budget: Budget) -> bool:
    return all(one[limit] <= budget[limit] for limit in budget)


def _decide_by(
    spread: Callable[[float, float], float],
    typical: Callable[[list[float]], float] = fmean,
    needed: Callable[[float, float], bool] = operator.gt,
) -> Callable[[Student], str]:
    """Return the rule by which a gain beyond a spread, of the ranges of both ways, counts."""

    def decide(one: Student) -> str:
        ranges = [max(one[way]) - min(one[way]) for way in WAYS]
        gain = typical(one["distilled"]) - typical(one["alone"])
        return WAYS[needed(gain, spread(*ranges))]

    return decide


_decide = _decide_by(max)


def _choose(
    students: list[Student],
    budget: Budget,
    fits: Callable[[Student, Budget], bool] = _fits,
    decide: Callable[[Student], str] = _decide,
    score: Callable[[Student, str], float] = lambda one, way: fmean(one[way]),
) -> list[Choice]:
    """Return the best choices by these rules."""
    ways = [(one, decide(one)) for one in students if fits(one, budget)]
    best = max((score(*pair) for pair in ways), default=None)
    return [(one["name"], way) for one, way in ways if score(one, way) == best]


def _chooses(*rules: dict[str, Any]) -> Callable[..., bool]:
    """Return the question whether the result is a best choice by other rules."""
    return lambda given, right, *case: any(given in _choose(*case, **rule) for rule in rules)


STUDENT_MISTAKES = [
    Mistake("fails when none fits",
            lambda given, right, *_: not right and isinstance(given, Exception),
            "When no student fits, it raises.",
            "What is the largest of no numbers? The task says what to return.", of_failures=True),
    Mistake("something although none fits", lambda given, right, *_: not right,
            "No student fits here, but it does not return None.",
            "Is one of them too slow, another too large? What is left?"),
    Mistake("name alone",
            lambda given, right, students, _: given in [one["name"] for one in students],
            "It returns a name, but does not say how the student learns.",
            "The task asks for a pair."),
    Mistake("no pair",
            lambda given, right, students, _: given not in [
                (one["name"], way) for one in students for way in WAYS],
            "It should return a tuple: the name of a student, and \"alone\" or \"distilled\".",
            "Print your result. Two strings, which one first?"),
    Mistake("budget ignored", _chooses({"fits": lambda one, budget: True}),
            "This is the most accurate student of all, whether it fits or not.",
            "Who drops out before accuracies are compared?"),
    Mistake("latency ignored",
            _chooses({"fits": lambda one, budget: one["size_bytes"] <= budget["size_bytes"]}),
            "This one is small enough, but too slow.", "Where do you compare milliseconds?"),
    Mistake("size ignored",
            _chooses({"fits": lambda one, budget: one["latency_ms"] <= budget["latency_ms"]}),
            "This one is fast enough, but too large.", "Where do you compare bytes?"),
    Mistake("strictly below",
            _chooses({"fits": lambda one, budget: all(one[k] < budget[k] for k in budget)},
                     *({"fits": lambda one, budget, k=k: _fits(one, budget) and one[k] < budget[k]}
                       for k in BUDGET)),
            "You drop a student that needs exactly as much as allowed.", "`<` or `<=`?"),
    Mistake("as much as the spread",
            _chooses({"decide": _decide_by(max, needed=operator.ge)}),
            "A gain that is exactly the spread counts already.", "`>` or `>=`?"),
    Mistake("higher mean is enough", _chooses({"decide": _decide_by(lambda *_: 0)}),
            "The higher mean decides, though the seeds differ by more than that.",
            "Could the gain be chance? What does the task compare it with?"),
    Mistake("smaller spread",
            _chooses(*({"decide": _decide_by(spread)} for spread in (
                min, lambda a, d: a, lambda a, d: d, lambda a, d: (a + d) / 2))),
            "The spread is too small: that of one list, or a mean of both.",
            "Which of the two lists is scattered more, and does it count?"),
    Mistake("larger spread", _chooses({"decide": _decide_by(lambda a, d: a + d)}),
            "The spreads are added up.", "How many of the two does the task ask for?"),
    Mistake("always distilled", _chooses({"decide": lambda one: "distilled"}),
            "The teacher gets the credit, though alone this student is as good or better.",
            "What if the two means are the wrong way round, or too near to each other?"),
    Mistake("accuracy of the other way",
            _chooses(*({"score": lambda one, way, other=other: other(one)} for other in (
                lambda one: fmean(one["alone"]), lambda one: fmean(one["distilled"]),
                lambda one: max(fmean(one[way]) for way in WAYS)))),
            "The students are not compared by the way that is returned for them.",
            "First choose the way of each student. Which accuracy does it bring along?"),
    Mistake("never distilled", _chooses({"decide": lambda one: "alone"}),
            "The students count as trained alone, even where the teacher helps beyond doubt.",
            "Put both means and both spreads of this student side by side."),
    Mistake("one seed for all",
            _chooses(*({"score": lambda one, way, pick=pick: pick(one[way]), "decide": decide}
                       for pick in (max, min, median)
                       for decide in (_decide, _decide_by(max, pick)))),
            "One seed stands for all of them.",
            "Would this student still be the best with the luck of another seed?"),
    Mistake("smallest or fastest",
            _chooses(*({"score": lambda one, way, k=k: -one[k]} for k in BUDGET)),
            "This is the smallest or the fastest one that fits, not the most accurate.",
            "What the budget allows costs nothing. What should it buy?"),
    Mistake("wrong way", lambda given, right, *_: given[0] in dict(right),
            "The student is the right one, but not the way.",
            "Work out by hand: both means, their difference, both spreads."),
    Mistake("not the best", lambda given, *_: True,
            "Another student is more accurate and fits, or this one does not fit.",
            "List by hand who fits: name, way, accuracy. Does your loop return too early?"),
]  # fmt: skip
