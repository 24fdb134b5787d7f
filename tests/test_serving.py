"""Serving: queues worked out by hand and by theory, in simulated time, and one in real time."""

import gc
import math
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import serving
from course_utils.measure import Provenance
from course_utils.measure.percentiles import count_independent, find_interval_ranks
from course_utils.serving import Served, draw_arrivals, measure_capacity, serve

PROVENANCE = Provenance("computed", "a test")
IMAGES = np.arange(5, dtype=np.float32)[:, None]


class Clock:
    """Time that passes only when a runner runs or somebody waits."""

    def __init__(self):
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def wait_until(self, moment: float) -> None:
        self.now = max(self.now, moment)


class PlantedRunner:
    """Takes ``fixed_s`` and ``each_s`` for every image, and notes the images of each call."""

    def __init__(self, clock: Clock, fixed_s: float, each_s: float = 0.0):
        self.clock, self.fixed_s, self.each_s = clock, fixed_s, each_s
        self.calls: list[list[float]] = []
        self.starts: list[float] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(images[:, 0].tolist())
        self.starts.append(self.clock.now)
        self.clock.now += self.fixed_s + self.each_s * len(images)
        return images


@contextmanager
def simulated_time():
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "perf_counter", clock.read)
        patch.setattr(serving, "_wait_until", clock.wait_until)
        patch.setattr(serving, "timing_lock", nullcontext)
        patch.setattr(serving, "_warm_up", lambda *_: None)
        yield clock


def simulate(arrivals, fixed_s, each_s=0.0, images=IMAGES, **settings) -> Served:
    """Return how a planted runner serves; times in multiples of 1/1024 s stay exact."""
    with simulated_time() as clock:
        return serve(PlantedRunner(clock, fixed_s, each_s), images, np.array(arrivals), **settings)


def served(latency_ms, arrived=None, rejected=0) -> Served:
    latency_ms = np.array(latency_ms, dtype=float)
    arrived = arrived or len(latency_ms)
    return Served(latency_ms, arrived, rejected, np.ones(len(latency_ms)), 1.0, PROVENANCE)


# Arrivals


def test_the_same_seed_gives_the_same_arrivals():
    assert np.array_equal(draw_arrivals(100, 2, 7), draw_arrivals(100, 2, 7))
    assert not np.array_equal(draw_arrivals(100, 2, 7)[:50], draw_arrivals(100, 2, 8)[:50])


def test_twice_the_rate_is_the_same_pattern_twice_as_dense():
    slow, fast = draw_arrivals(100, 2, 3), draw_arrivals(200, 2, 3)
    assert len(fast) > 1.5 * len(slow)
    assert fast[: len(slow)] == pytest.approx(slow / 2)


def test_a_longer_duration_keeps_the_arrivals_of_a_shorter_one():
    short, long = draw_arrivals(100, 1, 3), draw_arrivals(100, 3, 3)
    assert np.array_equal(long[long < 1], short)


@given(
    rate=st.floats(0.01, 1e4),
    expected=st.floats(30, 2000),
    seed=st.integers(0, 2**32 - 1),
)
def test_arrivals_ascend_within_the_duration(rate, expected, seed):
    duration = expected / rate
    arrivals = draw_arrivals(rate, duration, seed)
    assert (np.diff([0, *arrivals, duration]) > 0).all()
    assert abs(len(arrivals) - expected) < 7 * math.sqrt(expected)


def test_arrivals_are_a_poisson_process():
    counts = np.array([len(draw_arrivals(20, 1, seed)) for seed in range(1000)])
    assert counts.mean() == pytest.approx(20, abs=4 * math.sqrt(20 / 1000))
    assert counts.var() == pytest.approx(20, rel=4 * math.sqrt(2 / 1000))  # as large as the mean
    gaps = np.sort(np.diff(draw_arrivals(1000, 10, 0)))
    steps = np.arange(len(gaps)) / len(gaps)
    distance = np.abs(1 - np.exp(-1000 * gaps) - steps).max()
    assert distance < 1.95 / math.sqrt(len(gaps))  # Kolmogorov and Smirnov, 1 in 1000


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_rate_and_duration_have_to_be_above_zero(wrong):
    with pytest.raises(ValueError, match="have to be above 0"):
        draw_arrivals(wrong, 1)
    with pytest.raises(ValueError, match="have to be above 0"):
        draw_arrivals(1, wrong)


def test_a_duration_in_which_nobody_comes_is_refused_with_a_better_one():
    with pytest.raises(ValueError, match=r"Nobody comes in 0\.001 s: take e\.g\. 1 s"):
        draw_arrivals(10, 0.001)
    assert len(draw_arrivals(10, 1)) > 0


# Queues by hand


def test_requests_that_come_slower_than_they_are_answered_never_wait():
    found = simulate(np.arange(20) / 4, 1 / 8)
    assert (found.latency_ms == 125).all()
    assert (found.rejected, found.unanswered) == (0, 0)
    assert found.seconds == 19 / 4 + 1 / 8
    assert found.answered_per_s == 20 / found.seconds


def test_requests_that_come_faster_wait_longer_and_longer():
    """Each takes 1/4 s and comes 1/8 s after the last: the n-th is answered at (n + 1) / 4."""
    numbers = np.arange(20)
    found = simulate(numbers / 8, 1 / 4)
    assert np.array_equal(found.latency_ms, 1000 * ((numbers + 1) / 4 - numbers / 8))


def test_a_latency_counts_from_the_arrival_though_the_server_was_busy():
    """One slow call: who came during it waited, and the latencies say so."""
    with simulated_time() as clock:
        runner = PlantedRunner(clock, 1 / 64)
        plain = runner.__call__

        def stalls_once(images):
            if len(runner.calls) == 2:
                clock.now += 2.0
            return plain(images)

        found = serve(stalls_once, IMAGES, np.arange(16) / 8)
    late = found.latency_ms > 1000 / 64
    assert late.sum() == 14  # the third, and all who came before the queue was empty again
    assert found.latency_ms[2] == 2000 + 1000 / 64
    assert found.latency_ms[3] == found.latency_ms[2] - 125 + 1000 / 64


def test_a_full_queue_rejects():
    """Four at once on two places, then one while both are taken, then one who finds room."""
    found = simulate([0, 0, 0, 0, 0.5, 1.25], 1.0, capacity=2)
    assert (found.arrived, found.rejected, found.answered) == (6, 2, 4)
    # picked at 0, 1, 2 and 3; at 0.5 one place is free, at 1.25 too
    assert found.latency_ms.tolist() == [1000, 2000, 2500, 2750]


def test_who_comes_during_a_call_is_admitted_in_order_against_the_queue_of_that_moment():
    """During the call from 0 to 1 the queue has room for two: the first two get it."""
    found = simulate([0, 0.25, 0.5, 0.75, 1.0], 1.0, capacity=2)
    # 0.75 finds the queue full; 1.0 comes before the next is picked, and finds it full too
    assert found.rejected == 2
    assert found.latency_ms.tolist() == [1000, 1750, 2500]


def test_a_rejected_request_does_not_make_later_ones_wait():
    crowd = simulate([0] * 50 + [10], 1.0, capacity=3)
    assert crowd.latency_ms.tolist() == [1000, 2000, 3000, 1000]
    assert crowd.rejected == 47


def test_a_call_takes_all_who_wait_up_to_the_most():
    found = simulate([0] + [0.5] * 7, 1.0, most=3)
    assert found.batch_sizes.tolist() == [1, 3, 3, 1]
    assert found.latency_ms.tolist() == [1000] + [1500] * 3 + [2500] * 3 + [3500]
    assert found.mean_batch == 2


def test_the_first_in_the_queue_waits_for_a_full_batch_but_not_longer_than_told():
    found = simulate([0, 0.25, 2, 2.25, 2.5, 2.75], 0.125, most=3, wait_ms=750)
    # the first two go at 0.75, the next three when they are three, the last at 2.75 + 0.75
    assert found.batch_sizes.tolist() == [2, 3, 1]
    assert found.latency_ms.tolist() == [875, 625, 625, 375, 125, 875]


def test_without_a_wait_a_lone_request_goes_at_once():
    found = simulate([0, 0.25], 0.125, most=8)
    assert found.batch_sizes.tolist() == [1, 1]


def test_batching_spreads_a_fixed_cost_over_many():
    """A call costs 1/8 s and 1/128 s an image: one at a time 7.5 a second, 16 at once 64."""
    arrivals = draw_arrivals(30, 20, 0)
    alone = simulate(arrivals, 1 / 8, 1 / 128, patience_s=1000, capacity=1000)
    together = simulate(arrivals, 1 / 8, 1 / 128, most=16, patience_s=1000, capacity=1000)
    assert alone.answered_per_s == pytest.approx(1 / (1 / 8 + 1 / 128), rel=1e-3)
    assert together.answered_per_s == pytest.approx(len(arrivals) / 20, rel=0.02)
    assert together.p95_ms < alone.p95_ms / 20
    assert 3 < together.mean_batch < 16


def test_batching_gains_nothing_where_every_image_costs_the_same():
    arrivals = draw_arrivals(30, 5, 0)
    alone = simulate(arrivals, 0, 1 / 16, capacity=1000, patience_s=100)
    together = simulate(arrivals, 0, 1 / 16, most=16, capacity=1000, patience_s=100)
    assert together.seconds == pytest.approx(alone.seconds)
    assert together.p50_ms >= alone.p50_ms


# Queues in theory


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(load):
    """Random arrivals and a constant time: the mean wait is load / (2 (1 - load)) calls."""
    means = [
        simulate(draw_arrivals(load, 4000, seed), 1.0, capacity=10**6).latency_ms.mean() / 1000 - 1
        for seed in range(25)
    ]
    expected = load / (2 * (1 - load))
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    assert error < 0.1 * expected
    assert np.mean(means) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("load", [1.5, 3, 20])
def test_under_overload_the_queue_is_bounded_and_the_rest_rejected(load):
    found = simulate(draw_arrivals(8 * load, 200, 1), 1 / 8, capacity=10)
    assert found.latency_ms.max() <= 11 * 125 + 1e-6  # all places before, and its own call
    assert found.p50_ms > 9 * 125
    assert found.rejected / found.arrived == pytest.approx(1 - 1 / load, abs=0.05)
    assert found.answered_per_s == pytest.approx(8, rel=0.01)
    assert found.unanswered == 0
    assert found.seconds < 200 + 11 / 8


def test_latency_rises_with_load():
    found = [
        simulate(draw_arrivals(8 * load, 100, 2), 1 / 8) for load in (0.1, 0.3, 0.5, 0.7, 0.9, 1.2)
    ]
    assert [one.p50_ms for one in found] == sorted(one.p50_ms for one in found)
    assert found[0].p50_ms == pytest.approx(125)
    assert found[-1].p50_ms > 20 * found[0].p50_ms


# What holds for all


@given(
    gaps=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    fixed=st.integers(0, 30),
    each=st.integers(0, 10),
    most=st.integers(1, 6),
    spare=st.integers(0, 6),
    wait=st.integers(0, 50),
    patience=st.integers(1, 100),
)
def test_every_request_is_answered_rejected_or_left_and_in_order(
    gaps, fixed, each, most, spare, wait, patience
):
    unit = 1 / 64
    arrivals = np.cumsum(gaps) * unit
    images = np.arange(len(gaps), dtype=np.float32)[:, None]  # each request brings its number
    capacity = most + spare
    with simulated_time() as clock:
        runner = PlantedRunner(clock, fixed * unit, each * unit)
        found = serve(
            runner,
            images,
            arrivals,
            most=most,
            capacity=capacity,
            wait_ms=wait * 1000 * unit,
            patience_s=patience * unit,
        )
    taken = [int(number) for call in runner.calls for number in call]
    assert taken == sorted(set(taken))  # in order of arrival, nobody twice
    assert found.arrived == len(gaps)
    assert found.answered == len(taken)
    assert min(found.rejected, found.unanswered) >= 0
    assert found.unanswered <= capacity
    assert found.batch_sizes.tolist() == [len(call) for call in runner.calls]
    assert all(1 <= size <= most for size in found.batch_sizes)
    ends = [
        start + (fixed + each * len(call)) * unit
        for start, call in zip(runner.starts, runner.calls, strict=True)
    ]
    expected = [
        1000 * (end - arrivals[int(number)])
        for end, call in zip(ends, runner.calls, strict=True)
        for number in call
    ]
    assert found.latency_ms.tolist() == pytest.approx(expected)
    stop = arrivals[-1] + patience * unit
    assert all(start < stop for start in runner.starts)
    assert found.seconds == (ends[-1] if ends else 0)
    if found.unanswered:
        assert clock.now >= stop
    for start, call, free in zip(runner.starts, runner.calls, [0.0, *ends], strict=False):
        ready = arrivals[int(call[0])] + wait * unit
        if len(call) == most:
            ready = min(ready, arrivals[int(call[-1])])
        assert start == pytest.approx(max(free, ready))


@given(
    arrivals=st.lists(st.integers(0, 500), min_size=1, max_size=40).map(sorted),
    capacity=st.integers(1, 5),
    service=st.integers(1, 60),
)
def test_who_is_rejected_is_who_finds_the_queue_full(arrivals, capacity, service):
    """Against a second account of the same queue: each request looks at those before it."""
    starts: list[int] = []  # of those admitted
    latencies = []
    for moment in arrivals:
        if sum(start >= moment for start in starts) >= capacity:
            continue
        starts.append(max(moment, starts[-1] + service if starts else 0))
        latencies.append(1000 * (starts[-1] + service - moment))
    found = simulate(arrivals, service, capacity=capacity, patience_s=10**6)
    assert found.latency_ms.tolist() == latencies
    assert found.rejected == len(arrivals) - len(latencies)


@given(
    latencies=st.lists(st.floats(0.01, 1e4), max_size=300),
    rejected=st.integers(0, 50),
    left=st.integers(1, 20),
    deadline=st.floats(-1, 2e4),
)
def test_the_share_in_time_counts_all_who_came(latencies, rejected, left, deadline):
    found = served(latencies, len(latencies) + rejected + left, rejected)
    in_time = sum(latency <= deadline for latency in latencies)
    assert found.in_time(deadline) == pytest.approx(in_time / found.arrived)
    assert found.in_time(math.inf) == pytest.approx(found.answered / found.arrived)
    assert found.unanswered == left


# Limits


def test_a_far_too_slow_runner_is_given_up():
    found = simulate(np.arange(1, 11) / 8, 3600.0, patience_s=2.0)
    assert found.answered == 1
    assert found.unanswered == 9
    assert found.rejected == 0
    assert "9 unanswered" in repr(found)


def test_a_wait_longer_than_patience_ends_with_patience():
    with simulated_time() as clock:
        runner = PlantedRunner(clock, 1.0)
        found = serve(runner, IMAGES, np.zeros(1), most=2, wait_ms=10**9, patience_s=2.0)
        assert clock.now == 2
    assert (found.answered, found.unanswered, found.seconds) == (0, 1, 0)
    assert found.answered_per_s == 0
    assert math.isnan(found.mean_batch)
    assert found.in_time(10) == 0


def test_a_deadline_that_no_call_meets_is_met_by_nobody():
    found = simulate(np.arange(1, 50), 0.5)
    assert found.in_time(10) == 0
    assert found.in_time(500) == 1


# Percentiles


def test_percentiles_are_those_of_the_latencies():
    latencies = np.random.default_rng(0).exponential(5, 1001)
    found = served(latencies)
    ordered = np.sort(latencies)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx(
        (ordered[500], ordered[950], ordered[990])
    )
    assert found.percentile(50).unit == "ms"
    assert found.percentile(50).count == 1001
    assert found.percentile(50).provenance == PROVENANCE


@given(count=st.integers(1, 400), percent=st.sampled_from([0.5, 25, 50, 90, 95, 99, 99.9]))
def test_an_interval_holds_its_percentile(count, percent):
    found = served(np.random.default_rng(count).exponential(5, count)).percentile(percent)
    assert 0 <= found.low <= found.value <= found.high
    assert (found.high == math.inf) == bool(found.note)


@pytest.mark.parametrize(("count", "share"), [(20, 0.5), (100, 0.9), (400, 0.99), (2000, 0.5)])
def test_intervals_hold_the_true_percentile_as_often_as_they_say(count, share):
    random = np.random.default_rng(0)
    draws = 4000
    ordered = np.sort(random.uniform(size=(draws, count)), axis=1)  # any distribution will do
    first, last = find_interval_ranks(count, share)
    low = ordered[:, first - 1] if first else np.zeros(draws)
    high = ordered[:, last - 1] if last <= count else np.ones(draws)
    held = ((low <= share) & (share < high)).mean()
    assert held >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / draws)
    assert held < 0.999


def test_independent_requests_count_in_full_or_nearly():
    random = np.random.default_rng(0)
    counts = [count_independent(random.uniform(size=2000) < 0.1) for _ in range(200)]
    assert max(counts) <= 2000
    assert np.median(counts) > 1500


@pytest.mark.parametrize("together", [1, 5, 20])
def test_requests_that_are_late_together_count_as_one(together):
    random = np.random.default_rng(0)
    counts = [
        count_independent(np.repeat(random.uniform(size=4000 // together) < 0.1, together))
        for _ in range(200)
    ]
    assert np.median(counts) == pytest.approx(4000 / together, rel=0.2)


def test_one_request_or_equal_ones_have_a_count():
    assert count_independent(np.array([False])) == 1
    assert count_independent(np.zeros(7, bool)) == 7
    assert count_independent(np.arange(1000) < 500) < 30


@pytest.mark.parametrize(("load", "percent"), [(0.5, 50), (0.5, 99), (0.75, 50)])
def test_an_interval_holds_the_percentile_of_a_queue_most_of_the_time(load, percent):
    """Independent requests would need an interval so narrow that it misses far too often."""
    long = simulate(draw_arrivals(load, 200_000, 1), 1.0, capacity=10**6)
    true_ms = long.percentile(percent).value
    held = naive = 0
    for seed in range(100, 160):
        found = simulate(draw_arrivals(load, 4000, seed), 1.0, capacity=10**6)
        one = found.percentile(percent)
        held += one.low <= true_ms * (1 + 1e-9) and true_ms * (1 - 1e-9) <= one.high
        first, last = find_interval_ranks(found.answered, percent / 100)
        ordered = [0, *np.sort(found.latency_ms), math.inf]
        naive += ordered[first] <= true_ms * (1 + 1e-9) and true_ms * (1 - 1e-9) <= ordered[last]
    assert held >= 0.8 * 60
    assert held > naive


def test_the_ranks_are_those_of_the_tables():
    """Of 10 values the 2nd and 9th enclose the median; of 20 the 6th and 15th."""
    assert find_interval_ranks(10, 0.5) == (2, 9)
    assert find_interval_ranks(20, 0.5) == (6, 15)
    assert find_interval_ranks(1, 0.5) == (0, 2)


@pytest.mark.parametrize(("count", "is_enough"), [(10, False), (367, False), (368, True)])
def test_too_few_requests_for_a_percentile_are_said_to_be(count, is_enough):
    """The largest of n lies below the 99th percentile with a chance of 0.99**n: 2.5 % at 367."""
    found = served(np.full(count, 5.0))
    high = found.percentile(99)
    assert (high.note == "") == is_enough
    assert math.isfinite(high.high) == is_enough
    assert ("too few requests to bound a p99 from above" in repr(found)) != is_enough
    assert found.percentile(50).note == ""


def test_nobody_answered_has_no_percentile():
    found = served([], arrived=3, rejected=2)
    assert math.isnan(found.p99_ms)
    assert found.percentile(50).note == "no request was answered"
    assert "0 answered" in repr(found)


@pytest.mark.parametrize("percent", [0, 100, -1, 101, math.nan])
def test_a_percentile_that_is_none_is_refused(percent):
    with pytest.raises(ValueError, match="above 0 and below 100"):
        served([1.0]).percentile(percent)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most": 0}, "most=0 has to be at least 1"),
        ({"most": 9, "capacity": 8}, "at most capacity=8"),
        ({"capacity": 0}, "at most capacity=0"),
        ({"wait_ms": -1.0}, "wait_ms=-1"),
        ({"wait_ms": math.nan}, "wait_ms=nan"),
        ({"patience_s": 0.0}, "patience_s=0"),
        ({"patience_s": math.inf}, "patience_s=inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        simulate([0.0], 1.0, **settings)


@pytest.mark.parametrize(
    "arrivals", [[], [-1.0], [1.0, 0.5], [math.nan], [0.0, math.nan, 1.0], [0.0, math.inf]]
)
def test_arrivals_that_do_not_ascend_from_zero_are_refused(arrivals):
    with pytest.raises(ValueError, match="one or more arrivals, ascending"):
        simulate(arrivals, 1.0)


def test_no_images_are_refused(monkeypatch):
    monkeypatch.setattr(serving, "timing_lock", nullcontext)
    with pytest.raises(ValueError, match="no images"):
        serve(lambda images: images, IMAGES[:0], np.zeros(1))
    with pytest.raises(ValueError, match="no images"):
        measure_capacity(lambda images: images, IMAGES[:0])


def raising(images):
    raise RuntimeError("out of order")


def too_large_for(most):
    def run(images):
        return images if len(images) < most else raising(images)

    return run


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        (raising, "batch of 1' raised RuntimeError: out of order"),
        (too_large_for(4), "batch of 4' raised RuntimeError"),
        (too_large_for(7), "batch of 7' raised RuntimeError"),
        (lambda images: images * math.nan, "NaN or infinite"),
        (lambda images: images[:1], "got 2 images and returned an output of shape"),
        (lambda images: None, "got 1 images"),
    ],
)
def test_what_is_wrong_with_a_runner_is_said_before_anything_is_timed(runner, message, monkeypatch):
    monkeypatch.setattr(serving, "timing_lock", nullcontext)
    with pytest.raises(ValueError, match=message):
        serve(runner, IMAGES, np.array([0.0]), most=7)
    with pytest.raises(ValueError, match=message):
        measure_capacity(runner, IMAGES, batch=7)
    assert gc.isenabled()


def test_the_warm_up_meets_small_batches_and_the_largest_and_ends_with_patience():
    sizes = []

    def run(images):
        sizes.append(len(images))
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "timing_lock", nullcontext)
        serve(run, IMAGES, np.array([0.0]), most=11)
        assert sorted(set(sizes[:-1])) == [1, 2, 4, 8, 11]
        assert sizes[-1] == 1
        sizes.clear()
        times = iter(range(0, 1000, 60))  # each look at the clock is a minute later
        patch.setattr(serving, "perf_counter", lambda: float(next(times)))
        serve(run, IMAGES, np.array([0.0]), most=11, patience_s=100.0)
    assert sorted(set(sizes)) == [1, 2]


# Capacity


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_capacity_is_images_per_time_of_a_call(batch):
    with simulated_time() as clock:
        runner = PlantedRunner(clock, 1 / 8, 1 / 64)
        found = measure_capacity(runner, IMAGES, batch, duration_s=10.0)
    call_s = 1 / 8 + batch / 64
    assert found.value == pytest.approx(batch / call_s)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))
    assert found.unit == "requests/s"
    assert found.count == len(runner.calls) == math.ceil(10 / call_s)
    assert {len(call) for call in runner.calls} == {batch}


def test_the_error_of_a_capacity_is_that_of_a_mean():
    with simulated_time() as clock:
        calls = iter([1.0, 3.0] * 50)

        def run(images):
            clock.now += next(calls)
            return images

        found = measure_capacity(run, IMAGES, duration_s=200.0)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(0.5 * (1 / 2) / math.sqrt(100))


def test_a_slow_runner_s_capacity_rests_on_two_calls():
    with simulated_time() as clock:
        assert measure_capacity(PlantedRunner(clock, 60.0), IMAGES).count == 2


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"duration_s": 0.0}, {"duration_s": math.nan}])
def test_a_capacity_needs_a_batch_and_a_duration(wrong):
    with pytest.raises(ValueError, match="have to be above 0"):
        measure_capacity(lambda images: images, IMAGES, **wrong)


def test_a_load_of_twice_the_capacity_is_half_rejected():
    with simulated_time() as clock:
        rate = measure_capacity(PlantedRunner(clock, 1 / 8), IMAGES).value
    found = simulate(draw_arrivals(2 * rate, 100), 1 / 8, capacity=4)
    assert found.rejected / found.arrived == pytest.approx(0.5, abs=0.05)


# In real time


def test_requests_are_answered_in_real_time(make_runner, tiny_split, monkeypatch):
    locked, collecting = [], []

    @contextmanager
    def lock():
        locked.append(True)
        yield

    monkeypatch.setattr(serving, "timing_lock", lock)
    runner = make_runner(sleep_s=0.002)

    def run(images):
        collecting.append(gc.isenabled())
        return runner(images)

    arrivals = draw_arrivals(200, 0.25, 5)
    found = serve(run, tiny_split.images, arrivals, most=4)
    assert locked == [True]
    assert not any(collecting)
    assert gc.isenabled()
    assert (found.arrived, found.answered, found.rejected) == (len(arrivals), len(arrivals), 0)
    assert found.seconds > arrivals[-1]
    assert found.latency_ms.min() >= 2  # a sleep is never shorter than asked for
    assert found.batch_sizes.sum() == found.answered
    assert found.provenance.kind == "measured"
    assert "cores busy" in found.provenance.note
