"""Sweeps over batches: latency, throughput and memory, each beside the smallest batch."""

import functools
import re
from dataclasses import replace

import numpy as np
import pytest

from course_utils import devices, runtimes, sweep
from course_utils.measure import Measurement, compare, measured_now
from course_utils.measure.memory import InferenceMemory
from course_utils.sweep import batches as module
from course_utils.sweep.batches import BATCH

SIZES = [1, 2, 4, 8]


@pytest.fixture
def planted_memory(monkeypatch):
    """Let a call of n images seem to need n MiB, and 2 n later; note who was asked about."""
    asked = []

    def measure_memory(runner, images):
        asked.append(len(images))
        sizes = (5 * 2**20, len(images) * 2**20, 2 * len(images) * 2**20)
        return InferenceMemory(
            *(Measurement(size, "bytes", size, size, 1, measured_now()) for size in sizes)
        )

    monkeypatch.setattr(module, "measure_memory", measure_memory)
    return asked


@pytest.fixture
def measure(make_runner, tiny_split, planted_memory):
    """Return a function that measures two runners of which one takes twice as long."""

    def at(kind):
        return make_runner(sleep_s=0.001 if kind == "slow" else 0.0005)

    def measure(**options):
        options = {"batches": SIZES, "rounds": 10, "images": tiny_split.images} | options
        return sweep.measure_batches(at, over={"kind": ["slow", "fast"]}, **options)

    return measure


def test_the_batch_is_the_first_knob_and_the_smallest_the_baseline(measure):
    measured = measure()
    assert measured.knobs == {BATCH: SIZES, "kind": ["slow", "fast"]}
    assert measured.against == {BATCH: 1, "kind": "slow"}


def test_throughput_is_images_over_median_latency(measure):
    for point in measure().points:
        batch = point.setting[BATCH]
        for end, other in (("value", "value"), ("low", "high"), ("high", "low")):
            expected = 1000 * batch / getattr(point.latency, other)
            assert getattr(point.throughput, end) == pytest.approx(expected)
        assert point.throughput.unit == "images/s"


def test_memory_is_the_most_of_all_calls_and_the_note_has_the_rest(measure, planted_memory):
    for point in measure().points:
        batch = point.setting[BATCH]
        assert (point.memory.value, point.memory.unit) == (2 * batch, "MiB")
        assert point.memory.note == (
            f"beside 5.0 MiB for the loaded model; first call {batch:.1f} MiB"
        )
    assert planted_memory == [size for size in SIZES for _ in range(2)]


def test_a_speed_is_that_of_an_image_beside_the_smallest_batch_of_the_same(measure):
    measured = measure()
    for kind in ("slow", "fast"):
        one = measured.point(**{BATCH: 1, "kind": kind})
        assert one.throughput.note == "images / median latency"
        eight = measured.point(**{BATCH: 8, "kind": kind})
        ratio = re.search(r"each image ([\d.]+)× as fast", eight.throughput.note)
        assert float(ratio.group(1)) == pytest.approx(eight.gain.value, abs=0.01)
        assert eight.gain.value > 3  # a call takes as long for eight as for one, but for noise
        assert (one.gain.value, one.gain.low, one.gain.high) == (1, 1, 1)


def test_what_was_measured_is_read_back(measure, planted_memory):
    first = measure()
    planted_memory.clear()
    again = measure()
    assert planted_memory == []
    assert [p.metrics for p in again.points] == [p.metrics for p in first.points]


def test_other_batches_or_images_are_another_sweep(measure, planted_memory, tiny_split):
    measure()
    for options in ({"batches": [1, 3]}, {"images": tiny_split.images[:20]}):
        planted_memory.clear()
        measure(**options)
        assert planted_memory


def test_a_point_can_be_measured_again(measure, planted_memory):
    measured = measure()
    planted_memory.clear()
    again = measured.measure_again(**{BATCH: 4, "kind": "fast"})
    assert planted_memory == [1, 4]  # the smallest batch of the same, and itself
    assert again.throughput.value == pytest.approx(4000 / again.latency.value)


@pytest.mark.parametrize("sizes", [[0, 1], [1, 31], [-1], []])
def test_batches_that_do_not_fit_are_refused(measure, sizes):
    with pytest.raises(ValueError, match="do not fit 30 images"):
        measure(batches=sizes)


@pytest.mark.parametrize(
    ("gains", "knee"),
    [
        ([1, 2, 3, 3.1], 4),
        ([1, 2, 3, 9], 8),
        ([1, 1.05, 1.08, 1.02], 1),  # none is sure
        ([1, 0.5, 0.2, 0.1], 1),
        ([1, 1.5, 1.1, 0.9], 2),
    ],
)
def test_the_knee_is_the_smallest_batch_with_nearly_all_that_can_be_gained(measure, gains, knee):
    measured = measure()
    points = []
    for point in measured.points:
        value = gains[SIZES.index(point.setting[BATCH])]
        gain = replace(point.gain, value=value, low=0.9 * value, high=1.1 * value)
        points.append(replace(point, metrics={**point.metrics, "gain": gain}))
    assert sweep.find_knee(replace(measured, points=points), kind="fast") == knee


def test_a_real_network_is_measured_in_a_process_of_its_own(tiny_mlp, images):
    def at(network):
        return runtimes.build(tiny_mlp, images)

    measured = sweep.measure_batches(
        at, batches=[1, 40], over={"network": ["MLP"]}, images=images, rounds=10
    )
    one, forty = measured.points
    assert forty.latency.value > one.latency.value
    assert all(point.memory.value >= 0 for point in measured.points)
    assert np.isfinite([point.throughput.value for point in measured.points]).all()


# Without memory


def test_without_memory_nobody_is_asked_about_it(measure, planted_memory):
    measured = measure(with_memory=False, rounds=2)
    assert planted_memory == []
    for point in measured.points:
        assert list(point.metrics) == ["latency", "throughput", "gain"]
        batch = point.setting[BATCH]
        assert point.throughput.value == pytest.approx(1000 * batch / point.latency.value)


def test_the_words_speak_of_memory_only_where_it_is_measured(measure, capsys):
    for with_memory in (True, False):
        experiment = measure(with_memory=with_memory, rounds=2).experiment
        assert ("memory" in experiment.about) == with_memory
        assert experiment.about.endswith("is beside the smallest batch of the same")
        assert experiment.counting == ("memory" if with_memory else "building")
        assert ("memory" in capsys.readouterr().out) == with_memory


def test_with_and_without_memory_are_two_sweeps(measure, planted_memory):
    measure(with_memory=False, rounds=2)
    again = measure(rounds=2)
    assert planted_memory
    assert all("memory" in point.metrics for point in again.points)


def test_a_point_without_memory_can_be_measured_again(measure, planted_memory, monkeypatch):
    monkeypatch.setattr(sweep.sweep, "compare", functools.partial(compare, rounds=2))
    measured = measure(with_memory=False, rounds=2)
    again = measured.measure_again(**{BATCH: 4, "kind": "fast"})
    assert planted_memory == []
    assert list(again.metrics) == ["latency", "throughput", "gain"]


def test_a_runner_of_pytorch_is_measured_without_memory(tiny_mlp, images):
    def at(precision):
        here = devices.get_device("cpu")
        return runtimes.build_on_device(tiny_mlp, images, here, precision=precision)

    measured = sweep.measure_batches(
        at, batches=[1, 4], over={"precision": ["fp32"]}, images=images, with_memory=False, rounds=2
    )
    assert {point.runtime for point in measured.points} == {"PyTorch on cpu"}
    assert all(point.latency.value > 0 for point in measured.points)
