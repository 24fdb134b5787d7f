"""Check of the exercise in lesson 06 on timing a device that works by itself."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

Timer = Callable[[Callable[[], None], Callable[[], None], Callable[[], float], int], float]

MOST_EVENTS = 100_000  # more than any case needs: a loop that does not end is told so


@dataclass
class QueuedDevice:
    """A device with a queue, and the computer that uses it, in a time of their own.

    What happens takes as long as is said here, and nothing else takes any time. So a result does
    not depend on the machine on which it was simulated.

    Attributes:
        launch_ms: What the computer needs to put a call into the queue.
        work_ms: What the device needs for a call.
        compile_ms: By how much the first launch takes longer.
        pending_ms: Work of somebody else that is in the queue at the start.
        places: How many calls the queue holds; if it is full, a launch waits for a place.
    """

    launch_ms: float
    work_ms: float
    compile_ms: float
    pending_ms: float
    places: int
    now_s: float = field(default=5000.0, init=False, repr=False)
    ends_s: list[float] = field(default_factory=list, init=False, repr=False)  # of each work
    events: list[tuple[str, float]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.ends_s.append(self.now_s + self.pending_ms / 1000)

    def launch(self) -> None:
        """Put a call into the queue, and return before the device has done it."""
        is_first = len(self.ends_s) == 1
        self.now_s += (self.launch_ms + is_first * self.compile_ms) / 1000
        if len(self.ends_s) >= self.places:  # the call this many places ahead has to be done
            self.now_s = max(self.now_s, self.ends_s[-self.places])
        self.ends_s.append(max(self.now_s, self.ends_s[-1]) + self.work_ms / 1000)
        self._note("L")

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self.now_s = max(self.now_s, self.ends_s[-1])
        self._note("S")

    def clock(self) -> float:
        """Return the time in seconds, since some moment in the past."""
        self._note("C")
        return self.now_s

    def _note(self, event: str) -> None:
        if len(self.events) == MOST_EVENTS:
            raise RuntimeError(f"The device was used {MOST_EVENTS:,} times. Does your loop end?")
        self.events.append((event, self.now_s))


TIMING_CASES = [
    # a call takes the device long, and the computer is far ahead of it
    (QueuedDevice(launch_ms=0.02, work_ms=1.5, compile_ms=400, pending_ms=7, places=1000), 20),
    # the computer needs longer to launch a call than the device to do it
    (QueuedDevice(launch_ms=0.05, work_ms=0.01, compile_ms=900, pending_ms=3, places=1000), 50),
    # a queue so short that launching waits for the device
    (QueuedDevice(launch_ms=0.01, work_ms=0.5, compile_ms=50, pending_ms=0, places=4), 100),
    (QueuedDevice(launch_ms=0.03, work_ms=2.5, compile_ms=0, pending_ms=40, places=1000), 1),
]


def check_device_timing(attempt: Timer) -> Outcome:
    """Check a function that times calls of a device that has a queue.

    Args:
        attempt: Takes three functions, ``launch``, ``synchronize`` and ``clock``, and how many
            calls to time; returns milliseconds a call.
    """
    return judge(
        "Timing a device",
        lambda device, calls: _run(attempt, device, calls),
        lambda device, calls: _run(_time_on_device, copy.deepcopy(device), calls),
        TIMING_CASES,
        lambda given, right: _is_close(given.result, right.result),
        TIMING_MISTAKES,
    )


@dataclass(frozen=True)
class _Run:
    """What a function returned, and in what order it used the device.

    The timed part lies between two readings of the clock in a row, those with the most launches
    between them. Events are letters: L a launch, S a synchronisation, C a reading of the clock.
    """

    result: Any
    events: list[tuple[str, float]]
    calls: int

    def __str__(self) -> str:
        return str(self.result)

    @cached_property
    def order(self) -> str:
        return "".join(event for event, _ in self.events)

    @cached_property
    def parts(self) -> list[str]:
        """Return what happened before, between and after the readings of the clock."""
        return self.order.split("C")

    @cached_property
    def place(self) -> int:
        """Return which of the parts is the timed one; of several, the last."""
        between = range(1, len(self.parts) - 1)
        return max(between, key=lambda part: (self.parts[part].count("L"), part), default=0)

    @property
    def before(self) -> str:
        return "".join(self.parts[: self.place])

    @property
    def timed(self) -> str:
        return self.parts[self.place]

    @property
    def after(self) -> str:
        return "".join(self.parts[self.place + 1 :])

    @property
    def launches(self) -> int:
        return self.timed.count("L")

    @property
    def seconds(self) -> float:
        readings = [at for event, at in self.events if event == "C"]
        return readings[self.place] - readings[self.place - 1]

    @property
    def has_waited(self) -> bool:
        """Whether the timed part ends with waiting for its last launch."""
        return re.search("LS+$", self.timed) is not None

    @property
    def waits_each_time(self) -> bool:
        """Whether it waits between launches, be there readings of the clock between them or not."""
        one_by_one = sum(part.strip("S") == "L" and "LS" in part for part in self.parts[1:])
        is_cut = self.launches == 1 and one_by_one >= self.calls > 1
        return is_cut or re.search("LS+L", self.timed) is not None


def _run(timer: Timer, device: QueuedDevice, calls: int) -> _Run | None:
    given = timer(device.launch, device.synchronize, device.clock, calls)
    return None if given is None else _Run(given, device.events, calls)


def _time_on_device(
    launch: Callable[[], None],
    synchronize: Callable[[], None],
    clock: Callable[[], float],
    calls: int,
) -> float:
    launch()
    synchronize()
    start = clock()
    for _ in range(calls):
        launch()
    synchronize()
    return (clock() - start) * 1000 / calls


def _is_close(given: Any, right: float) -> bool:
    return math.isclose(to_number(given), right, rel_tol=1e-4)


def _is(question: Callable[[_Run], bool]) -> Callable[..., bool]:
    """Return the question about what was done, whatever was right and given."""
    return lambda given, *_: question(given)


def _returns(*compute: Callable[[float, int], float]) -> Callable[..., bool]:
    """Return the question whether the result was computed otherwise from the timed seconds."""
    return _is(
        lambda run: any(_is_close(run.result, wrong(run.seconds, run.calls)) for wrong in compute)
    )


TIMING_MISTAKES = [
    Mistake("no number", _is(lambda run: math.isnan(to_number(run.result))),
            "It should return one number, and this is none.", "Return milliseconds for one call."),
    Mistake("never launches", _is(lambda run: "L" not in run.order),
            "Nothing was launched, so there is nothing to time.",
            "What do the parentheses in `launch()` do?"),
    Mistake("another clock", _is(lambda run: "C" not in run.order),
            "You did not read the clock that you were given.",
            "This device lives in a time of its own. Which of the arguments knows it?"),
    Mistake("one reading", _is(lambda run: run.order.count("C") == 1),
            "You read the clock only once.",
            "The clock does not start at 0 for you. How does a duration come from it?"),
    Mistake("nothing timed", _is(lambda run: run.launches == 0),
            "Between two readings of the clock nothing is launched.",
            "Write down the order of your lines. Which of them should the clock enclose?"),
    Mistake("warm-up timed",
            _is(lambda run: "L" not in run.before
                and re.fullmatch(f"S*LS*L{{{run.calls}}}S*", run.timed) is not None),
            "The warm-up is inside the timed part.",
            "At what moment do you read the clock for the first time?"),
    Mistake("waits too late", _is(lambda run: not run.has_waited and "S" in run.after),
            "The clock is stopped first, and then you wait.",
            "Is the device done when you read the clock for the last time?"),
    Mistake("waits only before the start",
            _is(lambda run: not run.has_waited and "S" not in run.timed and "S" in run.before),
            "You wait before the start, but not for the calls that you time.",
            "When the last `launch()` returns, where are the calls?"),
    Mistake("does not wait for the end", _is(lambda run: not run.has_waited),
            "When you stop the clock, the device is still at work: you timed how fast calls are"
            " put into the queue.",
            "Which of the arguments returns only when the device is done?"),
    Mistake("earlier work counted",
            _is(lambda run: "L" not in run.before and "S" not in run.before),
            "The device was busy when you started the clock, so others' work is in your time.",
            "Who else may have put something into the queue? Two things are due before the start."),
    Mistake("no warm-up", _is(lambda run: "L" not in run.before),
            "The first call, which compiles, is in your time.",
            "How often has the device done this work when you start the clock?"),
    Mistake("warm-up not waited for", _is(lambda run: "S" not in run.before.split("L")[-1]),
            "The warm-up is still in the queue when you start the clock.",
            "Its launch has returned. Is the device idle?"),
    Mistake("waits in between", _is(lambda run: run.waits_each_time),
            "You wait between the calls: the device idles while the next one is launched.",
            "In use, the next call is launched while the device works. How often must you wait?"),
    Mistake("warm-up among the calls",
            _is(lambda run: run.before.count("L") > 0 and run.launches == run.calls - 1),
            "One call too few is timed: the warm-up has been taken for one of them.",
            "The untimed call comes on top. How many launches are there in all?"),
    Mistake("another number of calls", _is(lambda run: run.launches != run.calls),
            "The number of calls that you time is not `calls`.",
            "How often does your loop run, and what does it launch each time?"),
    Mistake("divided by the warm-up too", _returns(lambda s, calls: s * 1000 / (calls + 1)),
            "You divide by one call more than you have timed.",
            "Is the warm-up in your seconds?"),
    Mistake("not divided", _returns(lambda s, calls: s * 1000, lambda s, calls: s),
            "This is the time of all calls together.", "How many calls are in it?"),
    Mistake("seconds", _returns(lambda s, calls: s / calls), "This is in seconds.",
            "The clock counts seconds. What does the task want?"),
    Mistake("another unit",
            _returns(lambda s, n: s * 1e6 / n, lambda s, n: s * 1e9 / n, lambda s, n: s / 1e3 / n,
                     lambda s, n: s / 1e6 / n),
            "This is neither in milliseconds nor in seconds.",
            "How many milliseconds are in what the clock counts?"),
    Mistake("calls per second", _returns(lambda s, n: n / s, lambda s, n: n / (s * 1000)),
            "This is how many calls there are in a time, not how long one takes.",
            "What stands above the line of your fraction?"),
    Mistake("wrong way round", _is(lambda run: to_number(run.result) < 0),
            "A time below 0 cannot be.", "Which reading of the clock is the later one?"),
]  # fmt: skip
