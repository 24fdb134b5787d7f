"""Serve requests that come whether or not the last one is answered: latency under load.

A call timed again and again starts when the one before is done: nothing ever waits. Users come at
random moments and queue long before the processor is always busy. Taking several of the queue at
once (*dynamic batching*) helps where a batch costs less than its images one by one.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import numpy as np

from course_utils.measure import Measurement, Provenance, measured_now
from course_utils.measure.load import LoadMeter
from course_utils.measure.percentiles import count_independent, find_interval_ranks
from course_utils.measure.timing_lock import timing_lock
from course_utils.measure.turns import Run, no_garbage_collection, warm_up

CAPACITY = 128  # requests that can queue


def draw_arrivals(rate_per_s: float, duration_s: float, seed: int = 0) -> np.ndarray:
    """Return when requests of many independent users come, in seconds: a Poisson process.

    The same seed gives the same pattern, at twice the rate twice as dense.

    Args:
        rate_per_s: How many requests come in a second, on average.
        duration_s: They come from 0 to here.
        seed: Of the random gaps.

    Raises:
        ValueError: Rate or duration are not above 0, or nobody comes in this time.
    """
    if not (0 < rate_per_s < math.inf and 0 < duration_s < math.inf):
        raise ValueError(f"rate_per_s={rate_per_s} and duration_s={duration_s} have to be above 0.")
    expected = rate_per_s * duration_s
    surely_enough = math.ceil(expected + 10 * math.sqrt(expected) + 20)
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate_per_s, surely_enough))
    arrivals = arrivals[arrivals < duration_s]
    if not arrivals.size:
        raise ValueError(f"Nobody comes in {duration_s:g} s: take e.g. {10 / rate_per_s:.2g} s.")
    return arrivals


@dataclass(frozen=True, repr=False)
class Served:
    """What became of the requests.

    Percentiles are of the answered ones: a server that rejects most of them can have good
    percentiles. ``in_time`` counts all.

    Attributes:
        latency_ms: Of each answered request, in order of arrival: (answered,).
        arrived: How many requests came.
        rejected: How many of them found the queue full.
        batch_sizes: Of each call: (calls,).
        seconds: From the start to the end of the last call.
        provenance: Machine, time, and how busy other programs kept it meanwhile.
    """

    latency_ms: np.ndarray
    arrived: int
    rejected: int
    batch_sizes: np.ndarray
    seconds: float
    provenance: Provenance

    @property
    def answered(self) -> int:
        """How many requests were answered, in time or late."""
        return len(self.latency_ms)

    @property
    def unanswered(self) -> int:
        """How many were still in the queue when patience ended."""
        return self.arrived - self.rejected - self.answered

    @property
    def p50_ms(self) -> float:
        """Half of the answered requests took no longer."""
        return self.percentile(50).value

    @property
    def p95_ms(self) -> float:
        """95 of 100 answered requests took no longer."""
        return self.percentile(95).value

    @property
    def p99_ms(self) -> float:
        """99 of 100 answered requests took no longer."""
        return self.percentile(99).value

    @property
    def answered_per_s(self) -> float:
        """Answers a second, 0 if there were none."""
        return self.answered / self.seconds if self.answered else 0.0

    @property
    def mean_batch(self) -> float:
        """Requests a call; NaN if there was no call."""
        return float(self.batch_sizes.mean()) if len(self.batch_sizes) else math.nan

    def in_time(self, deadline_ms: float) -> float:
        """Return which share of all that came, 0 to 1, was answered within a deadline."""
        return float((self.latency_ms <= deadline_ms).sum() / self.arrived)

    def percentile(self, percent: float) -> Measurement:
        """Return a percentile of the latency of answered requests, with its 95 % interval.

        The interval holds whatever the distribution. Requests that queue behind each other are
        late together and tell less than so many independent ones; see ``count_independent``. From
        three quarters of full load on it is still too narrow: there, look at several seeds.

        Raises:
            ValueError: ``percent`` is not between 0 and 100.
        """
        if not 0 < percent < 100:
            raise ValueError(f"percent={percent} has to be above 0 and below 100.")
        value, low, high, note = math.nan, 0.0, math.inf, "no request was answered"
        if self.answered:
            value = float(np.percentile(self.latency_ms, percent, method="inverted_cdf"))
            independent = count_independent(self.latency_ms > value)
            first, last = find_interval_ranks(independent, percent / 100)
            ordered = [0.0, *np.sort(self.latency_ms).tolist(), math.inf]
            low = ordered[first * self.answered // independent]
            high = ordered[-(-(last - 1) * self.answered // independent) + 1]
            note = (
                ""
                if last <= independent
                else f"too few requests to bound a p{percent:g} from above"
            )
        return Measurement(value, "ms", low, high, self.answered, self.provenance, note=note)

    def __repr__(self) -> str:
        note = self.percentile(99).note
        return (
            f"p50 {self.p50_ms:.3g}, p95 {self.p95_ms:.3g}, p99 {self.p99_ms:.3g} ms; {note}\n"
            f"{self.arrived} arrived, {self.answered} answered, {self.rejected} rejected,"
            f" {self.unanswered} unanswered; {self.mean_batch:.3g} a call\n{self.provenance}"
        )


def serve(
    runner: Run,
    images: np.ndarray,
    arrivals_s: np.ndarray,
    *,
    most: int = 1,
    wait_ms: float = 0.0,
    capacity: int = CAPACITY,
    patience_s: float = 5.0,
) -> Served:
    """Answer requests as they come, in real time, and note how long each of them took.

    When they come is set beforehand, as if another machine sent them, so that nothing but the
    runner takes processor time. A latency counts from that moment, not from when the server gets
    round to the request, which would hide the wait of all who came during a slow call
    (*coordinated omission*: Tene, *How NOT to Measure Latency*, 2013). One call runs at a time.

    Args:
        runner: Called with a batch of images; returns one row for each of them.
        images: The images (n, ...) that the requests bring, in turn.
        arrivals_s: When each request comes (arrived,), ascending; see ``draw_arrivals``.
        most: Requests that one call may answer; 1 is without batching.
        wait_ms: How long the first in the queue waits for a full batch; 0: take who is there.
        capacity: How many requests can queue, besides those in the call; more are rejected.
        patience_s: So long after the last arrival, those still in the queue are given up.

    Raises:
        ValueError: There are no images; arrivals do not ascend from 0; a setting makes no sense;
            the runner raises, or returns something else than finite rows, one an image.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    arrivals = _check_arrivals(arrivals_s)
    if not 1 <= most <= capacity:
        raise ValueError(f"most={most} has to be at least 1 and at most capacity={capacity}.")
    if not (0 <= wait_ms < math.inf and 0 < patience_s < math.inf):
        raise ValueError(f"Give wait_ms={wait_ms} as 0 or more, patience_s={patience_s} as more.")
    stop_s = arrivals[-1] + patience_s
    queue: deque[int] = deque()  # the numbers of requests
    latency_ms: list[float] = []
    batch_sizes: list[int] = []
    arrived = rejected = 0
    now_s = ended_s = 0.0
    with timing_lock(), no_garbage_collection():
        _warm_up(runner, images, most, patience_s)
        meter, start = LoadMeter(), perf_counter()
        while True:
            # During a call the queue only grew: who came meanwhile can be admitted after it.
            while arrived < len(arrivals) and arrivals[arrived] <= now_s:
                if len(queue) < capacity:
                    queue.append(arrived)
                else:
                    rejected += 1
                arrived += 1
            next_s = arrivals[arrived] if arrived < len(arrivals) else stop_s
            if now_s >= stop_s or (arrived == len(arrivals) and not queue):
                break
            due_s = arrivals[queue[0]] + wait_ms / 1000 if queue else math.inf
            if len(queue) >= most or now_s >= due_s:
                batch = [queue.popleft() for _ in range(min(most, len(queue)))]
                runner(_take(images, batch))
                now_s = ended_s = perf_counter() - start
                latency_ms += [1000 * (now_s - arrivals[number]) for number in batch]
                batch_sizes.append(len(batch))
            else:
                wake_s = min(due_s, next_s)
                _wait_until(start + wake_s)
                now_s = max(perf_counter() - start, wake_s)
        provenance = measured_now(meter.describe())
    sizes = np.array(batch_sizes, int)
    return Served(np.array(latency_ms), arrived, rejected, sizes, ended_s, provenance)


def _wait_until(moment: float) -> None:
    """Watch the clock: a program that sleeps is woken late, by a good part of a short call."""
    while perf_counter() < moment:
        pass


def measure_capacity(
    runner: Run, images: np.ndarray, batch: int = 1, duration_s: float = 0.5
) -> Measurement:
    """Return how many requests a second are answered if there is always a full batch of them.

    ``low`` and ``high`` are one standard error away.

    Args:
        runner: As in ``serve``.
        images: As in ``serve``.
        batch: Requests a call.
        duration_s: How long to measure; at least two calls are timed.

    Raises:
        ValueError, TimeoutError: As in ``serve``; or batch or duration are not above 0.
    """
    if batch < 1 or not 0 < duration_s < math.inf:
        raise ValueError(f"batch={batch} and duration_s={duration_s} have to be above 0.")
    ends: list[float] = []
    with timing_lock(), no_garbage_collection():
        _warm_up(runner, images, batch, duration_s)
        meter, start = LoadMeter(), perf_counter()
        while len(ends) < 2 or ends[-1] < start + duration_s:
            runner(_take(images, range(len(ends) * batch, (len(ends) + 1) * batch)))
            ends.append(perf_counter())
        provenance = measured_now(meter.describe())
    calls_s = np.diff(ends, prepend=start)
    rate = batch / float(calls_s.mean())
    error = rate * float(calls_s.std() / calls_s.mean()) / math.sqrt(len(calls_s))
    return Measurement(rate, "requests/s", rate - error, rate + error, len(calls_s), provenance)


def _take(images: np.ndarray, numbers: Iterable[int]) -> np.ndarray:
    return images[[number % len(images) for number in numbers]]


def _warm_up(runner: Run, images: np.ndarray, most: int, limit_s: float) -> None:
    """Call a runner untimed with 1, 2, 4, ... and ``most`` images, and check what it returns."""
    if len(images) == 0:
        raise ValueError("There are no images for the requests to bring.")
    end = perf_counter() + limit_s
    for size in [*(2**power for power in range((most - 1).bit_length())), most]:
        warm_up(runner, _take(images, range(size)), f"the runner with a batch of {size}")
        if perf_counter() > end:
            break


def _check_arrivals(arrivals_s: np.ndarray) -> list[float]:
    arrivals: list[float] = np.asarray(arrivals_s, dtype=float).reshape(-1).tolist()
    is_ascending = all(one <= next_one for one, next_one in pairwise([0.0, *arrivals]))
    if not arrivals or not is_ascending or arrivals[-1] == math.inf:
        raise ValueError("Give one or more arrivals, ascending, in seconds from 0.")
    return arrivals
