"""What a check says about a learner's function, and how it comes to say it."""

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Any

from torch import Tensor

from course_utils import progress


@dataclass(frozen=True)
class Outcome:
    """The result of a check; shows itself in a notebook.

    Attributes:
        exercise: Name of the exercise.
        state: "solved", "not attempted", or the name of the mistake.
        message: What was found.
        hint: What to look at next; empty when solved.
    """

    exercise: str
    state: str
    message: str
    hint: str = ""

    @property
    def is_solved(self) -> bool:
        """Whether the function does what was asked."""
        return self.state == "solved"

    def __repr__(self) -> str:
        sign = "✔" if self.is_solved else "○" if self.state == "not attempted" else "✘"
        return f"{sign} {self.message}" + (f"\n  Hint: {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Mistake:
    """A way to go wrong that the check knows.

    Attributes:
        name: Short, kept in the progress.
        is_made: Takes what the learner's function returned, what was right, and the arguments.
        message: What is wrong with it.
        hint: What to look at, without giving the answer away.
        of_failures: Whether ``is_made`` also gets None and exceptions, in the place of a result.
    """

    name: str
    is_made: Callable[..., bool]
    message: str
    hint: str
    of_failures: bool = False


def judge(
    exercise: str,
    attempt: Callable[..., Any],
    solution: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    is_right: Callable[[Any, Any], bool],
    mistakes: Sequence[Mistake],
    must_keep_arguments: bool = False,
) -> Outcome:
    """Compare an attempt with the solution on all cases; name the first mistake that fits.

    Nothing that the attempt does reaches the learner as a traceback: a stub is "not
    attempted", and an exception is shown with the case that raised it.

    Args:
        exercise: Name of the exercise.
        attempt: The learner's function.
        solution: What it should do.
        cases: Arguments of each call.
        is_right: Takes what the attempt and what the solution returned.
        mistakes: Tried in order on the first case that came out wrong.
        must_keep_arguments: Whether an attempt that changes its arguments is wrong for that.
    """
    for case in cases:
        right, arguments, has_raised = solution(*case), copy.deepcopy(case), False
        try:
            given = attempt(*arguments)
        except Exception as error:  # whatever a learner's code raises belongs on the page
            if isinstance(error, NotImplementedError) and not error.args:  # torch's own say why
                return Outcome(
                    exercise,
                    "not attempted",
                    f"{exercise}: not attempted yet.",
                    "Replace `raise NotImplementedError` and run both cells again.",
                )
            given, has_raised = error, True
        failed = has_raised or given is None
        if not failed and _holds(is_right, given, right):
            if must_keep_arguments and not _holds(operator.eq, arguments, case):
                return _wrong(
                    exercise,
                    "argument changed",
                    "The result is right, but your function changed what it was given.",
                    "Which line works in place? Leave to the caller what is the caller's.",
                )
            continue
        asked = [m for m in mistakes if m.of_failures or not failed]
        made = next((m for m in asked if _holds(m.is_made, given, right, *case)), None)
        if made is not None:
            return _wrong(exercise, made.name, made.message, made.hint)
        if has_raised:
            return _wrong(
                exercise,
                "raises",
                f"Called with {_show(case)}, it raised {type(given).__name__}: {given}",
                "Call it yourself with these values in a new cell.",
            )
        if given is None:
            return _wrong(exercise, "returns nothing", "It returned None.", "Is `return` missing?")
        return _wrong(
            exercise,
            "wrong result",
            f"Called with {_show(case)}, it returned\n{given}\nbut this is right:\n{right}",
            "Go through this case by hand.",
        )
    progress.save_attempt(exercise, "solved")
    return Outcome(exercise, "solved", f"{exercise}: right on all {len(cases)} cases.")


def to_number(given: Any) -> float:
    """Return a single number of whatever kind as a float; NaN for anything else."""
    try:
        value = given.item() if hasattr(given, "item") else given
    except (ValueError, RuntimeError):  # an array or a tensor of several
        return math.nan
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def _holds(question: Callable[..., bool], *about: Any) -> bool:
    """Put a question to what a learner's function returned; what it cannot be put to fails it."""
    try:
        return bool(question(*about))
    except Exception:
        return False


def _wrong(exercise: str, name: str, message: str, hint: str) -> Outcome:
    progress.save_attempt(exercise, name)
    return Outcome(exercise, name, message, hint)


def _show(case: tuple[Any, ...]) -> str:
    return ", ".join(map(_show_value, case)) or "no arguments"


def _show_value(value: Any) -> str:
    """Return a value as it would be typed; a tensor of many values in a few words."""
    if isinstance(value, Tensor) and value.numel() > 12:
        ends = f"{value.min():g} to {value.max():g}"
        return f"{value.numel()} values from {ends}, shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_show_value(value[key])}" for key in value) + "}"
    if isinstance(value, list) and len(value) > 20:
        runs = ((number, len(list(same))) for number, same in groupby(value))
        return " + ".join(f"[{number!r}] * {count}" for number, count in runs)
    return str(value)
