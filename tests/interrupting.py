"""A broken-off timing, as Ctrl-C in a lesson makes it."""

from collections.abc import Callable, Iterator
from typing import Any

from course_utils.measure.turns import time_rounds


def time_until_interrupted(rounds: int) -> Callable[..., Iterator[Any]]:
    """Return what stands for ``time_rounds`` and interrupts after so many rounds."""

    def interrupted(*given: Any) -> Iterator[Any]:
        for number, turns in enumerate(time_rounds(*given)):
            if number == rounds:
                raise KeyboardInterrupt
            yield turns

    return interrupted
