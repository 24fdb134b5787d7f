"""Check of the exercise in lesson 01 on benchmarks that do not measure what they claim."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge

FLAWS = {
    "A": "the loading is timed",
    "B": "nothing ran",
    "C": "no warm-up",
    "D": "different batch sizes",
}
WORDS = [*sorted(FLAWS.values()), "none"]


def check_flaws(attempt: Callable[[], dict[str, str]]) -> Outcome:
    """Check a function that names the flaw of each of the four benchmarks, "A" to "D".

    It tells how many are right; not which, unless a single one is wrong.

    Args:
        attempt: Returns a word of ``WORDS`` for each letter; case, spaces and hyphens are free.
    """
    name = "Four benchmarks"
    outcome = judge(name, attempt, lambda: FLAWS, [()], _is_right, FLAW_MISTAKES)
    return replace(outcome, message=f"{name}: all are right.") if outcome.is_solved else outcome


def _word(written: Any) -> str:
    """Return the letters of a word; nothing if it is no text."""
    return "".join(filter(str.isalpha, written.lower())) if isinstance(written, str) else ""


def _read(given: dict[str, str]) -> dict[str, str]:
    return {str(letter).strip().upper(): _word(written) for letter, written in given.items()}


def _count_right(given: dict[str, str]) -> int:
    read = _read(given)
    return sum(read[letter] == _word(flaw) for letter, flaw in FLAWS.items())


def _is_right(given: Any, right: dict[str, str]) -> bool:
    return _read(given) == {letter: _word(flaw) for letter, flaw in right.items()}


def _only_wrong(letter: str) -> Callable[..., bool]:
    return lambda given, right: (
        _count_right(given) == 3 and _read(given)[letter] != _word(right[letter])
    )


FLAW_MISTAKES = [
    Mistake(
        "no dict",
        lambda given, right: not isinstance(given, dict),
        "It should return a dict.",
        'Return {"A": "...", "B": "...", "C": "...", "D": "..."}, one of the five words for each.',
    ),
    Mistake(
        "other keys",
        lambda given, right: set(_read(given)) != set(right),
        "The keys of the dict are not the four letters.",
        'The dict needs "A", "B", "C" and "D", and nothing else.',
    ),
    Mistake(
        "other words",
        lambda given, right: not set(_read(given).values()) <= set(map(_word, WORDS)),
        "At least one of your answers is none of the five.",
        f"The five are: {', '.join(WORDS)}.",
    ),
    Mistake(
        "A is wrong",
        _only_wrong("A"),
        "Three of four are right. Look at A again.",
        "Between its first two readings of the clock: what happens there besides the calls?",
    ),
    Mistake(
        "B is wrong",
        _only_wrong("B"),
        "Three of four are right. Look at B again.",
        "What is in `outputs`, each time that the clock is read?",
    ),
    Mistake(
        "C is wrong",
        _only_wrong("C"),
        "Three of four are right. Look at C again.",
        "How often has each of the two been called before its first timed call?",
    ),
    Mistake(
        "D is wrong",
        _only_wrong("D"),
        "Three of four are right. Look at D again.",
        "Write down the shape of what each of the two is called with.",
    ),
    Mistake(
        "two are right",
        lambda given, right: _count_right(given) == 2,
        "Two of four are right.",
        "Imagine that the two runners were the same. Where would the claim still not be 1×?",
    ),
    Mistake(
        "one is right",
        lambda given, right: _count_right(given) == 1,
        "One of four is right.",
        "For each, compare the two timed lines: do both do the same work, as often, to the end?",
    ),
    Mistake(
        "none is right",
        lambda given, right: _count_right(given) == 0,
        "None of the four is right yet.",
        "Go line by line. What has happened before the clock is read, and what after it?",
    ),
]
