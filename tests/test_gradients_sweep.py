"""Sweeps over the scale of the loss: what was counted, kept and said."""

import re

import numpy as np
import pytest
import torch

from course_utils import sweep
from course_utils.datasets import Split
from course_utils.gradients import cast_gradients, find_gradients, tell_fate
from course_utils.sweep import gradients
from course_utils.sweep.gradients import DOUBLINGS, FORMAT

COUNTS = [0, 10, 40]
FORMATS = ["fp16", "bf16", "fp8 E5M2"]


@pytest.fixture
def split(images):
    return Split(images, np.arange(40) % 10)


@pytest.fixture
def measure(tiny_mlp, split):
    def measure(model=tiny_mlp, **options):
        settings = {"doublings": COUNTS, "number_formats": FORMATS, "on": split}
        return sweep.measure_gradients(model, **{**settings, **options})

    return measure


@pytest.fixture
def passes(monkeypatch):
    """Return the list of precisions in which a pass was made."""
    made = []

    def find(*args, **options):
        made.append(options["precision"])
        return find_gradients(*args, **options)

    monkeypatch.setattr(gradients, "find_gradients", find)
    return made


def test_the_knobs_are_doublings_and_format(measure):
    measured = measure()
    assert measured.knobs == {DOUBLINGS: COUNTS, FORMAT: FORMATS}
    assert measured.against == {DOUBLINGS: 0, FORMAT: "fp16"}
    assert list(measured.points[0].metrics) == ["underflow", "subnormal", "overflow"]


def test_shares_are_those_of_a_pass_or_of_a_cast(measure, tiny_mlp, split):
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    exact = find_gradients(tiny_mlp, images, labels)
    for point in measure().points:
        name, scale = point.setting[FORMAT], 2.0 ** point.setting[DOUBLINGS]
        held = cast_gradients(exact, name, scale)
        if name != "fp8 E5M2":
            held = find_gradients(tiny_mlp, images, labels, precision=name, loss_scale=scale)
        fate = tell_fate(exact, held, name)
        for metric, found in point.metrics.items():
            assert found.value == 100 * getattr(fate, metric)
            assert found.unit == "%"
            assert found.count == fate.count
            assert f"loss × {scale:,.0f}" in found.note


def test_a_point_says_whether_the_pass_was_in_the_format(measure):
    measured = measure()
    ran = {name: measured.point(**{DOUBLINGS: 0, FORMAT: name}) for name in measured.knobs[FORMAT]}
    assert ran["fp16"].kernel == "a backward pass in fp16"
    assert ran["fp16"].remark == ""
    assert ran["fp8 E5M2"].kernel == "a backward pass in fp32"
    assert ran["fp8 E5M2"].remark == "gradients cast to fp8 E5M2"


def test_an_overflow_in_a_pass_is_told_beside_that_of_a_cast(measure):
    setting = {DOUBLINGS: 22, FORMAT: "fp16"}
    point = measure(number_formats=["fp16"], doublings=[22]).point(**setting)
    told = re.fullmatch(
        r"too large to be held; loss × 4,194,304; (.*) % if gradients of fp32 are cast",
        point.overflow.note,
    )
    assert 0 < float(told[1]) < 50 < point.overflow.value
    exact = measure(number_formats=["fp32"], doublings=[22]).points[0]
    assert exact.overflow.value == 0
    assert exact.overflow.note == "too large to be held; loss × 4,194,304"


def test_samples_are_magnitudes_in_fp32_scaled(measure, tiny_mlp, split):
    exact = find_gradients(tiny_mlp, torch.from_numpy(split.images), torch.from_numpy(split.labels))
    sizes = torch.cat([gradient.flatten().abs() for gradient in exact.values()]).numpy()
    sizes = sizes[sizes > 0].astype(float)
    for point in measure().points:
        scaled = sizes * 2.0 ** point.setting[DOUBLINGS]
        assert len(point.samples) == min(len(sizes), gradients.SAMPLES)
        assert (point.samples.min(), point.samples.max()) == (scaled.min(), scaled.max())
        assert np.median(point.samples) == pytest.approx(np.median(scaled), rel=0.05)


def test_what_was_counted_is_read_back_with_its_samples(measure, passes):
    first = measure()
    assert passes.count("fp16") == passes.count("bf16") == len(COUNTS)
    passes.clear()
    again = measure()
    assert set(passes) <= {"fp32"}  # for the samples
    for new, read in zip(first.points, again.points, strict=True):
        assert read.metrics == new.metrics
        assert np.array_equal(read.samples, new.samples)


def test_another_model_or_batch_is_another_sweep(measure, tiny_resnet, split, passes):
    measure()
    passes.clear()
    measure(on=split.first(20))
    assert passes.count("fp16") == len(COUNTS)
    passes.clear()
    measure(tiny_resnet)
    assert passes.count("fp16") == len(COUNTS)


def test_a_setting_can_be_counted_again(measure):
    measured = measure()
    setting = {DOUBLINGS: 10, FORMAT: "fp16"}
    again = measured.measure_again(**setting)
    before = measured.point(**setting)
    assert again.setting == setting
    for metric, found in again.metrics.items():
        assert found.value == before.metrics[metric].value


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"number_formats": ["int8"]}, "Formats are"),
        ({"doublings": [-1]}, "0 to 100 times"),
        ({"doublings": [0, 128]}, "0 to 100 times"),
        ({"doublings": []}, "none of the settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(measure, options, says):
    with pytest.raises(ValueError, match=says):
        measure(**options)
