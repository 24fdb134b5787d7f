"""Sweeps: every setting is measured once, kept as soon as it is, and never lost or mistaken."""

import copy
import errno
import functools
import json
import os
import pickle
import re
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from interrupting import time_until_interrupted

from course_utils import folders, sweep
from course_utils.measure import Measurement, Provenance, compare, find_right, latency
from course_utils.measure.turns import MOST_CALLS
from course_utils.sweep import classifier

BITS = [2, 4, 8]
SCHEMES = ["per channel", "per tensor"]
OVER = {"bits": BITS, "scheme": SCHEMES}
AGAINST = {"bits": 8, "scheme": "per channel"}
RIGHT = {(bits, scheme): bits + 10 * SCHEMES.index(scheme) for bits in BITS for scheme in SCHEMES}
ROUNDS = 10  # fewer have no interval
HERE = Provenance("computed", "the bits")


@pytest.fixture
def log(tmp_path) -> Path:
    """Return a file with a line for each runner that ``at`` built.

    A list in ``at``'s closure would be a part of the cache's key, and change it.
    """
    file = tmp_path / "built.txt"
    file.touch()
    return file


@pytest.fixture
def at(make_runner, log):
    """Return what a lab measures: it is right on ``RIGHT[setting]`` of 30 images."""

    def at(bits, scheme):
        with log.open("a") as file:
            file.write(f"{bits} {scheme}\n")
        return make_runner(right=RIGHT[bits, scheme], size_bytes=100 * bits, kernel=f"{bits} bits")

    return at


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    """Let a point be measured again in a moment: what it finds is not the matter here."""
    monkeypatch.setattr(sweep.sweep, "compare", functools.partial(compare, rounds=2))


@pytest.fixture
def measure(at, tiny_split):
    """Return a function that does the same sweep each time it is called."""

    def measure(over=OVER, **options):
        options = {"on": tiny_split, "against": AGAINST, "rounds": ROUNDS} | options
        return sweep.measure(at, over=over, **options)

    return measure


def count_built(log: Path) -> int:
    return len(log.read_text().splitlines())


def cache_file() -> Path:
    (file,) = (folders.cache_folder() / "sweeps").glob("*.journal")
    return file


def line_of(entry: dict) -> str:
    """Return an undamaged line of a cache."""
    text = json.dumps(entry)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def entries(kind: str) -> list[dict]:
    """Return the entries of a kind in the cache, which has to be undamaged."""
    lines = [line for line in cache_file().read_text().splitlines() if line]
    found = [json.loads(line[9:]) for line in lines]
    assert lines == [line_of(entry) for entry in found]
    return [entry for entry in found if entry["kind"] == kind]


def assert_complete(measured, rounds: int = ROUNDS) -> None:
    """Check what a sweep of ``at`` holds, however it came about."""
    assert [point.setting for point in measured.points] == [
        {"bits": bits, "scheme": scheme} for bits in BITS for scheme in SCHEMES
    ]
    for point in measured.points:
        right = RIGHT[point.setting["bits"], point.setting["scheme"]]
        assert point.accuracy.value == pytest.approx(100 * right / 30)
        assert point.gain.value == pytest.approx(100 * (right - RIGHT[8, "per channel"]) / 30)
        assert point.size.value == 100 * point.setting["bits"]
        assert point.latency.count == rounds * MOST_CALLS
        assert point.latency.value > 0
        assert point.speed.count == rounds
        assert 0 < point.speed.low <= point.speed.value <= point.speed.high
    baseline = measured.baseline
    assert (baseline.gain.value, baseline.gain.low, baseline.gain.high) == (0, 0, 0)
    assert (baseline.speed.value, baseline.speed.low, baseline.speed.high) == (1, 1, 1)


# What a sweep holds


def test_the_last_knob_varies_fastest(measure):
    measured = measure()
    assert measured.knobs == OVER
    assert_complete(measured)


def test_a_point_tells_what_ran_and_where_it_was_measured(measure):
    point = measure().point(bits=4, scheme="per tensor")
    assert point.setting == {"bits": 4, "scheme": "per tensor"}
    assert (point.runtime, point.kernel, point.remark) == ("planted runtime", "4 bits", "")
    assert (point.accuracy.unit, point.latency.unit, point.size.unit) == ("%", "ms", "bytes")
    assert (point.gain.unit, point.speed.unit) == ("points", "×")
    assert point.accuracy.count == point.gain.count == 30
    for measurement in (point.accuracy, point.gain, point.latency, point.speed, point.size):
        assert measurement.provenance.kind == "measured"
        assert measurement.provenance.when


def test_the_baseline_is_the_setting_that_others_are_compared_with(measure):
    assert measure().baseline.setting == AGAINST


def test_one_knob_and_one_value_are_enough(make_runner, tiny_split, capsys):
    measured = sweep.measure(
        lambda bits: make_runner(right=15),
        over={"bits": [4]},
        on=tiny_split,
        against={"bits": 4},
        rounds=1,
    )
    assert measured.baseline.accuracy.value == 50
    assert "\r1 setting, 30 test images each: measured on this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "setting", [{}, {"bits": 4}, {"bits": 5, "scheme": "per tensor"}, {"width": 4}]
)
def test_a_setting_that_was_not_measured_is_refused_with_the_knobs(measure, setting):
    measured = measure()
    with pytest.raises(ValueError, match=r"was not measured; the knobs are .*'bits': \[2, 4, 8\]"):
        measured.point(**setting)


@pytest.mark.parametrize("against", [{}, {"bits": 8}, {"bits": 5, "scheme": "per channel"}])
def test_a_sweep_against_a_setting_that_it_lacks_is_refused(measure, log, against):
    with pytest.raises(ValueError, match=re.escape(f"against={against} is none of the settings")):
        measure(against=against)
    assert count_built(log) == 0


def test_a_knob_without_values_is_refused(measure):
    with pytest.raises(ValueError, match="none of the settings"):
        measure(over=OVER | {"bits": []})


def test_accuracies_can_be_counted_by_an_executor(measure):
    with ThreadPoolExecutor(2) as threads:
        assert_complete(measure(executor=threads))
    assert len(entries("point")) == 6


# Images a call


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Return a list that grows with the batch of each counting of an accuracy."""
    asked = []

    def count_and_note(runner, split, batch):
        asked.append(batch)
        return find_right(runner, split, batch)

    monkeypatch.setattr(classifier, "find_right", count_and_note)
    return asked


@pytest.mark.parametrize("batch", [1, 7, 30, 100])
def test_each_accuracy_is_counted_on_batches_of_the_size_wished_for(measure, batches, batch):
    measured = measure(batch=batch)
    assert batches == [batch] * 6
    assert measured.experiment.batch == batch
    assert_complete(measured)


def test_an_executor_counts_on_batches_of_this_size_too(measure, batches):
    with ThreadPoolExecutor(2) as threads:
        assert_complete(measure(executor=threads, batch=6))
    assert batches == [6] * 6


def test_a_runner_really_gets_so_many_images(make_runner, tiny_split):
    sizes = []

    def note(images):
        sizes.append(len(images))
        return make_runner()(images)

    def at(bits):
        return replace(make_runner(), run=note)

    options = {"over": {"bits": [4]}, "on": tiny_split, "against": {"bits": 4}, "rounds": 1}
    sweep.measure(at, **options, batch=12)
    assert sizes[:3] == [12, 12, 6]
    assert set(sizes[3:]) == {1}  # those that are timed


def test_another_runner_can_count_the_accuracy(make_runner, measure):
    def count_with(bits, scheme):
        return make_runner(right=3 * bits, size_bytes=7)

    measured = measure(count_with=count_with)
    for point in measured.points:
        bits = point.setting["bits"]
        assert point.accuracy.value == pytest.approx(100 * 3 * bits / 30)
        assert point.size.value == 100 * bits  # of the runner that is timed
        assert point.kernel == f"{bits} bits"


def test_one_runner_is_counted_once_for_several_settings(make_runner, measure, batches):
    counters = {bits: make_runner(right=bits) for bits in BITS}
    measured = measure(count_with=lambda bits, scheme: counters[bits])
    assert len(batches) == len(BITS)
    for point in measured.points:
        assert point.accuracy.value == pytest.approx(100 * point.setting["bits"] / 30)


def test_a_lab_can_have_metrics_of_its_own_that_are_kept(measure, log):
    def also(bits, scheme):
        low, high = bits - 0.5, bits + 0.5
        return {"depth": Measurement(bits, "m", low, high, 5, HERE, note=f"of {scheme}")}

    first = measure(also=also)
    built = count_built(log)
    again = measure(also=also)
    assert count_built(log) == built  # read back
    for point in (*first.points, *again.points, first.measure_again(**AGAINST)):
        depth, bits = point.depth, point.setting["bits"]
        assert (depth.value, depth.unit, depth.count) == (bits, "m", 5)
        assert (depth.low, depth.high) == (bits - 0.5, bits + 0.5)
        assert depth.note == f"of {point.setting['scheme']}"
        assert depth.provenance == HERE  # computed: it stays so
    assert list(first.points[0].metrics)[-1] == "depth"


def test_other_metrics_or_another_counter_are_another_sweep(measure, make_runner, log):
    measure()
    measure(count_with=lambda bits, scheme: make_runner(right=1))
    measure(also=lambda bits, scheme: {})
    assert count_built(log) == 3 * len(RIGHT)


def test_without_a_wish_ten_images_are_a_batch(measure, batches):
    assert measure().experiment.batch == 10
    assert batches == [10] * 6


def test_a_point_is_measured_again_with_the_batch_of_the_sweep(measure, batches):
    measured = measure(batch=15)
    batches.clear()
    measured.measure_again(bits=2, scheme="per tensor")
    assert batches == [15, 15]  # it and the baseline


def test_a_sweep_that_is_read_back_has_its_batch(measure, batches):
    measure(batch=15)
    batches.clear()
    measured = measure(batch=15)
    assert batches == []
    assert measured.experiment.batch == 15
    measured.measure_again(bits=2, scheme="per tensor")
    assert batches == [15, 15]


# How long it times


def test_without_a_number_of_rounds_the_time_limit_ends_the_timing(
    measure, log, monkeypatch, capsys
):
    def ended_late(*runners, rounds, limit_s, **options):
        assert (rounds, limit_s) == (None, sweep.sweep.LIMIT_S)
        return replace(latency.compare(*runners, rounds=ROUNDS, **options), ended="time limit")

    monkeypatch.setattr(sweep.sweep, "compare", ended_late)
    first = measure(rounds=None)
    (timed,) = entries("timed")
    assert timed["ended"] == "time limit"
    late = "The time limit ended the timing: some speeds are known less well than to ±5 %."
    assert late in capsys.readouterr().out
    assert_complete(first)
    second = measure(rounds=None)
    assert count_built(log) == 6
    assert late in capsys.readouterr().out  # it still is so
    assert [point.speed for point in second.points] == [point.speed for point in first.points]


def test_a_sweep_whose_speeds_are_known_well_says_nothing_of_a_limit(measure, monkeypatch, capsys):
    def ended_precise(*runners, **options):
        return replace(latency.compare(*runners, **options), ended="precise")

    monkeypatch.setattr(sweep.sweep, "compare", ended_precise)
    assert_complete(measure())
    assert "time limit" not in capsys.readouterr().out


def test_the_cache_keeps_how_busy_others_kept_the_machine(measure):
    measured = measure()
    note = measured.baseline.speed.provenance.note
    assert "cores busy" in note
    assert entries("timed")[0]["note"] == note
    assert measured.provenance == measured.baseline.accuracy.provenance
    assert measured.provenance.note == note


# Other experiments


class Counting(sweep.Experiment):
    """An experiment that times nothing: it counts the bytes of what ships, twice."""

    counting = "bytes"
    titles = MappingProxyType({"twice": "twice the bytes"})

    def __init__(self, at):
        self.at = at

    @property
    def about(self):
        return "counted by hand"

    @property
    def key(self):
        return (self.at,)

    def prepare(self, setting):
        return self.at(**setting)

    def count(self, runner, setting):
        return {"bytes": runner.size_bytes, "bits": setting["bits"]}

    def measurements(self, found, baseline):
        def measurement(value, unit):
            return Measurement(value, unit, value, value, 1, found.measured)

        size = found.facts["bytes"]
        times = size / baseline.facts["bytes"]
        return {"twice": measurement(2 * size, "bytes"), "larger": measurement(times, "×")}

    def samples(self, found):
        return np.arange(found.facts["bits"])


@pytest.fixture
def count_bytes(at):
    """Return a function that does the same sweep of ``Counting`` each time."""
    return lambda **options: sweep.run(Counting(at), OVER, AGAINST, **options)


def test_an_experiment_has_metrics_of_its_own(count_bytes, capsys):
    measured = count_bytes()
    assert isinstance(measured.experiment, Counting)
    for point in measured.points:
        assert list(point.metrics) == ["twice", "larger"]
        assert point.twice.value == 2 * 100 * point.setting["bits"]
        assert point.larger.value == point.setting["bits"] / 8
        assert point.samples.tolist() == list(range(point.setting["bits"]))
        assert point.kernel == f"{point.setting['bits']} bits"
    assert measured.provenance.kind == "measured"
    assert measured.provenance.when
    assert (
        "6 settings, counted by hand: measured on this machine just now" in capsys.readouterr().out
    )


def test_what_is_not_timed_is_not_timed(count_bytes, monkeypatch):
    monkeypatch.setattr(sweep.sweep, "compare", Interrupting(latency.compare, 0))
    assert len(count_bytes().points) == 6
    again = count_bytes().measure_again(bits=2, scheme="per tensor")
    assert (again.twice.value, again.larger.value) == (400, 0.25)
    assert entries("round") == entries("timed") == []


def test_an_experiment_that_is_not_timed_is_read_back_and_goes_on(count_bytes, log, capsys):
    first = count_bytes()
    assert count_built(log) == 6
    assert count_bytes().points == first.points
    assert count_built(log) == 6
    assert f"on {first.provenance.when}, in" in capsys.readouterr().out
    lines = cache_file().read_text().splitlines()
    cache_file().write_text("\n".join(lines[:-2]) + "\n")
    assert [point.metrics.keys() for point in count_bytes().points] == [{"twice", "larger"}] * 6
    assert count_built(log) == 6 + 1


def test_an_experiment_can_be_counted_by_an_executor(count_bytes):
    with ThreadPoolExecutor(2) as threads:
        assert count_bytes(executor=threads).point(bits=4, scheme="per tensor").larger.value == 0.5


def test_two_experiments_have_two_caches(count_bytes, measure):
    count_bytes()
    measure()
    assert len(list((folders.cache_folder() / "sweeps").glob("*.journal"))) == 2


def test_a_metric_that_a_point_lacks_is_named_with_those_it_has(count_bytes):
    point = count_bytes().baseline
    with pytest.raises(AttributeError, match=r"no metric 'latency' here; there are \['twice', 'la"):
        _ = point.latency
    assert repr(pickle.loads(pickle.dumps(copy.copy(point)))) == repr(point)


def test_a_point_can_be_compared_with_a_baseline_of_its_own(at):
    class BesideItsScheme(Counting):
        def baseline_of(self, setting, against):
            return {**setting, "bits": 2}

    measured = sweep.run(BesideItsScheme(at), OVER, AGAINST)
    for point in (*measured.points, measured.measure_again(bits=8, scheme="per tensor")):
        assert point.larger.value == point.setting["bits"] / 2


# Measuring a point again


def test_a_point_measured_again_is_new(measure, log):
    measured = measure()
    before = measured.point(bits=2, scheme="per tensor")
    built = count_built(log)
    again = measured.measure_again(bits=2, scheme="per tensor")
    assert count_built(log) == built + 2  # it and the baseline, for the latency
    assert again is not before
    assert again.setting == before.setting
    assert again.accuracy.value == before.accuracy.value
    assert again.gain.value == before.gain.value == pytest.approx(100 * (12 - 8) / 30)
    assert again.speed.value > 0
    assert again.latency.value > 0
    assert measured.point(bits=2, scheme="per tensor") is before


def test_a_point_that_does_not_exist_cannot_be_measured_again(measure):
    with pytest.raises(ValueError, match="was not measured"):
        measure().measure_again(bits=3, scheme="per tensor")


# The cache


def test_a_second_sweep_measures_nothing(measure, log, capsys):
    first = measure()
    assert count_built(log) == 6
    assert (
        "6 settings, 30 test images each: measured on this machine just now"
        in capsys.readouterr().out
    )
    second = measure()
    assert count_built(log) == 6
    assert [point.latency for point in second.points] == [point.latency for point in first.points]
    assert f"on {first.points[0].latency.provenance.when}" in capsys.readouterr().out


def test_points_read_back_are_the_points_measured(measure):
    for new, read in zip(measure().points, measure().points, strict=True):
        assert read.setting == new.setting
        assert (read.runtime, read.kernel, read.remark) == (new.runtime, new.kernel, new.remark)
        assert (read.latency, read.speed, read.size) == (new.latency, new.speed, new.size)
        assert (read.accuracy, read.gain) == (new.accuracy, new.gain)


def test_the_cache_holds_which_answers_were_right(measure):
    measure()
    kept = entries("point")
    assert [entry["index"] for entry in kept] == list(range(6))
    for entry, right in zip(kept, RIGHT.values(), strict=True):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["right"]), np.uint8))
        assert bits[: entry["images"]].tolist() == [1] * right + [0] * (30 - right)


def test_speeds_compare_times_of_the_same_rounds(measure):
    measured = measure()
    times_ms = np.stack([turn["times_ms"] for turn in entries("round")], axis=1)
    assert times_ms.shape == (6, ROUNDS, MOST_CALLS)
    base = measured.points.index(measured.baseline)
    order = [base, *(n for n in range(6) if n != base)]  # the baseline is timed as the first
    medians = dict(zip(order, np.median(times_ms, axis=2), strict=True))
    for n, point in enumerate(measured.points):
        assert point.speed.value == pytest.approx(np.median(medians[base] / medians[n]))


def test_other_values_images_rounds_or_batches_are_another_sweep(measure, log, tiny_split):
    measure()
    for options in (
        {"over": OVER | {"bits": [2, 8]}},
        {"on": tiny_split.first(20)},
        {"rounds": 2},
        {"batch": 5},
    ):
        before = count_built(log)
        measure(**options)
        assert count_built(log) > before


# Broken off


class Interrupting:
    """Lets a function be called a number of times, and then interrupts."""

    def __init__(self, function, calls):
        self.function, self.calls = function, calls

    def __call__(self, *arguments):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        return self.function(*arguments)


@pytest.mark.parametrize("finished", [0, 1, 4, 5])
def test_interrupted_while_counting_only_the_rest_is_measured(
    measure, log, monkeypatch, capsys, finished
):
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "find_right", Interrupting(find_right, finished))
        with pytest.raises(KeyboardInterrupt):
            measure()
    assert f"{finished} of 6 points are kept; run it again to go on" in capsys.readouterr().out
    counted = []
    monkeypatch.setattr(
        classifier, "find_right", lambda *given: counted.append(1) or find_right(*given)
    )
    assert_complete(measure())
    assert len(counted) == 6 - finished
    assert len(entries("point")) == 6


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_interrupted_while_timing_only_the_missing_rounds_are_made(measure, monkeypatch, finished):
    with monkeypatch.context() as patch:
        patch.setattr(latency, "time_rounds", time_until_interrupted(finished))
        with pytest.raises(KeyboardInterrupt):
            measure()
    kept = entries("round") if finished else []
    assert len(kept) == finished
    monkeypatch.setattr(classifier, "find_right", Interrupting(find_right, 0))
    assert_complete(measure())  # no accuracy is counted again
    assert entries("round")[:finished] == kept
    assert len(entries("round")) == ROUNDS


def test_an_error_in_a_setting_keeps_the_settings_before_it(make_runner, tiny_split, tmp_path):
    allowed = tmp_path / "allowed"

    def at(bits):
        if bits == 8 and not allowed.exists():
            raise RuntimeError("no such kernel")
        return make_runner(right=bits)

    options = {"over": {"bits": BITS}, "on": tiny_split, "against": {"bits": 2}, "rounds": 1}
    with pytest.raises(RuntimeError, match="no such kernel"):
        sweep.measure(at, **options)
    assert [entry["index"] for entry in entries("point")] == [0, 1]
    allowed.touch()
    assert len(sweep.measure(at, **options).points) == 3


# A damaged cache


def test_a_cache_cut_off_anywhere_loses_at_most_the_line_that_was_cut(make_runner, tiny_split):
    options = {"over": {"bits": [2, 4]}, "on": tiny_split, "against": {"bits": 2}, "rounds": 2}

    def at(bits):
        return make_runner(right=bits)

    sweep.measure(at, **options)
    file = cache_file()
    content = file.read_bytes()
    newlines = [place for place, byte in enumerate(content) if byte == ord("\n")]
    near_a_newline = {place + step for place in newlines for step in (-1, 0, 1)}
    for length in sorted(near_a_newline | set(range(0, len(content), 11))):
        file.write_bytes(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measured = sweep.measure(at, **options)
        assert [point.accuracy.value for point in measured.points] == [200 / 30, 400 / 30]
        assert [point.latency.count for point in measured.points] == [
            2 * MOST_CALLS,
            2 * MOST_CALLS,
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = sweep.measure(at, **options)
        assert [p.latency for p in again.points] == [p.latency for p in measured.points]


def test_a_changed_byte_anywhere_gives_no_wrong_number(make_runner, tiny_split):
    options = {"over": {"bits": [2, 4]}, "on": tiny_split, "against": {"bits": 2}, "rounds": 2}

    def at(bits):
        return make_runner(right=bits)

    sweep.measure(at, **options)
    content = cache_file().read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1  # a digit becomes another digit
        cache_file().write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measured = sweep.measure(at, **options)
        assert [point.accuracy.value for point in measured.points] == [200 / 30, 400 / 30]
        assert [point.gain.value for point in measured.points] == pytest.approx([0, 200 / 30])
        assert [point.size.value for point in measured.points] == [100, 100]
        assert [point.latency.count for point in measured.points] == [
            2 * MOST_CALLS,
            2 * MOST_CALLS,
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = sweep.measure(at, **options)
        assert again.points == measured.points


@pytest.mark.parametrize("lost", [1, 4, ROUNDS])
def test_rounds_that_are_lost_are_timed_again(measure, lost):
    measure()
    is_round = '"kind": "round"'
    lines = cache_file().read_text().splitlines()
    damaged = [n for n, line in enumerate(lines) if is_round in line][:lost]
    for n in damaged:
        lines[n] = lines[n].replace("0", "1", 1)
    cache_file().write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=rf"has {lost} damaged lines?; what they held is measured"):
        assert_complete(measure())


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        '{"kind": "point", "index": 0, "seco',
        "null",
        "42",
        "[]",
        '"text"',
        "{}",
        '{"kind": 3}',
        '{"kind": "point"}',
        '{"kind": "round"}',
        '{"kind": "something else"}',
        "\x00\x00\x00\x00",
    ],
)
@pytest.mark.parametrize("place", ["middle", "end"])
def test_a_line_of_garbage_is_left_out(measure, log, line, place):
    first = measure()
    lines = cache_file().read_text().splitlines()
    lines.insert(2 if place == "middle" else len(lines), line)
    cache_file().write_text("\n".join(lines) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = measure()
    assert count_built(log) == 6
    assert [p.latency for p in read.points] == [p.latency for p in first.points]


def test_a_damaged_line_is_told_and_measured_again(measure, log):
    measure()
    header, first, *others = [line for line in cache_file().read_text().splitlines() if line]
    cache_file().write_text("\n".join([header, first[:-20], *others]) + "\n")
    with pytest.warns(UserWarning, match=r"has 1 damaged line.*measured again"):
        assert_complete(measure())
    assert count_built(log) == 6 + 1


def test_bytes_that_are_no_text_do_not_stop_a_sweep(measure):
    measure()
    content = bytearray(cache_file().read_bytes())
    content[len(content) // 2] = 0xFF
    cache_file().write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_complete(measure())


def test_a_cache_of_another_machine_is_put_aside(measure, log):
    measure()
    header, *others = cache_file().read_text().splitlines()
    foreign = json.loads(header[9:]) | {"machine": "another one"}
    cache_file().write_text("\n".join([line_of(foreign), *others]) + "\n")
    written = cache_file().read_bytes()
    with pytest.warns(UserWarning, match=r"another machine; it is put aside.*measured anew"):
        assert_complete(measure())
    assert count_built(log) == 6 + 6
    aside = [path for path in cache_file().parent.iterdir() if path != cache_file()]
    assert [path.read_bytes() for path in aside] == [written]
    measure()  # the new one is whole
    assert count_built(log) == 6 + 6


# A cache that cannot be written


def assert_works_with_one_warning(measure):
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        measured = measure()
    assert_complete(measured)
    (told,) = [str(warning.message) for warning in given]
    assert "cannot be kept" in told
    assert "set INFERENCE_MEASURED_CACHE to a folder that can be written to" in told
    return told


def test_a_file_in_place_of_the_folder(measure, log, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("not a folder")
    monkeypatch.setenv("INFERENCE_MEASURED_CACHE", str(tmp_path / "a file"))
    assert_works_with_one_warning(measure)
    assert_works_with_one_warning(measure)
    assert count_built(log) == 6 + 6  # nothing could be kept
    assert (tmp_path / "a file").read_text() == "not a folder"


@contextmanager
def writing_refused(number: int, after: int):
    """Refuse to write to the cache, after some writes that succeed."""
    really_open = Path.open
    written = []

    def refusing_open(path, mode="r", *options, **named):
        if mode != "r" and folders.cache_folder() in path.parents:
            written.append(path)
            if len(written) > after:
                raise OSError(number, os.strerror(number), str(path))
        return really_open(path, mode, *options, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refusing_open)
        yield


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_disk_that_is_full_or_cannot_be_written(measure, number, after):
    with writing_refused(number, after):
        told = assert_works_with_one_warning(measure)
    assert os.strerror(number) in told


def test_what_was_written_before_the_disk_was_full_is_used(measure, log):
    with writing_refused(errno.ENOSPC, after=4):
        assert_works_with_one_warning(measure)
    assert len(entries("point")) == 4
    built = count_built(log)
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            classifier, "find_right", lambda *given: counted.append(1) or find_right(*given)
        )
        assert_complete(measure())
    assert len(counted) == 6 - 4
    assert count_built(log) == built + 6  # all are timed
