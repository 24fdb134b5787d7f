"""Check of the exercise in lesson 04 on the best technique for a budget and a machine."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge

Option = dict[str, Any]  # "name", "accuracy", "latency_ms" (runtime -> ms), "size_bytes"
Budget = dict[str, Any]  # "latency_ms", "size_bytes", "runtimes" (those of the machine)
Rule = Callable[[Option, Budget], bool]  # whether an option fits

NONE_FITS = object()  # in the place of a result: None where nothing fits


def check_technique(attempt: Callable[[list[Option], Budget], str | None]) -> Outcome:
    """Check a function that picks the most accurate option within a budget.

    Among options of the same accuracy any is right.

    Args:
        attempt: Takes the measured options and the budget; returns the name of one, or None.
    """

    def attempt_or_none(options: list[Option], budget: Budget) -> Any:
        none_fits = not _Task(options, budget).filter(_fits)
        given = attempt(options, budget)
        return NONE_FITS if given is None and none_fits else given

    return judge(
        "The technique for a budget",
        attempt_or_none,
        _Task,
        CASES,
        lambda given, task: task.is_solved_by(given),
        TECHNIQUE_MISTAKES,
        must_keep_arguments=True,
    )


DENSE, SPARSE, TENSOR_CORES = "dense runtime", "sparse kernel", "sparse tensor cores"


def _option(name: str, accuracy: float, size_bytes: int, latency_ms: dict[str, float]) -> Option:
    return {
        "name": name, "accuracy": accuracy, "latency_ms": latency_ms, "size_bytes": size_bytes,
    }  # fmt: skip


def _budget(latency_ms: float, size_bytes: int, *runtimes: str) -> Budget:
    return {"latency_ms": latency_ms, "size_bytes": size_bytes, "runtimes": list(runtimes)}


QUARTER = _option("1/4 of the channels", 90.0, 30_000, {DENSE: 0.3})
HALF = _option("1/2 of the channels", 93.2, 79_000, {DENSE: 0.8})

CASES: list[tuple[list[Option], Budget]] = [
    (  # whoever leaves out a limit or the runtime takes another one each time
        [
            _option("dense", 94.1, 310_000, {DENSE: 2.6}),
            _option("unstructured 80 %", 94.0, 95_000, {DENSE: 2.6, SPARSE: 3.1}),
            _option("2:4", 93.9, 190_000, {TENSOR_CORES: 0.7, DENSE: 2.6}),
            _option("early channels", 93.7, 260_000, {DENSE: 0.9}),
            _option("late channels", 92.8, 210_000, {DENSE: 1.8}),
            HALF,
        ],
        _budget(1.0, 200_000, DENSE),
    ),
    (  # all of them fit
        [
            _option("one block less", 91.0, 80_000, {DENSE: 0.9}),
            QUARTER,
            HALF,
            _option("narrow ends", 90.5, 70_000, {DENSE: 0.7}),
            _option("two blocks less", 85.0, 50_000, {DENSE: 0.7}),
            _option("both", 89.5, 20_000, {DENSE: 0.4}),
            _option("3/8 of the channels", 92.1, 60_000, {DENSE: 0.6}),
        ],
        _budget(1.0, 100_000, DENSE),
    ),
    (  # one runtime of two is enough, here the second one; not all is measured on both
        [
            _option("2:4", 93.8, 90_000, {TENSOR_CORES: 0.9}),
            _option("unstructured 97 %", 92.4, 40_000, {DENSE: 2.6, SPARSE: 0.9}),
            HALF,
            _option("1/4 of the channels", 90.0, 30_000, {DENSE: 0.3, SPARSE: 0.8}),
        ],
        _budget(1.0, 100_000, SPARSE, DENSE),
    ),
    (  # here the first one
        [_option("unstructured 97 %", 92.4, 40_000, {DENSE: 2.6, SPARSE: 0.9}), QUARTER],
        _budget(1.0, 100_000, SPARSE, DENSE),
    ),
    ([QUARTER, HALF], _budget(0.8, 79_000, DENSE)),  # exactly as slow and as large as allowed
    (
        [_option("unstructured 90 %", 93.2, 60_000, {SPARSE: 0.9}), HALF, QUARTER],  # a tie
        _budget(1.0, 100_000, DENSE, SPARSE),
    ),
    (  # one is too slow, one too large, one runs elsewhere
        [
            _option("unstructured 90 %", 93.6, 60_000, {DENSE: 2.6, SPARSE: 1.4}),
            _option("early channels", 93.7, 260_000, {DENSE: 0.9}),
            _option("2:4", 93.9, 90_000, {TENSOR_CORES: 0.7}),
        ],
        _budget(1.0, 100_000, DENSE, SPARSE),
    ),
]


def _is_small(option: Option, budget: Budget) -> bool:
    return bool(option["size_bytes"] <= budget["size_bytes"])


def _is_fast(option: Option, budget: Budget) -> bool:
    return bool(_find_latency(option, budget["runtimes"]) <= budget["latency_ms"])


def _find_latency(option: Option, runtimes: list[str]) -> float:
    """Return the least of the latencies on these runtimes; infinity if there is none."""
    found = [ms for runtime, ms in option["latency_ms"].items() if runtime in runtimes]
    return min(found, default=math.inf)


def _fits(option: Option, budget: Budget) -> bool:
    return _is_small(option, budget) and _is_fast(option, budget)


def _fits_on(place: int) -> Rule:
    """Return the rule that knows only one of the machine's runtimes, by its place."""
    return lambda option, budget: _fits(option, budget | {"runtimes": [budget["runtimes"][place]]})


def _fits_anywhere(option: Option, budget: Budget) -> bool:
    return _fits(option, budget | {"runtimes": list(option["latency_ms"])})


def _fits_on_all(option: Option, budget: Budget) -> bool:
    return all(_fits(option, budget | {"runtimes": [name]}) for name in budget["runtimes"])


def _is_below(option: Option, budget: Budget) -> bool:
    below = {key: math.nextafter(budget[key], 0) for key in ("latency_ms", "size_bytes")}
    return _fits(option, budget | below)


@dataclass(frozen=True)
class _Task:
    """The arguments of a call, and what can be said about an answer to it."""

    options: list[Option]
    budget: Budget

    def filter(self, rule: Rule) -> list[Option]:
        return [option for option in self.options if rule(option, self.budget)]

    def name_best(self, rule: Rule) -> list[str]:
        """Return the names of the most accurate options that keep a rule."""
        kept = self.filter(rule)
        best = max((option["accuracy"] for option in kept), default=None)
        return [option["name"] for option in kept if option["accuracy"] == best]

    def is_solved_by(self, given: Any) -> bool:
        right = self.name_best(_fits)
        return isinstance(given, str) and given in right if right else given is NONE_FITS

    def is_name(self, given: Any) -> bool:
        return isinstance(given, str) and given in [option["name"] for option in self.options]


def _goes_by(*rules: Rule) -> Callable[..., bool]:
    """Return the question whether the result is the most accurate by another rule."""
    return lambda given, task, *case: any(given in task.name_best(rule) for rule in rules)


def _is_first_by(key: Callable[[Option, _Task], float]) -> Callable[..., bool]:
    """Return the question whether the result has the least key of all that fit."""
    return lambda given, task, *case: (
        given == min(task.filter(_fits), key=lambda option: key(option, task))["name"]
    )


TECHNIQUE_MISTAKES = [
    Mistake(
        "fails when none fits",
        lambda given, task, *case: not task.filter(_fits) and isinstance(given, Exception),
        "When no option fits, it raises.",
        "What is the largest of no numbers? The task says what to return then.",
        of_failures=True,
    ),
    Mistake(
        "not measured there",
        lambda given, task, options, budget: (
            isinstance(given, KeyError) and given.args[0] in budget["runtimes"]
        ),
        "It looks up a latency that was not measured.",
        "Not every option ran on every runtime. Which keys does its `latency_ms` have?",
        of_failures=True,
    ),
    Mistake(
        "something although none fits",
        lambda given, task, *case: not task.filter(_fits),
        "No option fits here, but it does not return None.",
        "Is one of them too slow, one too large, one at home on another machine? What is left?",
    ),
    Mistake(
        "whole option",
        lambda given, task, *case: given in task.options,
        "It returns the whole option.",
        "Only its name was asked for.",
    ),
    Mistake(
        "no name",
        lambda given, task, *case: not task.is_name(given),
        "What it returns is not the name of an option.",
        "One string: what an option holds under `name`.",
    ),
    Mistake(
        "budget ignored",
        _goes_by(lambda option, budget: True),
        "This is the most accurate of all, whether it fits or not.",
        "Which options drop out before accuracies are compared?",
    ),
    Mistake(
        "latency ignored",
        _goes_by(_is_small),
        "This one is small enough, but too slow.",
        "Is the latency compared with the budget's, milliseconds with milliseconds?",
    ),
    Mistake(
        "another machine's runtime",
        _goes_by(_fits_anywhere),
        "This one is only fast on a runtime that the machine does not have.",
        "Which of the latencies could be had here? Look at the budget's `runtimes`.",
    ),
    Mistake(
        "size ignored",
        _goes_by(_is_fast),
        "This one is fast enough, but too large.",
        "Is the size compared with the budget's, bytes with bytes?",
    ),
    Mistake(
        "all runtimes",
        _goes_by(_fits_on_all),
        "You ask for an option that is fast on all runtimes of the machine.",
        "How many of them run the network in the end?",
    ),
    Mistake(
        "one runtime",
        _goes_by(_fits_on(0), _fits_on(-1)),
        "The machine has several runtimes; you look at one of them only.",
        "An option may be run wherever it is fastest, if the machine has that.",
    ),
    Mistake(
        "strictly below",
        _goes_by(_is_below),
        "You drop an option that needs exactly as much as allowed.",
        "`<` or `<=`?",
    ),
    Mistake(
        "least accurate",
        _is_first_by(lambda option, task: option["accuracy"]),
        "This is the least accurate option that fits.",
        "`min` or `max`? Does a sort go up or down?",
    ),
    Mistake(
        "smallest",
        _is_first_by(lambda option, task: option["size_bytes"]),
        "This is the smallest option that fits, not the most accurate.",
        "Bytes that the budget allows cost nothing. What should they buy?",
    ),
    Mistake(
        "fastest",
        _is_first_by(lambda option, task: _find_latency(option, task.budget["runtimes"])),
        "This is the fastest option that fits, not the most accurate.",
        "Milliseconds that the budget allows cost nothing. What should they buy?",
    ),
    Mistake(
        "first or last",
        lambda given, task, *case: (
            given in [task.filter(_fits)[place]["name"] for place in (0, -1)]
        ),
        "This is the first or the last option of the list that fits, not the most accurate.",
        "The options come in no order. Does your loop return, or forget, before it has compared?",
    ),
    Mistake(
        "does not fit",
        lambda given, task, *case: given not in [option["name"] for option in task.filter(_fits)],
        "This one does not fit: it is too large, or too slow on every runtime of the machine.",
        "Put its bytes, and its latency on each of the budget's runtimes, beside the budget.",
    ),
    Mistake(
        "not the most accurate",
        lambda given, task, *case: True,
        "It fits, but a more accurate one fits too.",
        "List by hand what fits: name, accuracy. What drops out too early?",
    ),
]
