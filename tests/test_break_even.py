"""From which share of zeros on a sparse kernel is quicker: the crossing, and what is measured."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.measure import Measurement, measured_now
from course_utils.sparse import break_even
from course_utils.sparse.break_even import (
    LAYER,
    SPARSITY,
    find_break_evens,
    measure_break_even,
)
from course_utils.sparse.crossing import BreakEven, find_break_even, interpolate_crossing
from course_utils.sparse.layer_shapes import COURSE_LAYERS, LayerShape, build_dense

TINY_LAYERS = {
    "linear": LayerShape(8, 12, 3),
    "convolution": LayerShape(4, 18, 36, kernel=3, stride=2),
}


def speed(value, low=None, high=None):
    return Measurement(value, "×", low or value, high or value, 20, measured_now())


@pytest.mark.parametrize(
    ("ratios", "crossing"),
    [
        ([0.25, 0.5, 1.0], 0.95),  # reached exactly at the last
        ([0.5, 1.0, 2.0], 0.9),
        ([0.5, 2.0, 2.0], 1 - math.sqrt(0.5 * 0.1)),  # halfway, in logarithms
        ([0.5, 0.5, 2.0], 1 - math.sqrt(0.1 * 0.05)),
        ([0.5, 0.25, 8.0], 1 - 0.1 * 0.5 ** (2 / 5)),
        ([2.0, 0.5, 2.0], 1 - math.sqrt(0.1 * 0.05)),  # the last crossing counts
        ([0.2, 0.5, 0.9], math.inf),
        ([2.0, 3.0, 0.9], math.inf),
        ([1.0, 1.5, 2.0], -math.inf),
        ([0.0, 0.0, 0.0], math.inf),
        ([math.inf, math.inf, math.inf], -math.inf),
    ],
)
def test_the_crossing_of_made_up_ratios(ratios, crossing):
    assert interpolate_crossing([0.5, 0.9, 0.95], ratios) == pytest.approx(crossing)


@given(st.floats(0.3, 0.99), st.floats(0.1, 3), st.floats(0.01, 0.2))
def test_a_time_that_follows_a_power_of_the_values_left_is_found_exactly(true, power, step):
    sparsities = list(np.arange(0.1, 0.995, step))
    ratios = [((1 - true) / (1 - share)) ** power for share in sparsities]
    found = interpolate_crossing(sparsities, ratios)
    assert found == pytest.approx(true) if true <= sparsities[-1] else found == math.inf


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(1, 3)), min_size=1, max_size=8))
def test_the_ends_of_the_interval_lie_on_either_side(ratios):
    sparsities = [index / 10 for index in range(len(ratios))]
    speeds = [speed(ratio, ratio / spread, ratio * spread) for ratio, spread in ratios]
    found = find_break_even(sparsities, speeds)
    assert found.low <= found.value <= found.high
    assert found.value == interpolate_crossing(sparsities, [ratio for ratio, _ in ratios])
    assert found.is_found == all(map(math.isfinite, (found.low, found.value, found.high)))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((0.9, 0.88, 0.91), "from 90.0 % zeros (88.0 % to 91.0 %)"),
        ((0.9, -math.inf, math.inf), "from 90.0 % zeros (below 50 % to above 98 %)"),
        ((math.inf, math.inf, math.inf), "never, up to 98 % zeros"),
        ((math.inf, 0.97, math.inf), "never, up to 98 % zeros (the interval begins at 97.0 %)"),
        ((-math.inf, -math.inf, -math.inf), "at 50 % zeros already"),
        ((-math.inf, -math.inf, 0.6), "at 50 % zeros already (the interval ends at 60.0 %)"),
    ],
)
def test_a_break_even_says_what_was_measured_and_no_more(found, text):
    assert str(BreakEven(*found, (0.5, 0.98))) == text


@pytest.mark.parametrize(
    ("sparsities", "ratios"),
    [
        ([], []),
        ([0.5, 0.9], [1.0]),
        ([0.9, 0.5], [1.0, 2.0]),
        ([0.5, 0.5], [1.0, 2.0]),
        ([0.5, 1.0], [1.0, 2.0]),
        ([-0.1, 0.5], [1.0, 2.0]),
        ([0.5, 0.9], [-1.0, 2.0]),
        ([0.5, 0.9], [2.0, math.nan]),
    ],
)
def test_ratios_that_do_not_go_with_rising_sparsities_are_refused(sparsities, ratios):
    with pytest.raises(ValueError, match=r"rising|from 0 to below 1"):
        interpolate_crossing(sparsities, ratios)


@pytest.mark.parametrize("shape", [*COURSE_LAYERS.values(), *TINY_LAYERS.values()])
def test_a_layer_has_its_shape_and_exactly_its_zeros(shape):
    (layer,) = shape.build_layer(0.7)
    assert layer.weight.flatten(1).shape == (shape.rows, shape.inputs)
    zeros = int((layer.weight == 0).sum())
    assert zeros == round(0.7 * shape.rows * shape.inputs)
    with torch.inference_mode():
        output = layer(torch.from_numpy(shape.draw_images()))
    columns = output.shape[2] * output.shape[3] if shape.kernel else len(output)
    assert (output.shape[1], columns) == (shape.rows, shape.columns)


@pytest.mark.parametrize("shape", TINY_LAYERS.values())
def test_the_dense_kernels_compute_the_layer(shape):
    layer, images = shape.build_layer(0.5), shape.draw_images()
    with torch.inference_mode():
        expected = layer(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(build_dense(layer, images)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [(0, 1, 1), (4, 9, 35, 3), (4, 10, 36, 3), (4, 16, 36, 4), (4, 4, 4, -1), (4, 9, 36, 3, 0)],
)
def test_what_is_no_layer_is_refused(sizes):
    with pytest.raises(ValueError, match=r"is no (layer|convolution)"):
        LayerShape(*sizes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return two tiny layers at two sparsities, timed in ten rounds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("break_even")
        patch.setenv("INFERENCE_MEASURED_CACHE", str(folder))
        patch.setattr("course_utils.measure.timing_lock.lock_file", lambda: folder / "lock")
        return measure_break_even(TINY_LAYERS, (0.5, 0.9), rounds=10)


def test_sparsity_0_is_the_dense_kernel_that_the_others_are_beside(measured):
    for name in TINY_LAYERS:
        dense, *others = (measured.point(**{LAYER: name, SPARSITY: s}) for s in (0, 0.5, 0.9))
        assert dense.runtime in ("PyTorch eager", "ONNX Runtime")
        assert (dense.speed.value, dense.speed.low, dense.speed.high) == (1, 1, 1)
        for point in others:
            assert (point.runtime, point.speed.count) == ("PyTorch sparse CSR", 10)
            ratio = dense.latency.value / point.latency.value
            assert 0.2 < point.speed.value / ratio < 5  # of medians, and a median of ratios


def test_more_zeros_are_fewer_bytes(measured):
    for name in TINY_LAYERS:
        sizes = [measured.point(**{LAYER: name, SPARSITY: s}).size.value for s in (0, 0.5, 0.9)]
        assert all(one > other for one, other in pairwise(sizes))


def test_the_break_evens_are_the_crossings_of_the_speeds(measured):
    found = find_break_evens(measured)
    assert [*found] == [*TINY_LAYERS]
    for name, one in found.items():
        points = [measured.point(**{LAYER: name, SPARSITY: share}) for share in (0.5, 0.9)]
        assert one == find_break_even((0.5, 0.9), [point.speed for point in points])
        assert one.measured == (0.5, 0.9)


def test_the_quicker_dense_kernel_is_taken(monkeypatch):
    experiment = break_even.SparseProducts(TINY_LAYERS)
    for ratio, name in ((0.9, "PyTorch eager"), (1.1, "ONNX Runtime")):
        found = SimpleNamespace(speed=lambda runner, ratio=ratio: speed(ratio))
        monkeypatch.setattr(break_even, "compare", lambda *_, found=found, **options: found)
        assert experiment.prepare({LAYER: "linear", SPARSITY: 0.0}).runtime == name


@pytest.mark.parametrize(
    ("layers", "sparsities"), [({}, (0.5,)), (TINY_LAYERS, ()), (TINY_LAYERS, (0.0, 0.5)),
                               (TINY_LAYERS, (0.5, 1.0))],
)  # fmt: skip
def test_without_layers_or_with_shares_that_are_none_nothing_is_measured(layers, sparsities):
    with pytest.raises(ValueError, match="give at least one layer"):
        measure_break_even(layers, sparsities)
