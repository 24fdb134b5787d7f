"""What a check says about a learner's function, and how it comes to say it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """

    name: str
    is_made: Callable[..., bool]
    message: str
    hint: str


def judge(
    exercise: str,
    attempt: Callable[..., Any],
    solution: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    is_right: Callable[[Any, Any], bool],
    mistakes: Sequence[Mistake],
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
    """
    for case in cases:
        right = solution(*case)
        try:
            given = attempt(*case)
        except NotImplementedError:
            return Outcome(
                exercise,
                "not attempted",
                f"{exercise}: not attempted yet.",
                "Replace `raise NotImplementedError` and run both cells again.",
            )
        except Exception as error:  # whatever a learner's code raises belongs on the page
            return _wrong(
                exercise,
                "raises",
                f"Called with {_show(case)}, it raised {type(error).__name__}: {error}",
                "Call it yourself with these values in a new cell.",
            )
        if given is None:
            return _wrong(exercise, "returns nothing", "It returned None.", "Is `return` missing?")
        if _holds(is_right, given, right):
            continue
        made = next((m for m in mistakes if _holds(m.is_made, given, right, *case)), None)
        if made is not None:
            return _wrong(exercise, made.name, made.message, made.hint)
        return _wrong(
            exercise,
            "wrong result",
            f"Called with {_show(case)}, it returned\n{given}\nbut this is right:\n{right}",
            "Go through this case by hand.",
        )
    progress.save_attempt(exercise, "solved")
    return Outcome(exercise, "solved", f"{exercise}: right on all {len(cases)} cases.")


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
    return ", ".join(
        f"{value.numel()} values from {value.min():g} to {value.max():g},"
        f" shape {tuple(value.shape)}"
        if isinstance(value, Tensor) and value.numel() > 12
        else str(value)
        for value in case
    )
