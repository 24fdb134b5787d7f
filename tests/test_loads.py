"""Sweeps over the offered load: what becomes of requests, in real time, with little to do."""

import numpy as np
import pytest

from course_utils import serving, sweep
from course_utils.sweep.loads import BATCHING, LOAD

LOADS = [20, 400]
WAYS = {"alone": 1, "together": 16}


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "built.txt"
    file.touch()
    return file


@pytest.fixture
def measure(make_runner, tiny_split, log):
    """Return a function that offers loads to a runner of about a millisecond a call."""

    def at():
        with log.open("a") as file:
            file.write("built\n")
        return make_runner(sleep_s=0.001)

    def measure(**options):
        settings = {"loads": LOADS, "batching": WAYS, "images": tiny_split.images}
        settings |= {"deadline_ms": 1000.0, "seconds": 0.1} | options
        return sweep.measure_loads(at, **settings)

    return measure


def test_the_knobs_are_load_and_way_of_batching(measure):
    measured = measure()
    assert measured.knobs == {LOAD: LOADS, BATCHING: list(WAYS)}
    assert measured.against == {LOAD: 20, BATCHING: "alone"}
    assert list(measured.points[0].metrics) == ["p50", "p95", "p99", "in time", "answered"]


def test_percentiles_and_shares_are_those_of_the_samples(measure):
    for point in measure(deadline_ms=5.0).points:
        for percent in (50, 95, 99):
            expected = np.percentile(point.samples, percent, method="inverted_cdf")
            assert point.metrics[f"p{percent}"].value == pytest.approx(expected, abs=1e-3)
        in_time = point.metrics["in time"]
        assert in_time.value == pytest.approx(100 * (point.samples <= 5).sum() / in_time.count)
        assert in_time.low <= in_time.value <= in_time.high
        assert len(point.samples) <= in_time.count


def test_a_deadline_that_no_request_meets_gives_nothing_in_time(measure):
    for point in measure(deadline_ms=1e-6).points:
        assert point.metrics["in time"].value == 0
        assert point.samples.size > 0  # they are answered, late


def test_batching_answers_more_of_an_overload_in_a_call(measure):
    measured = measure()
    alone, together = (measured.point(**{LOAD: 400, BATCHING: way}) for way in WAYS)
    calls = [
        float(p.answered.note.split("; ")[1].removesuffix(" a call")) for p in (alone, together)
    ]
    assert calls[0] == 1.0
    assert calls[1] > 1.5


def test_overload_ends_and_is_shown(measure, monkeypatch):
    monkeypatch.setattr(
        serving.serve, "__kwdefaults__", {**serving.serve.__kwdefaults__, "capacity": 4}
    )
    point = measure(loads=[1000], batching={"alone": 1}).points[0]
    rejected = int(point.metrics["in time"].note.split("; ")[1].split(" ")[0])
    assert rejected > 0
    assert point.metrics["in time"].value < 100


def test_what_was_measured_is_read_back_with_its_samples(measure, log):
    first = measure()
    built = len(log.read_text().splitlines())
    again = measure()
    assert len(log.read_text().splitlines()) == built
    for new, read in zip(first.points, again.points, strict=True):
        assert read.metrics == new.metrics
        assert np.array_equal(read.samples, new.samples)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline_ms": 7.0},
        {"seconds": 0.12},
        {"loads": [20]},
        {"batching": {"alone": 1, "together": 8}},
    ],
)
def test_another_deadline_time_load_or_batch_is_another_sweep(measure, log, options):
    measure()
    built = len(log.read_text().splitlines())
    measure(**options)
    assert len(log.read_text().splitlines()) > built


def test_a_load_can_be_offered_again(measure):
    measured = measure()
    again = measured.measure_again(**{LOAD: 20, BATCHING: "together"})
    assert again.setting == {LOAD: 20, BATCHING: "together"}
    assert again.p50.value > 0
