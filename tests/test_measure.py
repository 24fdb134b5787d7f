"""Measuring: accuracy is counted, latency is timed in turns, numbers say where they are from."""

import gc
import math
from itertools import islice

import numpy as np
import pytest

from course_utils import machine
from course_utils.datasets import Split
from course_utils.measure import (
    Measurement,
    Provenance,
    compare,
    compare_accuracy,
    compare_speed,
    find_right,
    measure_accuracy,
    measured_now,
    summarize_accuracy,
    summarize_latency,
)
from course_utils.measure.turns import calls_in_a_turn, round_ms, stack_rounds, time_rounds
from course_utils.runtimes import Runner

IMAGE = np.zeros((1, 1, 2, 2), np.float32)


def run_as(function) -> Runner:
    return Runner(function, "planted", "planted", "", b"", (1, 2, 2))


# Accuracy


@pytest.mark.parametrize("right", [0, 1, 13, 29, 30])
@pytest.mark.parametrize("batch", [1, 7, 30, 100])
def test_the_accuracy_of_a_runner_that_is_right_on_k_of_n(tiny_split, make_runner, right, batch):
    found = find_right(make_runner(right), tiny_split, batch)
    assert found.dtype == bool
    assert found.tolist() == [True] * right + [False] * (30 - right)
    measured = summarize_accuracy(found)
    share = right / 30
    error = 100 * math.sqrt(share * (1 - share) / 30)
    assert measured.value == pytest.approx(100 * share)
    assert measured.low == pytest.approx(100 * share - error)
    assert measured.high == pytest.approx(100 * share + error)
    assert (measured.unit, measured.count) == ("%", 30)
    assert measured.provenance.kind == "measured"


def test_every_image_is_shown_once(tiny_split):
    seen = []

    def run(images):
        seen.extend(images[:, 0, 0, 1])
        return np.zeros((len(images), 3), np.float32)

    find_right(run_as(run), tiny_split, batch=7)
    assert sorted(seen) == list(range(30))


def test_an_empty_split_has_no_accuracy(make_runner):
    empty = Split(np.zeros((0, 1, 2, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no images to measure the accuracy on"):
        find_right(make_runner(), empty)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda n: (n,), id="classes, not logits"),
        pytest.param(lambda n: (n, 3, 1), id="an axis too many"),
        pytest.param(lambda n: (1, 3), id="one row for all"),
        pytest.param(lambda n: (n + 1, 3), id="a row too many"),
        pytest.param(lambda n: (), id="one number"),
    ],
)
def test_an_output_of_another_shape_is_refused(tiny_split, shape):
    runner = run_as(lambda images: np.zeros(shape(len(images)), np.float32))
    with pytest.raises(ValueError, match=r"10 images gave an output of shape .*\(10, classes\)"):
        find_right(runner, tiny_split, batch=10)


def test_the_accuracy_measured_is_that_of_the_right_answers(tiny_split, make_runner):
    measured = measure_accuracy(make_runner(12), tiny_split)
    assert measured.value == pytest.approx(40)
    assert (measured.unit, measured.count) == ("%", 30)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_a_gain_of_four_images_by_hand(kind):
    right = np.array([1, 1, 1, 0], kind)
    baseline = np.array([1, 0, 0, 1], kind)
    gain = compare_accuracy(right, baseline)  # differences 0, 1, 1, -1
    assert gain.value == pytest.approx(25)  # their mean is 1/4
    error = 100 * math.sqrt(11 / 16 / 4)  # their variance is 3/4 - 1/16
    assert gain.low == pytest.approx(25 - error)
    assert gain.high == pytest.approx(25 + error)
    assert (gain.unit, gain.count) == ("points", 4)
    assert gain.provenance.kind == "measured"
    loss = compare_accuracy(baseline, right)
    assert (loss.value, loss.low, loss.high) == pytest.approx((-25, -25 - error, -25 + error))


@pytest.mark.parametrize("right", [[True] * 5, [False] * 5, [True, False, True, True, False]])
def test_equal_answers_gain_nothing_for_certain(right):
    gain = compare_accuracy(np.array(right), np.array(right))
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_a_gain_on_few_images_is_surer_than_the_two_accuracies():
    baseline = np.arange(1000) < 700
    right = np.arange(1000) < 710  # the same answers but for ten images
    gain, first, second = (
        compare_accuracy(right, baseline),
        summarize_accuracy(right),
        summarize_accuracy(baseline),
    )
    assert gain.value == pytest.approx(first.value - second.value)
    assert gain.high - gain.value == pytest.approx(100 * math.sqrt(0.01 * 0.99 / 1000))
    assert gain.high - gain.value < min(first.high - first.value, second.high - second.value)


# Latency


class Recorder:
    """Runners that note who was called, and whether garbage was being collected meanwhile."""

    def __init__(self, count):
        self.calls = []
        self.collecting = []
        self.runners = [run_as(self.noting(index)) for index in range(count)]

    def noting(self, index):
        def run(images):
            self.calls.append(index)
            self.collecting.append(gc.isenabled())
            return np.zeros((len(images), 3), np.float32)

        return run


def take_rounds(recorder: Recorder, rounds: int, call_ms: float) -> list[list[np.ndarray]]:
    """Return rounds of the recorder's runners, each taken for one whose calls last ``call_ms``."""
    count = len(recorder.runners)
    return list(islice(time_rounds(recorder.runners, [IMAGE] * count, [call_ms] * count), rounds))


def test_a_round_times_a_burst_of_every_runner():
    rounds = take_rounds(Recorder(3), rounds=4, call_ms=2.0)
    assert len(rounds) == 4
    for turns in rounds:
        assert len(turns) == 3
        for turn in turns:
            assert turn.shape == (5,)  # 5 calls of 2 ms
            assert turn.dtype == np.float64
            assert (turn >= 0).all()


@pytest.mark.parametrize(
    ("call_ms", "calls"),
    [(0.0, 9), (0.02, 9), (1.2, 7), (2.0, 5), (2.4, 3), (4.0, 3), (24.0, 3), (25.0, 1), (1e4, 1)],
)
def test_a_turn_has_nine_calls_and_fewer_where_they_are_slow(call_ms, calls):
    assert calls_in_a_turn(call_ms) == calls
    (turns,) = take_rounds(Recorder(1), rounds=1, call_ms=call_ms)
    assert [turn.shape for turn in turns] == [(calls,)]


@pytest.mark.parametrize(("call_ms", "untimed"), [(1.0, 1), (5.0, 1), (10.0, 0), (500.0, 0)])
def test_every_runner_is_called_equally_often(call_ms, untimed):
    recorder = Recorder(3)
    take_rounds(recorder, rounds=4, call_ms=call_ms)
    assert np.bincount(recorder.calls).tolist() == [4 * (untimed + calls_in_a_turn(call_ms))] * 3


def test_a_round_lasts_as_long_as_all_its_calls():
    assert round_ms([1.0, 3.0, 500.0]) == pytest.approx((9 + 1) * 1 + (3 + 1) * 3 + 500)
    assert round_ms([20.0, 500.0]) == pytest.approx(3 * 20 + 500)


def test_runners_take_turns_in_an_order_that_varies():
    recorder = Recorder(4)
    take_rounds(recorder, rounds=8, call_ms=2.0)
    turns = np.reshape(recorder.calls, (8, 4, 1 + 5))
    assert (turns == turns[:, :, :1]).all(), "the calls of a turn were not in a row"
    orders = [tuple(order) for order in turns[:, :, 0]]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 1


def test_the_order_of_turns_is_the_same_in_every_comparison():
    first, second = Recorder(4), Recorder(4)
    for recorder in (first, second):
        take_rounds(recorder, rounds=8, call_ms=2.0)
    assert first.calls == second.calls


def test_rounds_are_stacked_by_runner():
    rounds = [[[1.0, 2.0], [10.0]], [[3.0, 4.0], [20.0]], [[5.0, 6.0], [30.0]]]
    first, second = stack_rounds(rounds)
    assert first.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert second.tolist() == [[10], [20], [30]]


def test_rounds_whose_turns_differ_in_length_keep_the_calls_that_all_have():
    (times_ms,) = stack_rounds([[[1.0, 2.0, 3.0]], [[4.0, 5.0]], [[6.0, 7.0, 8.0, 9.0]]])
    assert times_ms.tolist() == [[1, 2], [4, 5], [6, 7]]


def test_garbage_is_not_collected_while_time_is_taken():
    recorder = Recorder(2)
    compare(*recorder.runners, images=IMAGE, rounds=2)
    assert recorder.collecting
    assert not any(recorder.collecting)
    assert gc.isenabled()


@pytest.mark.parametrize("calls", [0, 7], ids=["while it is warmed up", "while it is timed"])
def test_garbage_is_collected_again_after_an_exception(calls):
    recorder = Recorder(1)
    (noting,) = recorder.runners

    def fail_after(images):
        if len(recorder.calls) >= calls:
            raise RuntimeError("broken runner")
        return noting(images)

    with pytest.raises((ValueError, RuntimeError), match="broken runner"):
        compare(fail_after, images=IMAGE, rounds=1)
    assert len(recorder.calls) == calls
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off():
    gc.disable()
    try:
        compare(*Recorder(1).runners, images=IMAGE, rounds=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_long_sleep_is_told_from_a_short_one(make_runner):
    sleepers = [make_runner(sleep_s=0.02), make_runner(sleep_s=0.002)]
    compared = compare(*sleepers, images=IMAGE, rounds=10)
    slow, quick = compared.latency("a"), compared.latency("b")
    assert slow.value > quick.value
    assert slow.fastest > quick.fastest
    assert compared.speed("b").low > 1
    for index, measured in enumerate((slow, quick)):
        assert measured.fastest <= measured.low <= measured.value <= measured.high <= measured.p95
        assert measured.p95 <= measured.p99
        assert len(compared.times_ms[index]) == 10
        assert (measured.unit, measured.count) == ("ms", compared.times_ms[index].size)
        assert measured.provenance.kind == "measured"


@pytest.mark.parametrize("shape", [(101,), (1, 101), (101, 1)])
def test_a_latency_is_summarized_by_its_percentiles(shape):
    measured = summarize_latency(np.arange(101.0).reshape(shape))
    assert measured.value == 50
    assert (measured.low, measured.high) == (25, 75)
    assert (measured.p95, measured.p99) == (95, 99)
    assert measured.fastest == 0
    assert measured.count == 101


# Speed


def noisy_times(seed: int, rounds: int = 30, burst: int = 5) -> np.ndarray:
    """Return times around 1 ms, of which a tenth are disturbed."""
    random = np.random.default_rng(seed)
    times = 1 + random.gamma(2, 0.02, (rounds, burst))
    return times + (random.random((rounds, burst)) < 0.1) * random.exponential(1, (rounds, burst))


def test_a_planted_ratio_is_found_whatever_disturbs_the_rounds():
    times = noisy_times(0)
    slowed = times * np.random.default_rng(1).uniform(1, 50, (30, 1))  # both, in each round
    speed = compare_speed(slowed, 2 * slowed)
    assert (speed.value, speed.low, speed.high) == pytest.approx((2, 2, 2))
    assert (speed.unit, speed.count) == ("×", 30)
    assert speed.provenance.kind == "measured"
    assert speed.describe_speed() == "2.00× as fast (2.00–2.00)"


def test_a_planted_ratio_lies_in_the_interval_of_noisy_times():
    speed = compare_speed(noisy_times(0), 2 * noisy_times(1))
    assert 1 < speed.low <= 2 <= speed.high
    assert speed.low < speed.value < speed.high
    assert (
        speed.describe_speed() == f"{speed.value:.2f}× as fast ({speed.low:.2f}–{speed.high:.2f})"
    )


def test_the_speed_is_the_median_over_rounds_of_ratios_of_medians():
    times = np.array([[1.0, 2, 9], [4, 4, 4], [1, 1, 8]])  # medians 2, 4, 1
    baseline = np.array([[6.0, 6, 6], [4, 1, 9], [2, 7, 0]])  # medians 6, 4, 2
    speed = compare_speed(times, baseline)  # ratios 3, 1, 2
    assert speed.value == 2
    often = compare_speed(np.tile(times, (5, 1)), np.tile(baseline, (5, 1)))
    assert often.value == 2
    assert 1 <= often.low <= 2 <= often.high <= 3
    assert often.low < often.high


@pytest.mark.parametrize("rounds", [1, 3, 9, 10, 11])
def test_fewer_than_ten_rounds_have_no_interval(rounds):
    baseline = noisy_times(0, rounds)
    speed = compare_speed(baseline / 3, baseline)
    assert speed.value == pytest.approx(3)
    assert speed.count == rounds
    if rounds < 10:
        assert (speed.low, speed.high) == (0, math.inf)
        said = f"too few rounds ({rounds}) to tell a difference in speed"
        assert speed.describe_speed() == said
    else:
        assert (speed.low, speed.high) == pytest.approx((3, 3))
        assert speed.describe_speed() == "3.00× as fast (3.00–3.00)"


def test_one_who_is_slower_has_a_speed_below_one():
    assert compare_speed(4 * noisy_times(0), noisy_times(0)).value == pytest.approx(0.25)


def test_between_equal_runners_no_difference_is_found():
    speed = compare_speed(noisy_times(0), noisy_times(1))
    assert speed.low <= 1 <= speed.high
    assert speed.low < speed.high
    assert speed.describe_speed() == "no difference found in speed"


def test_the_interval_holds_the_true_speed_about_as_often_as_it_says():
    speeds = [compare_speed(noisy_times(2 * n), noisy_times(2 * n + 1)) for n in range(400)]
    assert 0.96 <= np.mean([speed.low <= 1 <= speed.high for speed in speeds]) < 1


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        ((2.0, 1.8, 2.4), "2.00× as fast (1.80–2.40)"),
        ((1.03, 1.01, 1.05), "1.03× as fast (1.01–1.05)"),
        ((0.5, 0.4, 0.6), "0.50× as fast (0.40–0.60)"),
        ((1.2, 0.99, 1.5), "no difference found in speed"),
        ((1.2, 1.0, 1.5), "no difference found in speed"),
        ((0.9, 0.8, 1.0), "no difference found in speed"),
        ((1.0, 1.0, 1.0), "no difference found in speed"),
        ((1.2, 0.0, math.inf), "too few rounds (30) to tell a difference in speed"),
    ],
)
def test_a_speed_whose_interval_holds_one_is_no_difference(speed, said):
    value, low, high = speed
    measured = Measurement(value, "×", low, high, 30, Provenance("measured", "a machine"))
    assert measured.describe_speed() == said


# Provenance


def test_a_provenance_in_words():
    measured = Provenance("measured", "some processor, 2 cores, AVX2", "2026-01-31 12:00")
    assert str(measured) == "measured: some processor, 2 cores, AVX2, 2026-01-31 12:00"
    assert str(Provenance("computed", "weights × bits / 8")) == "computed: weights × bits / 8"
    noted = Provenance("measured", "a processor", "2026-01-31 12:00", "others kept 0.4 cores busy")
    assert str(noted) == "measured: a processor, 2026-01-31 12:00, others kept 0.4 cores busy"
    without_time = Provenance("measured", "a processor", note="others were quiet")
    assert str(without_time) == "measured: a processor, others were quiet"


def test_what_is_measured_now_names_this_machine():
    provenance = measured_now()
    assert provenance.kind == "measured"
    assert provenance.source == str(machine.describe())
    assert provenance.when
    assert provenance.note == ""
    assert measured_now("others were quiet").note == "others were quiet"
