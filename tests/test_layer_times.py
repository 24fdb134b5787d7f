"""Layer times: every layer finds its operator, and what is left is said."""

from typing import get_args

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from course_utils import layer_times, models, quantize
from course_utils.layer_costs import count_costs
from course_utils.layer_times import match_layers, measure_layers
from course_utils.measure import Measurement, Provenance
from course_utils.roofline import Level, Roofline
from course_utils.runtimes.export import export_onnx
from course_utils.runtimes.onnx_profile import profile_graph

RUNS = 3


class Bare(nn.Module):
    """Layers without biases, wide enough for ONNX Runtime to store them in its own order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, bias=False)
        self.last = nn.Linear(16, 16, bias=False)
        self.shared = nn.Linear(16, 16)

    def forward(self, x):
        x = self.depthwise(self.first(x).relu()).mean(dim=(2, 3))
        return self.shared(self.shared(self.last(x)).relu())


@pytest.fixture(scope="module")
def bare() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bare().eval()


def layers_with_macs(model, images, size=4) -> dict[str, tuple[int, int]]:
    costs = count_costs(model, images, bytes_per_weight=size, bytes_per_activation=size)
    return {cost.name: (cost.flop, cost.bytes_moved) for cost in costs.layers if cost.macs}


@pytest.mark.parametrize("name", ["tiny_convnet", "tiny_mlp"])
@pytest.mark.parametrize(("bits", "size", "kind"), [(32, 4, "fp32"), (8, 1, "int8")])
def test_every_layer_is_found(request, images, name, bits, size, kind):
    model = request.getfixturevalue(name)
    times = measure_layers(quantize.quantize_weights(model, bits), images[:8], runs=RUNS)
    expected = layers_with_macs(model, images[:8], size)
    assert times.unmatched == []
    assert {layer.name for layer in times.layers} == set(expected)
    assert len(times.layers) == len(expected)
    for layer in times.layers:
        flop, bytes_moved = expected[layer.name]
        assert layer.kind == kind
        assert layer.flop == flop
        assert layer.bytes_moved >= bytes_moved
        assert layer.latency.count == RUNS
        assert 0 < layer.latency.low <= layer.latency.value <= layer.latency.high
        assert layer.flop_per_byte == flop / layer.bytes_moved
        assert layer.gflop_per_s == pytest.approx(flop / layer.latency.value / 1e6)
    assert times.overhead_ms >= 0
    milliseconds = list(times.others_ms.values())
    assert milliseconds == sorted(milliseconds, reverse=True)


def test_batch_norms_are_folded_first(tiny_resnet, tiny_convnet, images):
    found = measure_layers(tiny_resnet, images[:1], runs=RUNS)
    assert {layer.name for layer in found.layers} == set(layers_with_macs(tiny_convnet, images[:1]))
    assert found.unmatched == []


def test_layers_whose_weights_are_renamed_or_used_twice_are_found(bare, images):
    found = measure_layers(bare, images[:2], runs=RUNS)
    names = [layer.name for layer in found.layers]
    assert names == ["first", "depthwise", "last", "shared", "shared"]
    assert found.unmatched == []


def test_wide_layers_are_found_under_the_names_that_fusion_gives_them(images):
    model = quantize.fold_batch_norms(models.build_model("resnet8_w16_fashion").eval())
    pixels = np.zeros((1, 1, 28, 28), np.float32)
    found = measure_layers(model, pixels, runs=RUNS)
    expected = layers_with_macs(model, pixels)
    assert sorted(layer.name for layer in found.layers) == sorted(expected)
    assert found.unmatched == []


def test_a_layer_without_an_operator_is_listed_and_its_time_kept(monkeypatch, tiny_mlp, images):
    def forget_the_first(exported, running, layers):
        owners = match_layers(exported, running, layers)
        return {node: layer for node, layer in owners.items() if layer != "layers.0"}

    monkeypatch.setattr(layer_times, "match_layers", forget_the_first)
    found = measure_layers(tiny_mlp, images[:1], runs=RUNS)
    assert found.unmatched == ["layers.0"]
    assert [layer.name for layer in found.layers] == ["layers.1", "layers.2"]
    assert any("Gemm" in operator for operator in found.others_ms)


def test_the_profile_s_own_time_is_taken_off(monkeypatch, tiny_mlp, images):
    really_profile = layer_times._profile

    def plant(graph, images, runs, **options):
        running, times = really_profile(graph, images, runs, **options)
        is_empty = images.shape == (1,)
        planted = [2.0, 2.0, 2.0] if is_empty else [3.0, 5.0, 2.0]
        return running, {name: np.array(planted) for name in times}

    monkeypatch.setattr(layer_times, "_profile", plant)
    found = measure_layers(tiny_mlp, images[:1], runs=RUNS)
    assert found.overhead_ms == 2.0
    assert [layer.latency.value for layer in found.layers] == [1.0] * 3
    assert {layer.latency.fastest for layer in found.layers} == {layer_times.RESOLUTION_MS}


def test_a_profile_has_the_times_of_every_operator_of_every_run(tiny_mlp, images):
    running, calls = profile_graph(export_onnx(tiny_mlp, images), images[:4], RUNS)
    assert len(calls) == RUNS
    for call in calls:
        assert list(call.nodes_ms) == [node.name for node in running.node]
        assert call.kinds == {node.name: node.op_type for node in running.node}
        assert 0 <= sum(call.nodes_ms.values()) <= call.runtime_ms + len(call.nodes_ms) * 0.001
        assert call.runtime_ms <= call.call_ms + 0.001


def test_an_addition_that_is_fused_is_read_too():
    running = helper.make_graph(
        [], "planted", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])]
    )
    for inputs, added in ((["x", "w"], 0), (["x", "w", "", "y"], 1)):
        assert layer_times._count_added(running, helper.make_node("Conv", inputs, ["z"])) == added


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"threads": 0}])
def test_nothing_cannot_be_measured(tiny_mlp, images, wrong):
    with pytest.raises(ValueError, match="measure nothing; give 1 or more"):
        measure_layers(tiny_mlp, images, **wrong)


def test_images_of_another_shape_are_named(tiny_mlp):
    with pytest.raises(ValueError, match=r"does not accept float32 images of shape \(1, 1, 5, 5\)"):
        measure_layers(tiny_mlp, np.zeros((1, 1, 5, 5), np.float32))


def test_the_table_has_a_row_for_each_layer_with_its_own_roof(tiny_mlp, images):
    found = measure_layers(tiny_mlp, images[:1], runs=RUNS)
    here = Provenance("measured", "a planted machine")
    roof = Roofline(
        {"fp32": Measurement(100.0, "GFLOP/s", 90, 110, 5, here)},
        dict.fromkeys(get_args(Level), Measurement(10.0, "GB/s", 9, 11, 5, here)),
    )
    table = layer_times.tabulate({"one image": found}, roof)
    assert [row[0] for row in table.rows] == ["one image", "", ""]
    assert [row[1] for row in table.rows] == [layer.name for layer in found.layers]
    for row, layer in zip(table.rows, found.layers, strict=True):
        assert len(row) == len(table.head)
        assert row[4] == f"{layer.flop_per_byte:.1f}"
        assert row[-2:] == [f"{10 * layer.flop_per_byte:.3g}", "memory (small cache)"]
    assert any("computed" in note for note in table.notes)


def test_sums_by_kind_hold_all_that_was_timed(bare):
    images = np.random.default_rng(0).random((1, 1, 9, 9), np.float32)
    found = measure_layers(bare, images, runs=RUNS)
    sums = layer_times.sum_by(found, lambda name: "linear" if name in ("last", "shared") else name)
    assert {"first", "depthwise", "linear"} <= set(sums)
    every = sum(layer.latency.value for layer in found.layers) + sum(found.others_ms.values())
    assert sum(sums.values()) == pytest.approx(every)
