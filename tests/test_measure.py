"""Measuring: accuracy is counted, latency is timed in turns, numbers say where they are from."""

import gc
import math

import numpy as np
import pytest

from course_utils import machine
from course_utils.datasets import Split
from course_utils.measure import (
    Provenance,
    measure_accuracy,
    measure_latency,
    measured_now,
    summarize_latency,
    time_rounds,
)
from course_utils.runtimes import Runner

IMAGE = np.zeros((1, 1, 2, 2), np.float32)


def run_as(function) -> Runner:
    return Runner(function, "planted", "planted", "", b"", (1, 2, 2))


# Accuracy


@pytest.mark.parametrize("right", [0, 1, 13, 29, 30])
@pytest.mark.parametrize("batch", [1, 7, 30, 100])
def test_the_accuracy_of_a_runner_that_is_right_on_k_of_n(tiny_split, make_runner, right, batch):
    measured = measure_accuracy(make_runner(right), tiny_split, batch)
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

    measure_accuracy(run_as(run), tiny_split, batch=7)
    assert sorted(seen) == list(range(30))


def test_an_empty_split_has_no_accuracy(make_runner):
    empty = Split(np.zeros((0, 1, 2, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no images to measure the accuracy on"):
        measure_accuracy(make_runner(), empty)


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
        measure_accuracy(runner, tiny_split, batch=10)


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


def test_a_round_times_a_burst_of_every_runner():
    recorder = Recorder(3)
    rounds = list(time_rounds(recorder.runners, IMAGE, rounds=4, burst=5))
    assert len(rounds) == 4
    for times in rounds:
        assert times.shape == (3, 5)
        assert times.dtype == np.float64
        assert (times >= 0).all()


def test_every_runner_is_called_equally_often():
    recorder = Recorder(3)
    list(time_rounds(recorder.runners, IMAGE, rounds=4, burst=5))
    untimed = 1  # the first call of each turn
    assert np.bincount(recorder.calls).tolist() == [4 * (untimed + 5)] * 3


def test_runners_take_turns_in_an_order_that_varies():
    recorder = Recorder(4)
    list(time_rounds(recorder.runners, IMAGE, rounds=8, burst=2))
    turns = np.reshape(recorder.calls, (8, 4, 1 + 2))
    assert (turns == turns[:, :, :1]).all(), "the calls of a turn were not in a row"
    orders = [tuple(order) for order in turns[:, :, 0]]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 1


def test_garbage_is_not_collected_while_time_is_taken():
    recorder = Recorder(2)
    for _ in time_rounds(recorder.runners, IMAGE, rounds=2, burst=1):
        assert gc.isenabled()  # between the rounds it may be
    assert recorder.collecting
    assert not any(recorder.collecting)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_exception():
    def fail(images):
        raise RuntimeError("broken runner")

    with pytest.raises(RuntimeError, match="broken runner"):
        list(time_rounds([run_as(fail)], IMAGE, rounds=1, burst=1))
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off():
    gc.disable()
    try:
        list(time_rounds(Recorder(1).runners, IMAGE, rounds=1, burst=1))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_long_sleep_is_told_from_a_short_one(make_runner):
    slow, quick = measure_latency(
        [make_runner(sleep_s=0.02), make_runner(sleep_s=0.002)], IMAGE, rounds=3, burst=3
    )
    assert slow.value > quick.value
    assert slow.fastest > quick.fastest
    for measured in (slow, quick):
        assert measured.fastest <= measured.low <= measured.value <= measured.high <= measured.p95
        assert (measured.unit, measured.count) == ("ms", 3 * 3)
        assert measured.provenance.kind == "measured"


def test_a_latency_is_summarized_by_its_percentiles():
    measured = summarize_latency(np.arange(101.0).reshape(1, 101))
    assert measured.value == 50
    assert (measured.low, measured.high) == (25, 75)
    assert measured.p95 == 95
    assert measured.fastest == 0
    assert measured.count == 101


# Provenance


def test_a_provenance_in_words():
    measured = Provenance("measured", "some processor, 2 cores, AVX2", "2026-01-31 12:00")
    assert str(measured) == "measured: some processor, 2 cores, AVX2, 2026-01-31 12:00"
    assert str(Provenance("computed", "weights × bits / 8")) == "computed: weights × bits / 8"


def test_what_is_measured_now_names_this_machine():
    provenance = measured_now()
    assert provenance.kind == "measured"
    assert provenance.source == str(machine.describe())
    assert provenance.when
