"""The runtimes: they compute what the model computes, and they say what really runs."""

import copy
import functools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from course_utils import folders, machine, quantize, runtimes
from course_utils.models import DSCNN, MLP, ResNet8
from course_utils.quantize import quantize_symmetric, quantize_weights, quantized_weights
from course_utils.runtimes import Runner, export, onnx_runtime

MODELS = ["tiny_convnet", "tiny_mlp"]
SCHEMES = [True, False]  # per channel, per tensor
# The int8 kernel's activations are bytes: that alone moves a logit by up to 2 % of the largest.
INT8_TOLERANCE = 0.05


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def largest_difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference beside the largest logit."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def graph_that_runs(runner: Runner) -> dict[str, np.ndarray]:
    """Return the constants of the graph that the session loaded, by name."""
    graph = export.unpack(runner.artefact).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    """Return the name of each model in turn: all tests of one, then all of the other.

    A model that was exported just before is not exported again, and an export takes long.
    """
    return request.param


@pytest.fixture(scope="module")
def quantized(tiny_convnet, tiny_mlp) -> Callable[..., nn.Module]:
    originals = {"tiny_convnet": tiny_convnet, "tiny_mlp": tiny_mlp}

    @functools.cache
    def make(name: str, bits: int, per_channel: bool = True) -> nn.Module:
        return quantize_weights(originals[name], bits, per_channel)

    return make


@pytest.fixture(scope="module")
def built(quantized, images) -> Callable[..., Runner]:
    """Return a function that builds each runner once, all 8 bits of a weight being used."""

    @functools.cache
    def build(name: str, bits: int, per_channel: bool = True) -> Runner:
        return runtimes.build(quantized(name, bits, per_channel), images, reduce_range=False)

    return build


# The same logits


@pytest.mark.parametrize("bits", [32, 16])
def test_float_runners_agree_with_the_model(built, quantized, images, name, bits):
    model = quantized(name, bits)
    expected = logits_of(model, images)
    assert largest_difference(built(name, bits)(images), expected) < 1e-5
    eager = runtimes.build_eager(model, images)
    assert largest_difference(eager(images), expected) < 1e-6


@pytest.mark.parametrize("bits", [7, 5, 3, 2])  # below 8 bits no int8 kernel overflows
@pytest.mark.parametrize("per_channel", SCHEMES)
def test_int8_runners_stay_close_to_the_rounded_model(
    built, quantized, images, name, bits, per_channel
):
    expected = logits_of(quantized(name, bits, per_channel), images)
    logits = built(name, bits, per_channel)(images)
    assert largest_difference(logits, expected) < INT8_TOLERANCE


@pytest.mark.parametrize("overflows", [True, False])
def test_8_bits_stay_close_with_the_range_that_this_machine_needs(
    quantized, images, name, overflows, monkeypatch
):
    if overflows:  # as on a processor without VNNI; else as this one really is
        monkeypatch.setattr(machine, "int8_sums_overflow", lambda: True)
    model = quantized(name, 8)
    logits = runtimes.build(model, images)(images)
    assert largest_difference(logits, logits_of(model, images)) < INT8_TOLERANCE


def test_a_channel_of_tiny_weights_stays_close(images):
    """Its scale is so small that its bias, counted in such steps, has no place in 32 bits."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))
    with torch.no_grad():
        model[0].weight[1] *= 1e-9
        model[0].weight[2] = 0
        model[0].bias.fill_(1)
    rounded = quantize_weights(model, 5)
    logits = runtimes.build(rounded, images)(images)
    assert largest_difference(logits, logits_of(rounded, images)) < INT8_TOLERANCE


@pytest.mark.parametrize("bits", [32, 5])
def test_any_batch_size_gives_the_same_logits(built, images, name, bits):
    runner = built(name, bits)
    together = runner(images)
    assert together.shape == (len(images), 10)
    assert together.dtype == np.float32
    for size in (1, 7):
        parts = [runner(images[start : start + size]) for start in range(0, len(images), size)]
        assert np.allclose(np.concatenate(parts), together, rtol=1e-4, atol=1e-5)


def test_any_number_of_threads_gives_the_same_logits(built, quantized, images):
    runner = runtimes.build(quantized("tiny_convnet", 32), images, threads=2)
    assert np.allclose(runner(images), built("tiny_convnet", 32)(images), rtol=1e-4, atol=1e-5)


def test_a_model_that_was_not_traced_is_exported_too(tiny_resnet, images):
    runner = runtimes.build(tiny_resnet, images)
    assert largest_difference(runner(images), logits_of(tiny_resnet, images)) < 1e-5


# The integers that run


@pytest.mark.parametrize("bits", [8, 5, 3])
@pytest.mark.parametrize("per_channel", SCHEMES)
def test_exactly_the_quantized_weights_run(built, quantized, name, bits, per_channel):
    constants = graph_that_runs(built(name, bits, per_channel))
    weights = quantized_weights(quantized(name, bits, per_channel))
    assert weights
    for parameter, weight in weights.items():
        run = constants[f"{parameter}_quantized"]
        assert run.dtype == np.int8
        assert np.array_equal(run, weight.integers.numpy())
        scale = weight.scale.numpy().reshape(-1)
        assert np.array_equal(constants[f"{parameter}_scale"].reshape(-1), scale)
        assert (constants[f"{parameter}_zero_point"] == 0).all()


@pytest.mark.parametrize("per_channel", SCHEMES)
def test_wider_weights_run_as_the_floats_that_they_stand_for(built, quantized, name, per_channel):
    constants = graph_that_runs(built(name, 16, per_channel))
    for parameter, weight in quantized_weights(quantized(name, 16, per_channel)).items():
        assert np.array_equal(constants[parameter], weight.dequantize().numpy())


@pytest.mark.parametrize("per_channel", SCHEMES)
def test_the_reduced_range_holds_weights_to_7_bits(quantized, images, per_channel):
    model = quantized("tiny_mlp", 8, per_channel)
    runner = runtimes.build(model, images, reduce_range=True)
    assert runner.kernel.startswith("int8")
    assert runner.remark == "weights held to 7 bits, so that 16-bit sums cannot overflow"
    constants = graph_that_runs(runner)
    for parameter, weight in quantized_weights(model).items():
        reduced = quantize_symmetric(weight.dequantize(), 7, 0 if per_channel else None)
        assert np.array_equal(constants[f"{parameter}_quantized"], reduced.integers.numpy())
        assert np.abs(constants[f"{parameter}_quantized"]).max() == 2 ** (7 - 1) - 1


def test_weights_of_a_reduced_range_ship_as_whole_bytes(built, quantized, images):
    model = quantized("tiny_mlp", 8)
    runner = runtimes.build(model, images, reduce_range=True)
    stored = {item.name: item for item in onnx.load_from_string(runner.artefact).graph.initializer}
    for parameter, weight in quantized_weights(model).items():
        tensor = stored[f"{parameter}_quantized"]
        assert tensor.data_type == onnx.TensorProto.INT8
        assert numpy_helper.to_array(tensor).shape == weight.integers.shape
        assert len(tensor.raw_data) == weight.integers.numel()
        assert not tensor.metadata_props
    assert runner.size_bytes == built("tiny_mlp", 8).size_bytes


def test_fewer_than_8_bits_need_no_reduced_range(built, quantized, images):
    runner = runtimes.build(quantized("tiny_mlp", 5), images, reduce_range=True)
    assert "7 bits" not in runner.remark
    assert runner.artefact == built("tiny_mlp", 5).artefact


# What it says of itself


@pytest.mark.parametrize(
    ("bits", "kernel", "told"), [(32, "fp32", ""), (16, "fp32", "no 16-bit kernel here"),
                                 (8, "int8", ""), (5, "int8", "no 5-bit kernel here")]
)  # fmt: skip
def test_the_kernel_and_the_remark_name_what_runs(built, bits, kernel, told):
    runner = built("tiny_mlp", bits)
    assert runner.runtime == "ONNX Runtime"
    assert runner.kernel.split()[0] == kernel
    assert told in runner.remark
    assert bool(runner.remark) == bool(told)


def plant_operators(monkeypatch, operators: dict[str, int]) -> None:
    """Let every graph run with these operators, as it may on another machine."""
    load = onnx_runtime.load
    monkeypatch.setattr(
        onnx_runtime,
        "load",
        lambda content, **options: replace(load(content, **options), operators=operators),
    )


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("bits", [8, 5])
def test_the_kernel_is_fp32_if_no_int8_operator_runs(
    quantized, images, monkeypatch, bits, reduce_range
):
    model = quantized("tiny_mlp", bits)
    plant_operators(monkeypatch, {"Conv": 1})
    runner = runtimes.build(model, images, reduce_range=reduce_range)
    assert runner.kernel == "fp32"
    assert runner.remark == "ONNX Runtime found no int8 kernel for this graph here"


@pytest.mark.parametrize("operator", sorted(onnx_runtime.INT8_OPERATORS))
def test_the_kernel_is_int8_if_any_int8_operator_runs(quantized, images, monkeypatch, operator):
    plant_operators(monkeypatch, {"Conv": 1, operator: 1})
    assert runtimes.build(quantized("tiny_mlp", 8), images).kernel == "int8 (U8S8)"


@pytest.mark.parametrize(
    ("operators", "remark"),
    [
        ({"QLinearConv": 5, "QGemm": 1, "Transpose": 2, "QLinearAdd": 3}, ""),
        ({"QLinearConv": 5, "Conv": 2}, "only 5 of 7 layers ran in int8, the others fp32"),
        ({"FusedConv": 1, "Gemm": 1, "MatMul": 1, "QLinearMatMul": 1, "Add": 9},
         "only 1 of 4 layers ran in int8, the others fp32"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("bits", "reduce_range", "other"),
    [
        (8, False, ""),
        (8, True, "weights held to 7 bits, so that 16-bit sums cannot overflow"),
        (5, True, "no 5-bit kernel here: its integers ran in the int8 kernel"),
    ],
)
def test_the_remark_tells_how_many_layers_were_left_in_fp32(
    quantized, images, monkeypatch, operators, remark, bits, reduce_range, other
):
    plant_operators(monkeypatch, operators)
    runner = runtimes.build(quantized("tiny_mlp", bits), images, reduce_range=reduce_range)
    assert runner.kernel == "int8 (U8S8)"
    assert runner.remark == "; ".join(filter(None, [other, remark]))


@pytest.mark.parametrize("bits", [8, 5, 3])
def test_the_kernel_it_tells_is_that_of_the_optimised_graph(built, name, bits):
    runner = built(name, bits)
    runs_int8 = bool(onnx_runtime.INT8_OPERATORS & runner.operators.keys())
    assert runner.kernel == ("int8 (U8S8)" if runs_int8 else "fp32")


def test_a_model_whose_weights_were_changed_since_is_refused(quantized, images):
    model = copy.deepcopy(quantized("tiny_mlp", 5))
    next(model.parameters()).data.mul_(2)
    with pytest.raises(ValueError, match="was changed since it was quantized"):
        runtimes.build(model, images)


def test_eager_says_what_it_is(tiny_mlp, images):
    runner = runtimes.build_eager(tiny_mlp, images)
    assert (runner.runtime, runner.kernel) == ("PyTorch eager", "fp32")
    assert runner.image_shape == (1, 12, 12)


def test_int8_convolutions_are_integer_operators(built):
    operators = built("tiny_convnet", 5).operators
    assert operators["QLinearConv"] == 1 + 3 * 2 + 2  # stem, three blocks, two shortcuts
    assert "Conv" not in operators


def test_float_convolutions_are_float_operators(built):
    operators = built("tiny_convnet", 16).operators
    assert sum(count for name, count in operators.items() if "Conv" in name) == 1 + 3 * 2 + 2
    assert not any(name.startswith("QLinear") for name in operators)


def test_operators_of_an_eager_runner_are_unknown(tiny_mlp, images):
    assert runtimes.build_eager(tiny_mlp, images).operators == {}


# The file that ships


@pytest.mark.parametrize("bits", [3, 5, 8, 16])
@pytest.mark.parametrize("per_channel", SCHEMES)
def test_the_packed_file_holds_the_same_weights(built, quantized, bits, per_channel):
    model = quantized("tiny_convnet", bits, per_channel)
    constants = graph_that_runs(built("tiny_convnet", bits, per_channel))
    for parameter, weight in quantized_weights(model).items():
        if bits == 16:
            assert np.array_equal(constants[parameter], weight.dequantize().numpy())
        else:
            assert np.array_equal(constants[f"{parameter}_quantized"], weight.integers.numpy())


@pytest.mark.parametrize("bits", [3, 5, 16])
def test_the_packed_file_holds_no_bit_too_many(built, quantized, bits):
    stored = onnx.load_from_string(built("tiny_mlp", bits).artefact).graph.initializer
    lengths = {tensor.name.removesuffix("_quantized"): len(tensor.raw_data) for tensor in stored}
    for parameter, weight in quantized_weights(quantized("tiny_mlp", bits)).items():
        assert lengths[parameter] == math.ceil(weight.integers.numel() * bits / 8)


def test_the_size_is_that_of_the_file_and_falls_with_the_width(images):
    wide = quantize.fold_batch_norms(MLP([144, 256, 10]))
    runners = [runtimes.build(quantize_weights(wide, bits), images) for bits in (32, 16, 8, 5, 3)]
    sizes = [runner.size_bytes for runner in runners]
    assert sizes == [len(runner.artefact) for runner in runners]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    count = 144 * 256 + 256 * 10
    assert sizes[3] - sizes[4] == pytest.approx(count * (5 - 3) / 8, abs=64)


def test_a_weight_that_the_graph_lacks_is_named(tiny_mlp, quantized, images):
    graph = export.export_onnx(tiny_mlp, images)
    (weight, *_) = quantized_weights(quantized("tiny_mlp", 5)).values()
    with pytest.raises(ValueError, match=r"no weight 'elsewhere\.weight'; it has .*layers"):
        export.pack(graph, {"elsewhere.weight": weight})


# What is refused


@pytest.mark.parametrize("build", [runtimes.build, runtimes.build_eager])
@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(np.zeros((2, 1, 10, 12), np.float32), id="other height"),
        pytest.param(np.zeros((2, 3, 12, 12), np.float32), id="three colours"),
        pytest.param(np.zeros((1, 12, 12), np.float32), id="an image, not a batch"),
        pytest.param(np.zeros((2, 1, 12, 12), np.uint8), id="bytes"),
        pytest.param(np.zeros((2, 1, 12, 12), np.float64), id="float64"),
    ],
)
def test_a_runner_refuses_other_images(build, tiny_mlp, images, strange):
    runner = build(tiny_mlp, images)
    with pytest.raises(
        ValueError, match=r"takes float32 images of shape \(n, 1, 12, 12\)"
    ) as error:
        runner(strange)
    assert f"given {strange.dtype} of shape {strange.shape}" in str(error.value)


@pytest.mark.parametrize("build", [runtimes.build, runtimes.build_eager])
def test_building_for_images_that_the_model_does_not_take(build, name, request, images):
    model = request.getfixturevalue(name)
    colours = np.repeat(images, 3, axis=1)
    with pytest.raises(ValueError, match=r"does not accept images of shape \(40, 3, 12, 12\)"):
        build(model, colours)


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(np.zeros((0, 1, 12, 12), np.float32), id="empty"),
        pytest.param(np.zeros((2, 1, 12, 12), np.uint8), id="bytes"),
        pytest.param(np.float32(1), id="one number"),
    ],
)
@pytest.mark.parametrize("bits", [32, 8])
def test_building_needs_a_batch_of_float32_images(quantized, strange, bits):
    with pytest.raises(ValueError, match=r"batch of float32 images, \(n, \.\.\.\) with n of 1"):
        runtimes.build(quantized("tiny_mlp", bits), np.asarray(strange))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_building_refuses_images_that_are_not_finite(quantized, images, value):
    strange = images.copy()
    strange[3, 0, 1, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        runtimes.build(quantized("tiny_mlp", 8), strange)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_building_refuses_a_model_whose_logits_are_not_finite(tiny_mlp, images, value):
    model = copy.deepcopy(tiny_mlp)
    model.get_submodule("layers.2").bias.data[4] = value
    with pytest.raises(ValueError, match="does not return one tensor of finite logits"):
        runtimes.build(model, images)


class BranchesOnValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 10)

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return -logits if logits.sum() > 0 else logits


class UsesWhatOnnxLacks(BranchesOnValues):
    def forward(self, images):
        return self.layer(torch.linalg.svd(images.flatten(1), full_matrices=False)[2])


@pytest.mark.parametrize("strange", [BranchesOnValues, UsesWhatOnnxLacks])
@pytest.mark.parametrize("build", [export.export_onnx, runtimes.build])
def test_a_model_that_cannot_be_exported_is_refused_in_a_sentence(build, strange, images):
    with pytest.raises(ValueError, match=r"^The model cannot be exported: \w+\. Does") as error:
        build(strange(), images)
    assert "forward branch on the values of tensors" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__  # nothing of the exporter's own long traceback
    assert error.value.__cause__ is None


def test_of_a_model_that_cannot_be_exported_nothing_is_printed(images, capsys):
    """By itself torch would print the whole graph up to there."""
    with pytest.raises(ValueError, match="cannot be exported"):
        export.export_onnx(BranchesOnValues(), images)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


class ReturnsTwo(BranchesOnValues):
    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return logits, -logits


def test_a_model_that_returns_more_than_logits_is_refused(images):
    with pytest.raises(ValueError, match="does not return one tensor of finite logits"):
        runtimes.build(ReturnsTwo(), images)


def test_a_model_that_branches_on_values_runs_in_pytorch(images):
    model = BranchesOnValues().eval()
    assert np.array_equal(runtimes.build_eager(model, images)(images), logits_of(model, images))


def test_a_model_that_cannot_be_exported_does_not_stop_the_next_one(tiny_mlp, images):
    with pytest.raises(ValueError, match="cannot be exported"):
        runtimes.build(BranchesOnValues(), images)
    logits = runtimes.build(tiny_mlp, images)(images)
    assert largest_difference(logits, logits_of(tiny_mlp, images)) < 1e-5


@pytest.mark.parametrize("build", [runtimes.build, runtimes.build_eager])
def test_building_does_not_change_the_model(build, tiny_mlp, images):
    model = copy.deepcopy(tiny_mlp).train()
    before = copy.deepcopy(model.state_dict())
    build(model, images)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_runner_keeps_the_weights_that_it_was_built_from(tiny_mlp, images):
    model = copy.deepcopy(tiny_mlp)
    runners = [build(model, images) for build in (runtimes.build, runtimes.build_eager)]
    before = [runner(images) for runner in runners]
    for parameter in model.parameters():
        parameter.data.zero_()
    for runner, logits in zip(runners, before, strict=True):
        assert np.array_equal(runner(images), logits)


# Models of one structure are exported once


def with_biases(model: nn.Module, size: float, seed: int = 0) -> nn.Module:
    """Return a copy whose biases are drawn anew; 0 for none."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    for name, parameter in changed.named_parameters():
        if name.endswith("bias"):
            parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))
    return changed


@pytest.fixture
def exports(monkeypatch) -> list[str]:
    """Return a list that grows with each export."""
    made = []
    really_export = torch.onnx.export

    def export_and_note(model, *arguments, **options):
        made.append(type(model).__name__)
        return really_export(model, *arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", export_and_note)
    return made


def test_a_second_model_of_the_same_structure_computes_its_own_answers(
    quantized, name, images, exports
):
    first, second = (copy.deepcopy(quantized(name, 32)) for _ in range(2))
    for parameter in second.parameters():
        parameter.data.mul_(-0.7)
    for model in (first, second, first):
        logits = runtimes.build(model, images)(images)
        assert largest_difference(logits, logits_of(model, images)) < 1e-5
    assert len(exports) <= 1


def small_net(width: int, kernel: int = 3) -> nn.Module:
    """Return a net for images of any size, so small that it is exported quickly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        return nn.Sequential(
            nn.Conv2d(1, width, kernel), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 10),
        )  # fmt: skip


def assert_exports_compute(model: nn.Module, images: np.ndarray) -> None:
    """Check the graph that a model is exported as."""
    session = export.open_session(export.export_onnx(model, images))
    logits = session.run(None, {"images": images})[0]
    assert largest_difference(logits, logits_of(model, images)) < 1e-5


@pytest.mark.parametrize("network", [ResNet8, DSCNN])  # with depthwise filters and without
def test_more_or_fewer_channels_need_no_new_export(network, images, exports, monkeypatch):
    monkeypatch.setattr(export, "_EXPORTED", {})
    for width in (4, 2, 7, 4):
        model = with_biases(quantize.fold_batch_norms(network(width)), 0.1)  # no two alike
        assert_exports_compute(model, images)
        assert model.stem.out_channels == width  # the model itself is left alone
    assert len(exports) == 1


def test_a_graph_that_does_not_fit_other_channels_is_made_anew(images, exports, monkeypatch):
    monkeypatch.setattr(export, "_EXPORTED", {})
    for width in (4, 2):  # flattening stands in the graph with the number of channels
        assert_exports_compute(small_net(width), images)
    assert len(exports) == 2


def test_the_last_few_structures_are_kept(images, exports, monkeypatch):
    monkeypatch.setattr(export, "_EXPORTED", {})
    monkeypatch.setattr(export, "MOST_EXPORTED", 2)
    first, second, third = (small_net(2, kernel) for kernel in (2, 3, 4))
    for model in (first, second, first, second):
        assert_exports_compute(model, images)
    assert len(exports) == 2
    for model in (third, second):  # the oldest made way
        assert_exports_compute(model, images)
    assert len(exports) == 3
    assert len(export._EXPORTED) == 2


def as_in_a_new_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is kept in memory, so that only the cache folder is left."""
    monkeypatch.setattr(export, "_EXPORTED", {})


def test_a_new_kernel_takes_the_graph_from_the_cache_folder(images, exports, monkeypatch):
    for width in (2, 2):
        as_in_a_new_kernel(monkeypatch)
        assert_exports_compute(small_net(width), images)
    assert len(exports) == 1


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "garbage", "cut off"])
def test_a_damaged_graph_in_the_cache_folder_is_made_anew(images, exports, monkeypatch, content):
    as_in_a_new_kernel(monkeypatch)
    assert_exports_compute(small_net(2), images)
    (file,) = folders.cache_folder().glob("*.onnx")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    as_in_a_new_kernel(monkeypatch)
    assert_exports_compute(small_net(2), images)
    assert len(exports) == 2
    assert file.read_bytes() == whole


def test_a_cache_folder_that_cannot_be_written_only_costs_time(images, exports, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.tempfile, "NamedTemporaryFile", refuse)
    for _ in range(2):
        as_in_a_new_kernel(monkeypatch)
        assert_exports_compute(small_net(2), images)
    assert len(exports) == 2


def test_a_large_graph_is_not_kept(images, exports, monkeypatch):
    monkeypatch.setattr(export, "_EXPORTED", {})
    monkeypatch.setattr(export, "LARGEST_EXPORTED", 100)
    for _ in range(2):
        assert_exports_compute(small_net(2), images)
    assert len(exports) == 2
    assert export._EXPORTED == {}


def test_the_same_model_for_images_of_another_size_computes_its_own_answers(images):
    model = small_net(5)
    for side in (12, 9, 12):
        pictures = np.ascontiguousarray(images[:, :, :side, :side])
        runner = runtimes.build(model, pictures)
        assert runner.image_shape == (1, side, side)
        assert largest_difference(runner(pictures), logits_of(model, pictures)) < 1e-5


class BranchesOnAShape(nn.Module):
    """Cannot be traced with ``torch.fx``, so that its structure is unknown."""

    def __init__(self, factor: float):
        super().__init__()
        self.layer, self.factor = nn.Linear(144, 10), factor

    def forward(self, images):
        if len(images.shape) > 2:
            images = images.flatten(1) * self.factor
        return self.layer(images)


class ScalesByAValue(BranchesOnAShape):
    """Takes a number out of a tensor: torch.fx has none to give."""

    def forward(self, images):
        return self.layer(images.flatten(1) * (self.factor + float(images.max())))


class LoopsOverAShape(BranchesOnAShape):
    def forward(self, images):
        logits = self.layer(images.flatten(1))
        for _ in range(len(images.shape)):
            logits = logits * self.factor
        return logits


@pytest.mark.parametrize("untraceable", [BranchesOnAShape, ScalesByAValue, LoopsOverAShape])
def test_a_model_that_cannot_be_traced_is_exported_all_the_same(untraceable, images, exports):
    model = untraceable(1.5)
    with pytest.raises(Exception, match=r"symbolic|Proxy"):
        torch.fx.symbolic_trace(model)
    graph = export.export_onnx(model, images)
    assert exports == [untraceable.__name__]
    session = export.open_session(graph)
    for pictures in (images, 3 * images[:7], -images[:1]):  # its numbers were not written down
        (logits,) = session.run(None, {"images": pictures})
        assert largest_difference(logits, logits_of(model, pictures)) < 1e-5


def test_models_whose_structure_is_unknown_are_not_mistaken_for_each_other(images):
    for factor in (1.0, -3.0):
        assert_exports_compute(BranchesOnAShape(factor), images)


@pytest.mark.parametrize(("hidden", "size"), [(8, 1.0), (9, 1e-4)])
def test_biases_that_were_zero_in_the_first_model_count_in_the_second(hidden, size, images):
    """Zeros may be left out of a graph, and then there is no place for a later bias."""
    model = quantize.fold_batch_norms(MLP([144, hidden, 10]))  # a structure not yet exported
    runtimes.build(with_biases(model, 0), images)
    second = with_biases(model, size)
    logits = runtimes.build(second, images)(images)
    assert largest_difference(logits, logits_of(second, images)) < 1e-5


def test_models_that_differ_in_their_code_alone_are_told_apart(tiny_mlp, images):
    doubled = copy.deepcopy(tiny_mlp)
    (output,) = (node for node in doubled.graph.nodes if node.op == "output")
    with doubled.graph.inserting_before(output):
        (logits,) = output.args
        output.args = (doubled.graph.call_function(torch.mul, (logits, 2.0)),)
    doubled.recompile()
    single = runtimes.build(tiny_mlp, images)(images)
    assert largest_difference(runtimes.build(doubled, images)(images), 2 * single) < 1e-5


# Without the libraries


BLOCKED = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import course_utils.runtimes
except ModuleNotFoundError as error:
    print(error.name.split(".")[0], error.__suppress_context__, error)
"""


@pytest.mark.parametrize("library", ["onnxruntime", "onnx"])
def test_without_onnx_runtime_the_import_says_what_to_install(library):
    shown = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(library=library)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.startswith(f"{library} True No module named '{library}")
    assert "`make setup` installs it" in shown
    assert "pip install onnxruntime onnx onnxscript" in shown
