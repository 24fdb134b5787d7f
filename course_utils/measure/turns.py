"""Runners take turns: what disturbs the machine then meets all of them alike.

A time measured once says little: the first calls are slow, other programs disturb the later
ones, and what disturbs one runner and not the other looks like a difference between them. So the
order is random, and each runner's calls come in short bursts, spread over the whole measurement.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from course_utils.devices import DeviceLostError, OutOfDeviceMemoryError

MOST_CALLS, TURN_MS = 9, 10.0  # a turn has so many calls, fewer if they take longer than this
THRICE_MS, LONG_MS = 25.0, 100.0
WARM_UP_CALLS = 3

Run = Callable[[np.ndarray], np.ndarray]
Round = list[list[float]]  # milliseconds: for each runner, of each call in its turn


def stack_rounds(rounds: Sequence[Round]) -> list[np.ndarray]:
    """Return the times of each runner: (rounds, calls in a turn), milliseconds."""
    calls = [min(map(len, turns)) for turns in zip(*rounds, strict=True)]  # a resumed one differs
    return [
        np.array([turns[index][:count] for turns in rounds]) for index, count in enumerate(calls)
    ]


def time_rounds(
    runners: Sequence[Run], batches: Sequence[np.ndarray], calls_ms: Sequence[float]
) -> Iterator[list[np.ndarray]]:
    """Yield without end, round by round, the times of all runners.

    Args:
        runners: Each gets a turn in a round, in random order.
        batches: What each of them is called with.
        calls_ms: About how long a call of each takes; from that follows how many a turn has.

    Yields:
        For each runner (calls in a turn,), milliseconds.
    """
    order = np.random.default_rng(0)
    while True:
        turns = [np.empty(calls_in_a_turn(call_ms)) for call_ms in calls_ms]
        for index in order.permutation(len(runners)):
            run, batch, turn = runners[index], batches[index], turns[index]
            if starts_warm(calls_ms[index], calls_ms):
                run(batch)  # fetches its weights into the cache again, after the others' turns
            for call in range(len(turn)):
                start = time.perf_counter_ns()
                run(batch)
                turn[call] = (time.perf_counter_ns() - start) / 1e6
        yield turns


def calls_in_a_turn(call_ms: float) -> int:
    """Return how many timed calls fit into a turn: an odd number.

    The median of an even number of times is the mean of two: where the times are skewed it lies
    higher, and two equal runners, of which one just fits a call more into a turn, would differ.
    """
    least = 3 if call_ms < THRICE_MS else 1
    calls = int(min(max(TURN_MS / max(call_ms, 1e-3), least), MOST_CALLS))
    return calls - (calls % 2 == 0)


def starts_warm(call_ms: float, calls_ms: Sequence[float]) -> bool:
    """Return whether a turn begins with an untimed call.

    If one runner is quick, all of them: else of two equal runners near the border one would be
    timed warm and the other cold. Only for a very long call it makes no difference.
    """
    return min(calls_ms) < TURN_MS and call_ms < LONG_MS


def round_ms(calls_ms: Sequence[float]) -> float:
    """Return about how long a round takes."""
    return sum((calls_in_a_turn(ms) + starts_warm(ms, calls_ms)) * ms for ms in calls_ms)


def warm_up(run: Run, batch: np.ndarray, name: str) -> float:
    """Call a runner a few times, check what it returns; return how long the fastest took."""
    if len(batch) == 0:
        raise ValueError(f"Nothing was timed: there are no images for {name!r}.")
    fastest_ms = math.inf
    for _ in range(WARM_UP_CALLS):
        start = time.perf_counter()
        try:
            output = run(batch)
        except (OutOfDeviceMemoryError, DeviceLostError):
            raise  # they say what to do
        except Exception as error:
            raise ValueError(
                f"Nothing was timed: {name!r} raised {type(error).__name__}: {error}"
            ) from error
        fastest_ms = min(fastest_ms, 1000 * (time.perf_counter() - start))
    try:
        output = np.asarray(output, dtype=float)
    except (TypeError, ValueError, RuntimeError):  # the last: a tensor that records gradients
        raise ValueError(f"Nothing was timed: {name!r} returned no array of numbers.") from None
    if output.shape[:1] != (len(batch),):
        raise ValueError(
            f"Nothing was timed: {name!r} got {len(batch)} images and returned an output of shape"
            f" {output.shape}; one row an image was expected."
        )
    if not np.isfinite(output).all():
        raise ValueError(f"Nothing was timed: {name!r} returned NaN or infinite values.")
    return fastest_ms


class no_garbage_collection:  # noqa: N801 - used like a function, in `with`
    """Keep Python from collecting garbage in the middle of a timed call."""

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()
