"""How long does a call take, and which of several is faster? Timed in turns, with an interval."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from course_utils import quick
from course_utils.devices import DeviceLostError, OutOfDeviceMemoryError
from course_utils.measure.load import LoadMeter
from course_utils.measure.measurement import Measurement, Provenance, measured_now
from course_utils.measure.timing_lock import timing_lock
from course_utils.measure.turns import (
    Round,
    Run,
    no_garbage_collection,
    round_ms,
    stack_rounds,
    time_rounds,
    warm_up,
)
from course_utils.tables import Table

DRAWS, CUT_OFF = 2000, (0.25, 99.75)  # of the bootstrap, percent
LEAST_ROUNDS = 10  # for an interval
ENOUGH_ROUNDS, ENOUGH_SECONDS = 20, 1.0  # before a comparison may end: both have to be reached
MOST_ROUNDS = 10_000

Ending = Literal["precise", "time limit", "rounds"]


@dataclass(frozen=True)
class Comparison:
    """The times of several runners that took turns; the first is what the others are compared to.

    Attributes:
        names: Of the runners.
        times_ms: Of each runner (rounds, calls in a turn), milliseconds.
        ended: "precise" if all intervals got as narrow as was asked for, else "time limit"; or
            "rounds" if a number of them was asked for, or very many did not suffice.
        provenance: Machine, time, and how busy other programs kept it meanwhile.
    """

    names: list[str]
    times_ms: list[np.ndarray]
    ended: Ending
    provenance: Provenance

    def latency(self, runner: int | str) -> Measurement:
        """Return median, quartiles, percentiles and minimum of a runner's times."""
        return summarize_latency(self.times_ms[self._index(runner)], self.provenance)

    def speed(self, runner: int | str, against: int | str = 0) -> Measurement:
        """Return how many times as fast a runner is as another, with the interval."""
        one, other = self.times_ms[self._index(runner)], self.times_ms[self._index(against)]
        return compare_speed(one, other, self.provenance)

    def says_difference(self, runner: int | str, against: int | str = 0) -> bool:
        """Return whether the interval of the ratio leaves out 1."""
        speed = self.speed(runner, against)
        return not speed.low <= 1 <= speed.high

    def _index(self, runner: int | str) -> int:
        if isinstance(runner, int):
            return runner
        if runner not in self.names:
            raise ValueError(f"{runner!r} was not timed; these were: {self.names}.")
        return self.names.index(runner)

    @property
    def how_it_ended(self) -> str:
        """Which of the two ended it, in a sentence."""
        rounds = len(self.times_ms[0])
        if len(self.names) == 1:
            return f"{rounds} rounds; there was nothing to compare with."
        if self.ended == "precise":
            return f"Ended after {rounds} rounds: all intervals were narrow enough."
        if self.ended == "rounds":
            return f"Ended after {rounds} rounds, however wide the intervals are."
        return f"Ended by the time limit after {rounds} rounds: some interval is wider than wanted."

    def table(self) -> Table:
        """Return all of it as a table."""
        head = ["", "median", "half of the calls", "95 %", "99 %", "fastest", "calls", "speed"]
        rows = []
        for index, name in enumerate(self.names):
            found = self.latency(index)
            digits = 3 if found.value < 1 else 2 if found.value < 10 else 1
            low, high = f"{found.low:.{digits}f}", f"{found.high:.{digits}f}"
            tails = [
                f"{value:.{digits}f}" if found.count >= 5 / (1 - share) else "–"
                for share, value in ((0.95, found.p95), (0.99, found.p99))
            ]
            numbers = [*tails, f"{found.fastest:.{digits}f}"]
            speed = self.speed(index).describe_speed() if index else "compared with this one"
            row = [f"{found.value:.{digits}f} ms", f"{low}–{high}", *numbers, str(found.count)]
            rows.append([name, *row, speed])
        return Table(head, rows, [self.how_it_ended, str(self.provenance)])

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def compare(
    *runners: Run,
    images: np.ndarray | Sequence[np.ndarray],
    names: Sequence[str] | None = None,
    precision: float = 0.05,
    limit_s: float = 10.0,
    rounds: int | None = None,
    earlier: Sequence[Round] = (),
    on_round: Callable[[Round], None] | None = None,
) -> Comparison:
    """Time runners against each other, in turns, until the ratios are known well enough.

    In a round every runner has a turn: an untimed call, then a burst of timed ones; the order is
    random. It ends when the interval of each ratio to the first runner is narrower than
    ±``precision``, at the earliest after 20 rounds and a second; or at the time limit. When to
    end depends on how wide an interval is, not on where it lies, so it does not end because a
    difference has shown. Only one comparison at a time runs on a machine.

    Args:
        runners: Each is called with images and returns one row for each of them.
        images: The batch (n, ...) that every call gets, or one batch for each runner.
        names: Of the runners, for the table; None: "a", "b", ...
        precision: Half the width of an interval, as a share of the ratio.
        limit_s: Seconds, not counting the wait for other measurements on this machine. No round
            begins that would pass it, should it last as long as the longest so far. A quick look
            ends at a quarter of it, once there are rounds enough for an interval.
        rounds: Time so many instead, however wide the intervals are then.
        earlier: Rounds timed before, which count as if they had been timed now.
        on_round: Called with each new round.

    Raises:
        ValueError: A runner raises, or returns something else than finite rows, one an image; or
            the time limit is too short for a single round.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    batches = [images] * len(runners) if isinstance(images, np.ndarray) else list(images)
    labels = list(names or (chr(ord("a") + index) for index in range(len(runners))))
    if not runners or not len(runners) == len(batches) == len(labels):
        raise ValueError(
            f"{len(runners)} runners were given with {len(batches)} batches and {len(labels)}"
            " names; give at least one runner, and as many batches and names."
        )
    if len(set(labels)) < len(labels):
        raise ValueError(f"Give each runner a name of its own; these are {labels}.")
    if not (precision > 0 and limit_s > 0):
        raise ValueError(f"precision={precision} and limit_s={limit_s} have to be above 0.")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds={rounds} measures nothing; give 1 or more.")
    if any(len(turns) != len(runners) for turns in earlier):
        raise ValueError(f"The earlier rounds are not of {len(runners)} runners, as these are.")
    timing = _Timing([list(turns) for turns in earlier])
    with timing_lock(), no_garbage_collection():
        meter = LoadMeter()
        start = time.perf_counter()
        calls_ms = [
            warm_up(run, batch, name)
            for run, batch, name in zip(runners, batches, labels, strict=True)
        ]
        turns = time_rounds(runners, batches, calls_ms)
        longest_s = round_ms(calls_ms) / 1000
        while not timing.is_enough(precision, rounds):
            begin = time.perf_counter()
            has_interval = len(timing.rounds) >= LEAST_ROUNDS
            most_s = quick.choose_seconds(limit_s) if has_interval else limit_s
            if begin + longest_s > start + most_s and rounds is None:
                timing.look(precision)
                break
            try:
                turn = next(turns)
            except (OutOfDeviceMemoryError, DeviceLostError):
                raise  # they say what to do
            except Exception as error:
                raise ValueError(
                    f"After {len(timing.rounds)} rounds a runner raised {type(error).__name__}:"
                    f" {error}"
                ) from error
            timing.add(turn, time.perf_counter() - begin)
            longest_s = max(longest_s, time.perf_counter() - begin)
            if on_round:
                on_round(timing.rounds[-1])
        note = meter.describe()
    if not timing.rounds:
        raise ValueError(
            f"A single round takes about {longest_s:.2g} s after {time.perf_counter() - start:.2g}"
            f" s of warm-up; the time limit of {limit_s:g} s is too short. Give a longer one."
        )
    return Comparison(labels, timing.times_ms(), timing.ended, measured_now(note))


@dataclass
class _Timing:
    """The rounds so far, and whether they are enough."""

    rounds: list[Round] = field(default_factory=list)
    seconds: float = 0.0
    ended: Ending = "time limit"
    _next_look: int = ENOUGH_ROUNDS

    def add(self, turns: Sequence[np.ndarray], seconds: float) -> None:
        self.rounds.append([turn.tolist() for turn in turns])
        self.seconds += seconds

    def times_ms(self) -> list[np.ndarray]:
        return stack_rounds(self.rounds)

    def is_enough(self, precision: float, rounds: int | None) -> bool:
        """Count the rounds, or look at the intervals: more seldom as there are more rounds."""
        if rounds is not None:
            self.ended = "rounds"
            return len(self.rounds) >= rounds
        if len(self.rounds) >= MOST_ROUNDS:
            self.ended = "rounds"
            self.look(precision)
            return True
        if len(self.rounds) < self._next_look or self.seconds < ENOUGH_SECONDS:
            return False
        self._next_look = math.ceil(1.25 * len(self.rounds))
        return self.look(precision)

    def look(self, precision: float) -> bool:
        """Return whether all intervals are narrow enough."""
        if not self.rounds:
            return False
        first, *others = self.times_ms()
        speeds = [compare_speed(times, first) for times in others]
        if all(speed.high - speed.low <= 2 * precision * speed.value for speed in speeds):
            self.ended = "precise"
        return self.ended == "precise"


def summarize_latency(times_ms: np.ndarray, provenance: Provenance | None = None) -> Measurement:
    """Return median, quartiles, 95th and 99th percentile and minimum of times in milliseconds."""
    low, median, high, p95, p99 = map(float, np.percentile(times_ms, [25, 50, 75, 95, 99]))
    return Measurement(
        median,
        "ms",
        low,
        high,
        times_ms.size,
        provenance or measured_now(),
        fastest=float(times_ms.min()),
        p95=p95,
        p99=p99,
    )


def compare_speed(
    times_ms: np.ndarray, baseline_ms: np.ndarray, provenance: Provenance | None = None
) -> Measurement:
    """Return how many times as fast as a baseline, with a 99 % interval.

    The median over the rounds of the ratio of the medians in a round; the interval is a
    percentile bootstrap over rounds (Efron, 1979), cut off at 0.25 % on either side: from few
    rounds such an interval is a little too narrow. Simulated, it holds the true ratio in 99 of 100
    cases from 12 rounds on, in 98 at 10, and in 97 to 99 if its width decides when to end. Fewer
    rounds than 10 have no interval: it reaches from 0 to infinity.

    Args:
        times_ms: (rounds, calls) of the one.
        baseline_ms: (rounds, calls) of the other, timed in the same rounds.
        provenance: Where the times come from; None: they were measured just now.
    """
    ratios = np.median(baseline_ms, axis=1) / np.median(times_ms, axis=1)  # (rounds,)
    low, high = 0.0, math.inf
    if len(ratios) >= LEAST_ROUNDS:
        drawn = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios)))
        low, high = map(float, np.percentile(np.median(drawn, axis=1), CUT_OFF))
    ratio = float(np.median(ratios))
    return Measurement(ratio, "×", low, high, len(ratios), provenance or measured_now())
