"""Comparing runners, on a simulated machine whose true speeds and troubles are known."""

import contextlib
import gc
import json
import math
import random

import numpy as np
import pytest
from filelock import FileLock

from course_utils import quick
from course_utils.measure import (
    Comparison,
    Provenance,
    compare,
    compare_speed,
    latency,
    timing_lock,
    turns,
)

IMAGE = np.zeros((1, 1, 2, 2), np.float32)
HERE = Provenance("measured", "a planted machine", "2026-01-31 12:00", "others were <quiet>")


class Machine:
    """A machine whose clock moves only while its runners run."""

    def __init__(self, seed: int = 0) -> None:
        self.now_s = 1000.0
        self.random = random.Random(seed)
        self.calls: list[str] = []  # by whom, in their order

    def perf_counter(self) -> float:
        return self.now_s

    def perf_counter_ns(self) -> int:
        return round(self.now_s * 1e9)

    def slowness(self) -> tuple[float, float]:
        """Return how many times as long as alone everything takes now, and until when."""
        return 1.0, math.inf

    def work(self, seconds: float) -> None:
        """Let the clock move as long as work takes that alone takes so many seconds."""
        while True:
            factor, until_s = self.slowness()
            if self.now_s + factor * seconds <= until_s:
                self.now_s += factor * seconds
                return
            seconds -= (until_s - self.now_s) / factor
            self.now_s = until_s

    def runner(self, call_ms: float, name: str = "", noise: float = 0.0, outliers: float = 0.0):
        """Return a runner; its calls vary like a lognormal, and a share of them is interrupted."""

        def run(images):
            call_s = call_ms / 1000 * self.random.lognormvariate(0, noise)
            if self.random.random() < outliers:
                call_s += self.random.uniform(0.001, 0.02)  # another program got the core
            self.work(call_s)
            self.calls.append(name)
            return np.zeros((len(images), 3), np.float32)

        return run


class NoisyMachine(Machine):
    """A machine with a neighbour: now and then all calls take 1.3 to 3 times as long.

    The spells last from 50 ms to 3 s, the pauses between them half a second on average.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._spells = self._draw_spells(random.Random(f"neighbour {seed}"))
        self._factor, self._until_s = next(self._spells)

    def _draw_spells(self, draw: random.Random):
        until_s = self.now_s
        while True:
            until_s += draw.expovariate(1 / 0.5)
            yield 1.0, until_s
            until_s += math.exp(draw.uniform(math.log(0.05), math.log(3)))
            yield draw.uniform(1.3, 3), until_s

    def slowness(self) -> tuple[float, float]:
        while self.now_s >= self._until_s:
            self._factor, self._until_s = next(self._spells)
        return self._factor, self._until_s


@pytest.fixture
def on(monkeypatch):
    """Return a function that lets the time of a machine be the time that is measured."""

    def on(machine: Machine) -> Machine:
        monkeypatch.setattr(latency, "time", machine)
        monkeypatch.setattr(turns, "time", machine)
        return machine

    return on


def assert_all_is_free() -> None:
    """Check that the next measurement can begin, and that garbage is collected again."""
    lock = FileLock(timing_lock.lock_file())
    lock.acquire(timeout=0)
    lock.release()
    assert gc.isenabled()


# Is what it finds true?


CALLS_MS = [0.3, 3.0, 60.0]  # a turn has nine calls, three, or one


def compare_beside_neighbours(on, call_ms: float, ratio: float) -> list[Comparison]:
    """Compare two runners a hundred times, beside another neighbour each time."""
    found = []
    for seed in range(100):
        machine = on(NoisyMachine(seed))
        pair = [machine.runner(ms, noise=0.05, outliers=0.02) for ms in (call_ms, call_ms / ratio)]
        found.append(compare(*pair, images=IMAGE))
    return found


@pytest.mark.parametrize("call_ms", CALLS_MS)
def test_between_equals_no_difference_is_found_beside_a_noisy_neighbour(on, call_ms):
    found = compare_beside_neighbours(on, call_ms, ratio=1.0)
    assert sum(not one.says_difference("b") for one in found) >= 95


@pytest.mark.parametrize("call_ms", CALLS_MS)
def test_ten_percent_are_found_beside_a_noisy_neighbour(on, call_ms):
    speeds = [one.speed("b") for one in compare_beside_neighbours(on, call_ms, ratio=1.1)]
    assert sum(speed.low > 1 for speed in speeds) >= 95
    assert sum(speed.low - 0.01 <= 1.1 <= speed.high + 0.01 for speed in speeds) >= 95


@pytest.mark.parametrize("factor", [2, 20])
@pytest.mark.parametrize("call_ms", CALLS_MS)
def test_a_spell_that_hits_a_turn_of_one_runner_alone_does_not_fool_it(on, call_ms, factor):
    calls_a_turn = turns.calls_in_a_turn(call_ms) + (call_ms < turns.TURN_MS)
    first = turns.WARM_UP_CALLS + 4 * calls_a_turn  # call of its fifth turn
    found = []
    for seed in range(20):
        machine = on(Machine(seed))
        same, other = (machine.runner(call_ms, name, noise=0.05) for name in "ab")

        def hit(images, machine=machine, other=other):
            if first <= machine.calls.count("b") < first + calls_a_turn:
                machine.work((factor - 1) * call_ms / 1000)
            return other(images)

        found.append(compare(same, hit, images=IMAGE))
        assert np.median(found[-1].times_ms[1][4]) > 0.8 * factor * call_ms
        assert found[-1].speed("b").value == pytest.approx(1, abs=0.1)
    assert sum(not one.says_difference("b") for one in found) >= 19


@pytest.mark.parametrize("call_ms", [3.4, 10.5])
def test_equals_at_the_border_between_two_lengths_of_a_turn_are_equal(on, call_ms):
    """Near 3.3 ms one may have three calls a turn and the other one; near 10 ms a warm-up call."""
    found = []
    for seed in range(100):
        machine = on(NoisyMachine(seed))
        pair = []
        for name in "ab":
            quick = machine.runner(call_ms, name, noise=0.05, outliers=0.02)

            def run(images, machine=machine, name=name, quick=quick):
                if machine.calls[-1:] != [name]:  # the other's turn took its weights' cache
                    machine.work(0.1 * call_ms / 1000)
                machine.work(machine.random.expovariate(1 / 0.1) * call_ms / 1000)
                return quick(images)

            pair.append(run)
        found.append(compare(*pair, images=IMAGE))
    assert sum(not one.says_difference("b") for one in found) >= 95


@pytest.mark.parametrize("rounds", [10, 20, 60, 300])
def test_the_true_ratio_is_in_about_99_of_100_intervals(rounds):
    found = 0
    for seed in range(100):
        draw = np.random.default_rng([seed, rounds])
        times_ms, baseline_ms = draw.lognormal(0, 0.1, (2, rounds, 5))
        both_ms = draw.uniform(1, 3, (rounds, 1))  # what slows a round slows both
        speed = compare_speed(both_ms * times_ms, 1.25 * both_ms * baseline_ms)
        found += speed.low <= 1.25 <= speed.high
    assert found >= 96


# When it ends


@pytest.mark.parametrize("precision", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("call_ms", CALLS_MS)
def test_it_ends_early_when_the_intervals_are_narrow(on, call_ms, precision):
    machine = on(Machine())
    runners = [machine.runner(ms, noise=0.03) for ms in (call_ms, call_ms / 2, 3 * call_ms)]
    start_s = machine.now_s
    compared = compare(*runners, images=IMAGE, precision=precision, limit_s=200)
    assert compared.ended == "precise"
    for speed in (compared.speed("b"), compared.speed("c")):
        assert speed.high - speed.low <= 2 * precision * speed.value
    assert machine.now_s - start_s < 100
    rounds = len(compared.times_ms[0])
    assert rounds >= 10
    assert f"Ended after {rounds} rounds: all intervals were narrow" in compared.how_it_ended


def test_the_more_precise_the_more_rounds(on):
    rounds = []
    for precision in (0.05, 0.02, 0.01):
        machine = on(Machine())
        pair = [machine.runner(4.0, noise=0.05) for _ in range(2)]
        compared = compare(*pair, images=IMAGE, precision=precision, limit_s=200)
        rounds.append(len(compared.times_ms[0]))
    assert rounds == sorted(set(rounds))


@pytest.mark.parametrize("call_ms", [0.01, 1.0, 400.0])
def test_it_does_not_end_before_twenty_rounds_and_a_second(on, call_ms):
    machine = on(Machine())
    begun_s = []
    pair = [machine.runner(call_ms) for _ in range(2)]
    note_time = lambda _: begun_s.append(machine.now_s)  # noqa: E731
    compared = compare(*pair, images=IMAGE, limit_s=20, on_round=note_time)
    assert compared.ended == "precise"
    assert len(begun_s) == len(compared.times_ms[0]) >= 20
    rounds_s = len(begun_s) / (len(begun_s) - 1) * (begun_s[-1] - begun_s[0])
    assert rounds_s >= 1 - 1e-9


@pytest.mark.parametrize("call_ms", [0.3, 4.0, 60.0, 250.0])
@pytest.mark.parametrize("limit_s", [2.0, 3.7, 10.0])
def test_it_uses_its_time_and_never_takes_longer_than_the_limit(on, call_ms, limit_s):
    machine = on(Machine())
    pair = [machine.runner(call_ms, noise=0.02), machine.runner(call_ms / 2, noise=0.02)]
    begun_s = [machine.now_s]
    note_time = lambda _: begun_s.append(machine.now_s)  # noqa: E731 - shorter than a function
    compared = compare(*pair, images=IMAGE, precision=1e-9, limit_s=limit_s, on_round=note_time)
    assert compared.ended == "time limit"
    round_s = max(np.diff(begun_s[1:]))
    assert limit_s - 1.1 * round_s < machine.now_s - begun_s[0] <= limit_s


@pytest.mark.parametrize("call_ms", [0.3, 4.0, 60.0, 250.0])
def test_a_quick_look_takes_a_quarter_but_rounds_enough_for_an_interval(on, monkeypatch, call_ms):
    monkeypatch.setenv(quick.VARIABLE, "1")
    machine = on(Machine())
    pair = [machine.runner(call_ms, noise=0.02), machine.runner(call_ms / 2, noise=0.02)]
    begun_s = [machine.now_s]
    note_time = lambda _: begun_s.append(machine.now_s)  # noqa: E731 - shorter than a function
    compared = compare(*pair, images=IMAGE, precision=1e-9, limit_s=12, on_round=note_time)
    rounds = len(compared.times_ms[0])
    took_s, round_s = machine.now_s - begun_s[0], max(np.diff(begun_s[1:]))
    assert compared.ended == "time limit"
    assert rounds >= 10
    assert math.isfinite(compared.speed(1).low)
    assert 3 - 1.1 * round_s < took_s
    assert took_s <= 3 or rounds == 10


def test_a_neighbour_lets_it_take_at_most_a_round_longer(on):
    for seed in range(20):
        machine = on(NoisyMachine(seed))
        pair = [machine.runner(60.0, noise=0.05) for _ in range(2)]
        ends_s = [machine.now_s]
        compare(
            *pair, images=IMAGE, precision=0.001, limit_s=3,
            on_round=lambda _, m=machine, ends_s=ends_s: ends_s.append(m.now_s),
        )  # fmt: skip
        assert machine.now_s - ends_s[0] < 3 + max(np.diff(ends_s[1:]))


def test_the_time_limit_ends_it_and_it_says_so(on):
    machine = on(Machine())
    pair = [machine.runner(4.0, noise=0.5) for _ in range(2)]
    compared = compare(*pair, images=IMAGE, precision=0.01, limit_s=2)
    rounds = len(compared.times_ms[0])
    assert compared.ended == "time limit"
    assert compared.how_it_ended.startswith(f"Ended by the time limit after {rounds} rounds")


def test_the_wait_for_other_measurements_does_not_count(on, monkeypatch):
    machine = on(Machine())

    @contextlib.contextmanager
    def lock_after_a_wait():
        machine.now_s += 300
        yield

    monkeypatch.setattr(latency, "timing_lock", lock_after_a_wait)
    pair = [machine.runner(4.0, noise=0.05) for _ in range(2)]
    assert compare(*pair, images=IMAGE, limit_s=10).ended == "precise"


@pytest.mark.parametrize("limit_s", [0.5, 2.0, 3.5])
def test_a_time_limit_shorter_than_a_round_is_refused_with_how_long_one_takes(on, limit_s):
    machine = on(Machine())
    pair = [machine.runner(400.0), machine.runner(600.0)]
    told = rf"round takes about 1 s after 3 s of warm-up; the time limit of {limit_s:g} s is too"
    with pytest.raises(ValueError, match=told):
        compare(*pair, images=IMAGE, limit_s=limit_s)
    assert_all_is_free()


def test_a_number_of_rounds_is_made_however_long_they_take(on):
    machine = on(Machine())
    pair = [machine.runner(400.0), machine.runner(600.0)]
    compared = compare(*pair, images=IMAGE, rounds=30, limit_s=0.5)
    assert [times.shape for times in compared.times_ms] == [(30, 1), (30, 1)]
    assert compared.ended == "rounds"
    assert compared.how_it_ended == "Ended after 30 rounds, however wide the intervals are."


@pytest.mark.parametrize("call_ms", CALLS_MS)
def test_how_it_ended_is_true_of_the_intervals(on, call_ms):
    for seed in range(20):
        for limit_s in (1.0, 5.0):
            machine = on(NoisyMachine(seed))
            pair = [machine.runner(call_ms, noise=0.05) for _ in range(2)]
            compared = compare(*pair, images=IMAGE, limit_s=limit_s)
            speed = compared.speed("b")
            is_narrow = speed.high - speed.low <= 0.1 * speed.value
            assert compared.ended == ("precise" if is_narrow else "time limit")


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_are_refused(on, rounds):
    machine = on(Machine())
    with pytest.raises(ValueError, match=f"rounds={rounds} measures nothing"):
        compare(machine.runner(1.0), images=IMAGE, rounds=rounds)
    assert machine.calls == []


def test_earlier_rounds_of_another_number_of_runners_are_refused(on):
    machine = on(Machine())
    with pytest.raises(ValueError, match="earlier rounds are not of 1 runners"):
        compare(machine.runner(1.0), images=IMAGE, rounds=2, earlier=[[[1.0], [2.0]]])
    assert machine.calls == []


# Runners that don't run


def broken(kind: str):
    def run(images):
        if kind == "raises":
            raise RuntimeError("no such kernel")
        if kind == "returns nothing":
            return None
        rows = len(images) + (kind == "a row too many")
        filling = {"NaN": math.nan, "infinity": math.inf}.get(kind, 0.0)
        return np.full((rows, 3), filling, np.float32)

    return run


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("raises", "raised RuntimeError: no such kernel"),
        ("NaN", "returned NaN or infinite values"),
        ("infinity", "returned NaN or infinite values"),
        ("a row too many", r"got 1 images and returned an output of shape \(2, 3\)"),
        ("returns nothing", r"got 1 images and returned an output of shape \(\)"),
    ],
)
def test_a_runner_that_does_not_run_is_named_and_nothing_is_timed(on, place, kind, said):
    machine = on(Machine())
    runners = [machine.runner(1.0, "sound")]
    runners.insert(place, broken(kind))
    names = ["sound", "sound"]
    names[place] = "the broken one"
    rounds = []
    with pytest.raises(ValueError, match=f"Nothing was timed: 'the broken one' {said}"):
        compare(*runners, images=IMAGE, names=names, on_round=rounds.append)
    assert rounds == []
    assert len(machine.calls) <= 3  # to warm up
    assert_all_is_free()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["a timed call", "on_round"])
def test_an_exception_in_the_middle_ends_it_and_all_is_free(on, error, where):
    machine = on(Machine())
    sound = machine.runner(1.0, "sound")

    def run(images):
        if where == "a timed call" and len(machine.calls) > 30:
            raise error("in the middle")
        return sound(images)

    def on_round(_):
        if where == "on_round":
            raise error("in the middle")

    told = ValueError if (where, error) == ("a timed call", RuntimeError) else error
    with pytest.raises(told, match="in the middle"):
        compare(run, run, images=IMAGE, on_round=on_round)
    assert_all_is_free()


@pytest.mark.parametrize(
    ("runners", "images", "names"),
    [
        (0, IMAGE, None),
        (0, [], []),
        (2, [IMAGE], None),
        (2, [IMAGE] * 3, None),
        (2, IMAGE, ["one"]),
        (1, IMAGE, ["one", "two"]),
        (1, [IMAGE] * 2, ["one", "two"]),
    ],
)
def test_another_number_of_names_or_batches_than_runners_is_refused(on, runners, images, names):
    machine = on(Machine())
    given = [machine.runner(1.0) for _ in range(runners)]
    with pytest.raises(ValueError, match=f"{runners} runners were given .* as many batches and"):
        compare(*given, images=images, names=names)
    assert machine.calls == []


@pytest.mark.parametrize(
    "option", [{"precision": 0}, {"precision": -1}, {"precision": math.nan}, {"limit_s": 0}]
)
def test_a_limit_or_a_precision_of_nothing_is_refused(on, option):
    machine = on(Machine())
    with pytest.raises(ValueError, match="have to be above 0"):
        compare(machine.runner(1.0), images=IMAGE, **option)
    assert machine.calls == []


# Turns


def test_in_a_round_each_runner_has_a_turn_in_an_order_that_varies(on):
    orders = []
    for _ in range(2):
        machine = on(Machine())
        names = ["a", "b", "c"]
        compare(*(machine.runner(2.0, name) for name in names), images=IMAGE, rounds=12)
        warm_up = [name for name in names for _ in range(3)]
        assert machine.calls[:9] == warm_up
        in_turns = np.reshape(machine.calls[9:], (12, 3, 1 + 5))
        assert (in_turns == in_turns[:, :, :1]).all(), "the calls of a turn were not in a row"
        orders.append(["".join(order) for order in in_turns[:, :, 0]])
    assert all(sorted(order) == ["a", "b", "c"] for order in orders[0])
    assert len(set(orders[0])) > 1
    assert orders[0] == orders[1]


def test_quick_runners_have_nine_calls_a_turn_and_slow_ones_one(on):
    machine = on(Machine())
    runners = [machine.runner(call_ms) for call_ms in (*CALLS_MS, 1000.0)]
    compared = compare(*runners, images=IMAGE, rounds=11)
    assert [times.shape for times in compared.times_ms] == [(11, 9), (11, 3), (11, 1), (11, 1)]
    for times, call_ms in zip(compared.times_ms, (*CALLS_MS, 1000.0), strict=True):
        assert np.allclose(times, call_ms, atol=1e-5)


def test_calls_that_warm_up_are_not_in_the_times(on):
    machine = on(Machine())
    quick = machine.runner(1.0, "quick")

    def slow_at_first(images):
        if not machine.calls:
            machine.work(5.0)  # it compiles
        return quick(images)

    compared = compare(slow_at_first, images=IMAGE, rounds=12)
    assert np.allclose(compared.times_ms[0], 1.0, atol=1e-5)


def test_the_first_call_of_a_turn_is_not_in_the_times(on):
    machine = on(Machine())
    pair = []
    for name in ("a", "b"):
        warm = machine.runner(1.0, name)

        def cold_after_another(images, name=name, warm=warm):
            if machine.calls[-1:] != [name]:
                machine.work(0.001)  # its weights come back into the cache
            return warm(images)

        pair.append(cold_after_another)
    compared = compare(*pair, images=IMAGE, rounds=12)
    # of the other's turns none comes between: there the next turn begins warm
    assert all(np.allclose(times, 1.0, atol=1e-5) for times in compared.times_ms)


def test_every_runner_gets_its_own_batch(on):
    machine = on(Machine())
    run = machine.runner(1.0)
    seen = [set(), set()]
    runners = [lambda images, sizes=sizes: sizes.add(len(images)) or run(images) for sizes in seen]
    compare(*runners, images=[IMAGE, np.repeat(IMAGE, 4, axis=0)], rounds=2)
    assert seen == [{1}, {4}]


# Rounds made before, and rounds told


def test_earlier_rounds_count(on):
    machine = on(Machine())
    earlier = [[[2.0] * 10, [1.0] * 10] for _ in range(5)]
    new = []
    pair = [machine.runner(3.0) for _ in range(2)]
    options = {"earlier": earlier, "on_round": new.append}
    compared = compare(*pair, images=IMAGE, rounds=8, **options)
    assert len(new) == 3
    assert len(earlier) == 5
    calls = turns.calls_in_a_turn(3.0)  # what all rounds have
    for times, before in zip(compared.times_ms, (2.0, 1.0), strict=True):
        assert times.shape == (8, calls)
        assert np.allclose(times[:5], before)
        assert np.allclose(times[5:], 3.0, atol=1e-5)
    assert compared.speed("b").count == 8


def test_when_all_rounds_were_made_before_none_is_timed(on):
    machine = on(Machine())
    earlier = [[[2.0], [1.0]] for _ in range(12)]
    compared = compare(
        machine.runner(3.0), machine.runner(3.0), images=IMAGE, rounds=12, earlier=earlier
    )
    assert len(machine.calls) == 2 * 3  # to warm up
    assert compared.speed("b").value == 2


def test_each_new_round_is_told_as_plain_numbers(on):
    machine = on(Machine())
    told = []
    pair = [machine.runner(0.3, noise=0.1), machine.runner(60.0, noise=0.1)]
    compared = compare(*pair, images=IMAGE, on_round=told.append)
    assert json.loads(json.dumps(told)) == told
    for index, times in enumerate(compared.times_ms):
        assert np.array_equal(times, [turns_of_all[index] for turns_of_all in told])


# What it says


@pytest.mark.parametrize("rounds", [1, 9])
def test_fewer_than_ten_rounds_are_too_few(on, rounds):
    machine = on(Machine())
    pair = [machine.runner(4.0), machine.runner(2.0)]
    compared = compare(*pair, images=IMAGE, rounds=rounds)
    speed = compared.speed("b")
    assert (speed.low, speed.high) == (0, math.inf)
    assert speed.value == pytest.approx(2, rel=1e-4)
    assert not compared.says_difference("b")
    assert f"too few rounds ({rounds}) to tell a difference in speed" in repr(compared)


def plant_comparison(names=("fp32", "int8", "pruned")) -> Comparison:
    noise = np.random.default_rng(0).lognormal(0, 0.02, (3, 30, 5))
    times_ms = [call_ms * noise[n] for n, call_ms in enumerate((2.0, 1.0, 2.0))]
    return Comparison(list(names), times_ms, "precise", HERE)


def test_runners_are_found_by_name_and_by_number():
    compared = plant_comparison()
    assert compared.latency("int8") == compared.latency(1)
    assert compared.latency(1).value == pytest.approx(1, rel=0.01)
    assert compared.speed("int8") == compared.speed(1) == compared.speed(1, against=0)
    assert compared.speed("int8").value == pytest.approx(2, rel=0.01)
    assert compared.speed("fp32", against="int8").value == pytest.approx(0.5, rel=0.01)
    assert compared.says_difference("int8")
    assert compared.says_difference("int8", against="pruned")
    assert not compared.says_difference("pruned")
    assert compared.speed("int8").provenance == compared.latency("int8").provenance == HERE


def test_a_name_that_was_not_timed_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"'int4' was not timed; these were: \['fp32', 'int8'"):
        plant_comparison().speed("int4")


def test_without_names_the_runners_are_letters(on):
    machine = on(Machine())
    runners = [machine.runner(1.0) for _ in range(3)]
    assert compare(*runners, images=IMAGE, rounds=1).names == ["a", "b", "c"]


def test_the_table_holds_every_runner_and_how_it_ended():
    lines = repr(plant_comparison()).splitlines()
    assert len(lines) == 1 + 3 + 2
    for line, name in zip(lines[1:], ("fp32", "int8", "pruned"), strict=False):
        assert line.startswith(name)
        assert " ms " in line
        assert " 150 " in line  # calls
    assert lines[1].endswith("compared with this one")
    assert "× as fast (" in lines[2]
    assert lines[3].endswith("no difference found in speed")
    assert lines[4].startswith("Ended after 30 rounds")
    assert lines[5] == str(HERE)


def test_the_page_escapes_what_the_names_hold():
    shown = plant_comparison(["<b>fp32</b>", "int8 & fast", '"pruned"'])._repr_html_()
    for escaped in ("&lt;b&gt;fp32&lt;/b&gt;", "int8 &amp; fast", "pruned", "&lt;quiet&gt;"):
        assert escaped in shown
    assert "<b>" not in shown
    assert "<quiet>" not in shown
    for end in ("</table>", "</th>", "</td>"):
        assert shown.count(end) == shown.count(f"<{end[2:-1]} ") + shown.count(f"<{end[2:]}")


def test_it_says_where_and_how_busy_others_kept_the_machine(on):
    machine = on(Machine())
    compared = compare(machine.runner(1.0), images=IMAGE, rounds=1)
    assert compared.provenance.kind == "measured"
    assert compared.provenance.when
    assert "cores busy" in compared.provenance.note
