"""Points that were not measured here: computed by a formula, or recorded on another device."""

import math
from dataclasses import replace

import numpy as np
import pytest

from course_utils import lab, measure, published, sweep
from course_utils.measure import Measurement, Provenance
from course_utils.sweep.batches import BATCH

ELSEWHERE = Provenance("recorded", "another machine", "2026-01-01")


def square(side, sign):
    return {"area": measure.computed(sign * side**2, "m²", "side × side", f"side {side}")}


@pytest.fixture
def squares():
    knobs = {"side": [1, 2, 3], "sign": [1, -1]}
    start = {"side": 1, "sign": 1}
    return sweep.compute(square, over=knobs, against=start, about="areas of squares")


def test_a_formula_gives_a_point_for_each_setting(squares):
    assert [point.area.value for point in squares.points] == [1, -1, 4, -4, 9, -9]
    assert squares.point(side=3, sign=-1).area.note == "side 3"
    assert {str(point.area.provenance) for point in squares.points} == {"computed: side × side"}


def test_a_computed_point_cannot_be_measured_again(squares):
    with pytest.raises(ValueError, match="computed, not measured here"):
        squares.measure_again(side=1, sign=1)
    with pytest.raises(ValueError, match="nothing is there to run"):
        squares.experiment.prepare({"side": 1, "sign": 1})


def test_a_setting_that_was_not_computed_is_refused_in_these_words(squares):
    with pytest.raises(ValueError, match=r"was not computed; the knobs are .*'side': \[1, 2, 3\]"):
        squares.point(side=4, sign=1)


def test_a_panel_says_that_its_points_are_computed(squares):
    panel = lab.Panel(squares, "Squares", charts=["area"])
    assert not panel.spec["isMeasured"]
    assert panel.spec["provenance"] == "computed: side × side; areas of squares"
    with pytest.raises(ValueError, match="computed"):
        panel.measure_again()


def test_a_setting_to_start_at_has_to_be_there():
    with pytest.raises(ValueError, match="none of the settings"):
        sweep.compute(square, over={"side": [1], "sign": [1]}, against={"side": 2}, about="")


@pytest.fixture
def calls(make_runner, tiny_split):
    """Calls of 1 and 4 images on one device, without memory."""
    return sweep.measure_batches(
        lambda where: make_runner(),
        batches=[1, 4],
        over={"where": ["here"]},
        images=tiny_split.images,
        with_memory=False,
        rounds=10,
    )


def recall(batch, **others):
    assert not others
    ms = {1: 2.0, 4: 4.0}[batch]
    return Measurement(ms, "ms", ms / 2, 2 * ms, 9, ELSEWHERE)


def test_recorded_calls_stand_beside_those_measured_here(calls):
    both = sweep.add_calls(calls, "where", "far away", recall)
    assert both.knobs == {BATCH: [1, 4], "where": ["here", "far away"]}
    assert both.point(**{BATCH: 4, "where": "here"}) == calls.point(**{BATCH: 4, "where": "here"})
    there = both.point(**{BATCH: 4, "where": "far away"})
    assert there.throughput.value == 1000
    assert (there.throughput.low, there.throughput.high) == (500, 2000)
    assert there.gain.value == pytest.approx(2)  # 2 ms an image alone, 1 ms in fours
    assert {found.provenance for found in there.metrics.values()} == {ELSEWHERE}
    assert lab.Panel(both, "Calls", charts=["latency", "throughput"]).to_png()


def test_a_recorded_point_is_not_measured_again(calls):
    both = sweep.add_calls(calls, "where", "far away", recall)
    with pytest.raises(ValueError, match="recorded, not measured here"):
        both.measure_again(**{BATCH: 1, "where": "far away"})
    assert both.measure_again(**{BATCH: 1, "where": "here"}).latency.value > 0


def test_missing_records_and_names_that_are_taken_are_refused(calls):
    with pytest.raises(ValueError, match="no record of"):
        sweep.add_calls(calls, "where", "far away", lambda batch: None)
    with pytest.raises(ValueError, match="is there already"):
        sweep.add_calls(calls, "where", "here", recall)


def test_a_timed_call_can_get_several_images(make_runner, tiny_split):
    seen = []

    def at(kind):
        runner = make_runner()
        return replace(runner, run=lambda batch: seen.append(len(batch)) or runner.run(batch))

    found = sweep.measure(
        at, over={"kind": ["a"]}, on=tiny_split, against={"kind": "a"}, images_a_call=3, rounds=5
    )
    assert seen.count(3) >= 5
    assert found.experiment.titles["latency"] == "latency of 3 images"
    with pytest.raises(ValueError, match="1 to"):
        sweep.measure(
            at, over={"kind": ["a"]}, on=tiny_split, against={"kind": "a"}, images_a_call=0
        )


@pytest.mark.parametrize("one", published.RESNET50, ids=lambda one: one.name)
def test_published_rows_have_a_source_and_grow_with_the_batch(one):
    assert all((one.source, one.date, one.differs))
    assert list(one.values) == [2**power for power in range(9)]
    rates = np.array(list(one.values.values()))
    assert (rates > 0).all()
    assert rates[-1] > rates[0]
    assert one.provenance.kind == "cited"


def test_wider_numbers_cost_more_energy():
    for operation in ("add", "multiply"):
        costs = [published.ENERGY_PJ[f"{kind} {operation}"] for kind in ("int8", "fp16", "fp32")]
        assert costs == sorted(costs)
    assert all(math.isfinite(cost) and cost > 0 for cost in published.ENERGY_PJ.values())
