"""8-bit arithmetic: what flows in a network is observed, and the graph is built around it."""

import functools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from course_utils import calibrate, runtimes
from course_utils.calibrate import Range, min_max
from course_utils.quantize import quantize_bias, quantize_weights, quantized_weights
from course_utils.runtimes import Runner, export, onnx_int8, onnx_runtime, weight_only

MODELS = ["tiny_convnet", "tiny_mlp"]
ARITHMETICS = ["U8S8", "S8S8", "dynamic"]
INT8_TOLERANCE = 0.05  # bytes for activations move a logit by up to 2 % of the largest


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def run(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = export.open_session(graph)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def largest_difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference beside the largest logit."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def constants_of(runner: Runner) -> dict[str, np.ndarray]:
    """Return the constants of the graph that the session loaded, by name."""
    graph = export.unpack(runner.artefact).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def assert_told_without_a_traceback(error: BaseException) -> None:
    """Check that Python shows nothing of what happened inside of a library."""
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert len(str(error)) < 800


def with_opset(graph: onnx.ModelProto, version: int, domain: str = "") -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    (own,) = (item for item in changed.opset_import if item.domain == "")
    own.version, own.domain = version, domain
    return changed


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    """Return the name of each model in turn: all tests of one, then all of the other."""
    return request.param


@pytest.fixture(scope="module")
def make_model(tiny_convnet, tiny_mlp) -> Callable[..., nn.Module]:
    originals = {"tiny_convnet": tiny_convnet, "tiny_mlp": tiny_mlp}

    @functools.cache
    def make(name: str, bits: int = 32) -> nn.Module:
        return quantize_weights(originals[name], bits)

    return make


@pytest.fixture(scope="module")
def ranges_of(make_model, images) -> Callable[..., dict[str, Range]]:
    """Return a function: a model's name and bits -> the whole range of each activation."""

    @functools.cache
    def find(name: str, bits: int = 8) -> dict[str, Range]:
        seen = runtimes.observe_activations(make_model(name, bits), images)
        return {activation: min_max(values) for activation, values in seen.items()}

    return find


# What flows in a network


@pytest.fixture(scope="module")
def observed(images):
    """Return a small net, its ONNX graph, and what was observed in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(),
            nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10),
        )  # fmt: skip
    return net, export.export_onnx(net, images), runtimes.observe_activations(net, images)


def test_each_activation_is_seen_as_torch_computes_it(observed, images):
    net, graph, seen = observed
    computed = []
    for layer in net:
        layer.register_forward_hook(lambda _, __, output: computed.append(output.numpy()))
    logits_of(net, images)
    nodes = {"Conv": nn.Conv2d, "Relu": nn.ReLU, "Gemm": nn.Linear, "Reshape": nn.Flatten}
    written = [node for node in graph.graph.node if node.op_type in nodes]
    assert [nodes[node.op_type] for node in written] == [type(layer) for layer in net]
    for node, values in zip(written, computed, strict=True):
        activation = node.output[0]
        if activation not in seen:
            continue
        assert len(seen[activation]) == values.size
        expected = calibrate.find_extremes(values)
        assert min_max(seen[activation]) == pytest.approx(tuple(expected), rel=1e-5, abs=1e-6)
        assert seen[activation].zeros == pytest.approx((values == 0).sum(), abs=2)


def test_what_only_a_relu_reads_is_left_out(observed):
    _, graph, seen = observed
    before_relu = [node.input[0] for node in graph.graph.node if node.op_type == "Relu"]
    assert len(before_relu) == 2
    every = {output for node in graph.graph.node for output in node.output}
    assert seen.keys() == every - set(before_relu) | {"images"}


def test_a_sum_is_seen_with_both_of_its_parts(make_model, images):
    model = make_model("tiny_convnet")
    seen = runtimes.observe_activations(model, images)
    graph = export.export_onnx(model, images).graph
    for node in graph.node:
        if node.op_type == "Add":
            assert {*node.input} <= seen.keys()
            assert node.output[0] not in seen  # a ReLU follows


def test_the_images_and_the_logits_are_seen_too(observed, images):
    net, _, seen = observed
    assert min_max(seen["images"]) == (0, images.max())
    assert len(seen["images"]) == images.size
    logits = calibrate.find_extremes(logits_of(net, images))
    assert min_max(seen["logits"]) == pytest.approx(tuple(logits), rel=1e-5)


def test_batches_are_seen_as_one(observed, images, monkeypatch):
    net, _, seen = observed
    monkeypatch.setattr(onnx_int8, "BATCH", 7)
    for activation, values in runtimes.observe_activations(net, images).items():
        assert np.allclose(values.edges, seen[activation].edges, rtol=1e-5, atol=1e-7)
        moved = np.abs(np.cumsum(values.counts - seen[activation].counts)).max()
        assert moved <= 0.01 * len(values)  # sums in another order, by a bin
        assert len(values) == len(seen[activation])


def test_the_extremes_of_a_graph_are_those_of_what_was_seen(observed, images):
    _, graph, seen = observed
    extremes = onnx_int8.find_extremes(graph, images)
    assert extremes == {activation: min_max(values) for activation, values in seen.items()}


def test_observing_changes_neither_the_model_nor_its_graph(observed, images):
    net, graph, _ = observed
    before = graph.SerializeToString()
    onnx_int8.find_extremes(graph, images)
    assert graph.SerializeToString() == before
    net.train()
    runtimes.observe_activations(net, images[:2])
    assert net.training
    net.eval()


def spoil(images, value):
    spoilt = images.copy()
    spoilt[3, 0, 1, 1] = value
    return spoilt


REFUSED = {
    "none": (lambda images: images[:0], r"n of 1 or more.*shape \(0, 1, 12, 12\)"),
    "bytes": (lambda images: (255 * images).astype(np.uint8), "takes a batch of float32.*uint8"),
    "float64": (lambda images: images.astype(np.float64), "takes a batch of float32.*float64"),
    "a number": (lambda images: images[0, 0, 0, 0], "takes a batch of float32 images"),
    "up to 255": (lambda images: 255 * images, "to 255.*takes pixels from 0 to 1.*divided by 255"),
    "below 0": (lambda images: 2 * images - 1, "takes pixels from 0 to 1"),
    "NaN": (lambda images: spoil(images, np.nan), "NaN or infinite"),
    "infinite": (lambda images: spoil(images, np.inf), "NaN or infinite"),
    "other shape": (lambda images: images[:, :, :9], "does not accept images of shape"),
    "colours": (lambda images: images.repeat(3, axis=1), "does not accept images of shape"),
}


def observe(net, images):
    return runtimes.observe_activations(net, images)


def build_in_8_bits(net, images):
    return runtimes.build(quantize_weights(net, 8), images)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("use", [observe, build_in_8_bits])
def test_unfit_images_are_refused_with_a_reason(observed, images, kind, use):
    net, _, _ = observed
    make_unfit, reason = REFUSED[kind]
    unfit = make_unfit(images)
    with pytest.raises(ValueError, match=reason) as error:
        use(net, unfit)
    assert_told_without_a_traceback(error.value)


def test_images_without_a_channel_are_seen_if_the_model_takes_them(make_model, images):
    model = make_model("tiny_mlp")
    with_channel = runtimes.observe_activations(model, images)
    without = runtimes.observe_activations(model, images[:, 0])
    assert min_max(without["logits"]) == pytest.approx(min_max(with_channel["logits"]), rel=1e-5)
    with pytest.raises(ValueError, match="does not accept images of shape") as error:
        runtimes.observe_activations(model, images[0, 0])
    assert_told_without_a_traceback(error.value)


@pytest.mark.parametrize(
    ("scale", "pixels"), [(255, None), (255, Range(0, 255)), (-1, Range(-1, 0)), (2, Range(0, 2))]
)
def test_a_model_may_take_other_pixels(observed, images, scale, pixels):
    net, _, _ = observed
    seen = runtimes.observe_activations(net, scale * images, pixels=pixels)
    assert min_max(seen["images"]) == calibrate.find_extremes(scale * images)


# Three ways to make bytes of activations


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_every_arithmetic_stays_close_to_fp32(make_model, images, name, arithmetic):
    runner = runtimes.build(make_model(name, 8), images, arithmetic=arithmetic)
    assert largest_difference(runner(images), logits_of(make_model(name), images)) < INT8_TOLERANCE
    assert runner.kernel == f"int8 ({arithmetic})"
    assert onnx_runtime.INT8_OPERATORS & runner.operators.keys()


@pytest.mark.parametrize("bits", [5, 2])
def test_narrow_weights_run_with_signed_activations_too(make_model, images, name, bits):
    runner = runtimes.build(make_model(name, bits), images, arithmetic="S8S8")
    expected = logits_of(make_model(name, bits), images)
    assert largest_difference(runner(images), expected) < INT8_TOLERANCE
    assert f"no {bits}-bit kernel here" in runner.remark


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_any_batch_size_is_taken(make_model, images, name, arithmetic):
    runner = runtimes.build(make_model(name, 8), images, arithmetic=arithmetic)
    expected = logits_of(make_model(name), images)
    for size in (1, 3, len(images)):
        assert runner(images[:size]).shape == (size, 10)
        assert largest_difference(runner(images[:size]), expected[:size]) < INT8_TOLERANCE


@pytest.mark.parametrize(("arithmetic", "first"), [("U8S8", 0), ("S8S8", -128)])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_given_ranges_are_those_of_the_graph(
    make_model, images, ranges_of, name, arithmetic, first, share
):
    ranges = {
        activation: Range(share * limits.low, share * limits.high)
        for activation, limits in ranges_of(name).items()
    }
    runner = runtimes.build(
        make_model(name, 8), images, arithmetic=arithmetic, ranges=ranges, reduce_range=False
    )
    constants = constants_of(runner)
    written = [activation for activation in ranges if f"{activation}_scale" in constants]
    assert {"logits", "relu", "relu_1"} <= set(written)
    for activation in written:
        low, high = ranges[activation]
        scale, zero_point = (constants[f"{activation}_{end}"] for end in ("scale", "zero_point"))
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert zero_point == pytest.approx(first - low / scale, abs=0.51)
        assert zero_point.dtype == (np.uint8 if first == 0 else np.int8)


def test_every_activation_that_runs_in_bytes_has_a_given_range(make_model, images, ranges_of, name):
    runner = runtimes.build(make_model(name, 8), images, reduce_range=False)
    parameters = dict(make_model(name).named_parameters())
    scales = {n.removesuffix("_scale") for n in constants_of(runner) if n.endswith("_scale")}
    activations = {n for n in scales if n.removesuffix("_quantized") not in parameters}
    assert activations
    assert activations <= ranges_of(name).keys()


class ReadTwice(nn.Module):
    """A ReLU and a sum read the same activation, so that it needs a range of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(144, 20), nn.Linear(20, 10)

    def forward(self, images):
        x = self.first(images.flatten(1))
        return self.last(torch.relu(x) + x)


def test_what_a_relu_and_something_else_read_keeps_its_own_range(images):
    model = quantize_weights(ReadTwice(), 7)  # no processor's sums overflow
    seen = runtimes.observe_activations(model, images)
    assert {"linear", "relu", "logits"} <= seen.keys()
    runner = runtimes.build(model, images)
    constants = constants_of(runner)
    for activation in ("linear", "relu"):
        low, high = min_max(seen[activation])
        assert constants[f"{activation}_scale"] == pytest.approx((high - low) / 255, rel=1e-5)
    assert largest_difference(runner(images), logits_of(model, images)) < INT8_TOLERANCE


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("arithmetic", ["U8S8", "S8S8"])
def test_without_ranges_they_reach_from_the_smallest_to_the_largest_value(
    make_model, images, ranges_of, name, bits, arithmetic
):
    model = make_model(name, bits)
    found = runtimes.build(model, images, arithmetic=arithmetic, reduce_range=False)
    given = runtimes.build(
        model, images, arithmetic=arithmetic, ranges=ranges_of(name, bits), reduce_range=False
    )
    assert found.artefact == given.artefact
    assert np.array_equal(found(images), given(images))


def test_only_the_first_images_are_calibrated_on(make_model, images, monkeypatch):
    model = make_model("tiny_mlp", 8)
    few = runtimes.build(model, images[:10], reduce_range=False).artefact
    assert runtimes.build(model, images, reduce_range=False).artefact != few
    monkeypatch.setattr(onnx_runtime, "CALIBRATION_IMAGES", 10)
    assert runtimes.build(model, images, reduce_range=False).artefact == few


def test_a_narrow_range_clips(make_model, images, ranges_of):
    model, ranges = make_model("tiny_mlp", 8), ranges_of("tiny_mlp")
    high = 0.3 * ranges["logits"].high
    clipped = runtimes.build(model, images, ranges={**ranges, "logits": Range(-0.01, high)})
    assert clipped(images).max() == pytest.approx(high, rel=0.05)
    assert clipped(images).min() == pytest.approx(-0.01, abs=0.01)


@pytest.mark.parametrize("missing", ["logits", "relu", "relu_1"])
def test_a_range_that_is_missing_is_asked_for(make_model, images, ranges_of, name, missing):
    ranges = {key: value for key, value in ranges_of(name).items() if key != missing}
    with pytest.raises(ValueError, match="were they observed in this model") as error:
        runtimes.build(make_model(name, 8), images, ranges=ranges)
    assert_told_without_a_traceback(error.value)


def test_ranges_of_another_model_are_refused(make_model, images, ranges_of):
    with pytest.raises(ValueError, match="were they observed in this model"):
        runtimes.build(make_model("tiny_convnet", 8), images, ranges=ranges_of("tiny_mlp"))
    with pytest.raises(ValueError, match="were they observed in this model"):
        runtimes.build(make_model("tiny_mlp", 8), images, ranges={})


@pytest.mark.parametrize(
    "strange",
    [Range(1.0, 0.0), Range(0.0, np.nan), Range(np.nan, 1.0), Range(0.0, np.inf), "0 to 1", None],
)
def test_a_range_that_is_none_is_refused_by_its_name(make_model, images, ranges_of, strange):
    ranges = {**ranges_of("tiny_mlp"), "relu_1": strange}
    with pytest.raises(ValueError, match="range of 'relu_1' has to be") as error:
        runtimes.build(make_model("tiny_mlp", 8), images, ranges=ranges)
    assert_told_without_a_traceback(error.value)


def test_what_was_observed_is_not_yet_a_range(make_model, images):
    model = make_model("tiny_mlp", 8)
    seen = runtimes.observe_activations(model, images)
    with pytest.raises(ValueError, match="as the methods in calibrate return it"):
        runtimes.build(model, images, ranges=seen)


@pytest.mark.parametrize(
    "method", [min_max, calibrate.median, calibrate.mean_squared_error, calibrate.entropy]
)
def test_an_activation_of_nothing_but_zeros_can_be_built(images, method):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 10))
    nn.init.constant_(model[0].bias, -100)
    model = quantize_weights(model, 8)
    seen = runtimes.observe_activations(model, images)
    zeros = [activation for activation, values in seen.items() if values.zeros == len(values)]
    assert zeros
    ranges = {activation: min_max(values) for activation, values in seen.items()}
    ranges |= {activation: method(seen[activation]) for activation in zeros}
    for given in (ranges, None):
        logits = runtimes.build(model, images, ranges=given)(images)
        assert largest_difference(logits, logits_of(model, images)) < INT8_TOLERANCE


def test_given_ranges_need_no_pixels_to_calibrate_on(make_model, images, ranges_of):
    model, ranges = make_model("tiny_mlp", 8), ranges_of("tiny_mlp")
    runner = runtimes.build(model, 255 * images, ranges=ranges)
    assert runner.artefact == runtimes.build(model, images, ranges=ranges).artefact


@pytest.mark.parametrize("arithmetic", ["U8U8", "", "int8", None])
def test_an_arithmetic_that_does_not_exist_is_refused(make_model, images, arithmetic):
    with pytest.raises(ValueError, match="kernels for U8S8, S8S8"):
        runtimes.build(make_model("tiny_mlp", 8), images, arithmetic=arithmetic)


# Sums of products in 16 bits


@pytest.mark.parametrize("arithmetic", ["U8S8", "S8S8"])
def test_a_reduced_range_holds_every_weight_to_63(make_model, images, name, arithmetic):
    model = make_model(name, 8)
    runner = runtimes.build(model, images, arithmetic=arithmetic, reduce_range=True)
    assert "weights held to 7 bits" in runner.remark
    constants = constants_of(runner)
    for parameter in quantized_weights(model):
        integers = constants[f"{parameter}_quantized"].astype(int)
        assert np.abs(integers).max() == 63
        assert 2 * 255 * np.abs(integers).max() < 2**15
    assert largest_difference(runner(images), logits_of(make_model(name), images)) < INT8_TOLERANCE


@pytest.mark.parametrize("reduce_range", [True, False])
def test_dynamic_matrices_are_held_so_that_sums_fit(make_model, images, reduce_range):
    model = make_model("tiny_mlp", 8)
    runner = runtimes.build(model, images, arithmetic="dynamic", reduce_range=reduce_range)
    weights = [tensor for tensor in constants_of(runner).values() if tensor.dtype == np.int8]
    largest = max(np.abs(weight.astype(int)).max() for weight in weights)
    assert (2 * 255 * largest < 2**15) == reduce_range
    assert ("so that 16-bit sums cannot overflow" in runner.remark) == reduce_range


def test_dynamic_convolutions_keep_all_bits_of_their_unsigned_weights(make_model, images):
    model = make_model("tiny_convnet", 8)
    reduced, whole = (
        runtimes.build(model, images, arithmetic="dynamic", reduce_range=reduce_range)
        for reduce_range in (True, False)
    )
    assert reduced.artefact == whole.artefact
    assert "overflow" not in reduced.remark
    weights = [tensor for tensor in constants_of(whole).values() if tensor.ndim == 4]
    assert len(weights) == 1 + 3 * 2 + 2
    assert {weight.dtype.name for weight in weights} == {"uint8"}


# Ranges that are computed for every input


def test_dynamic_ranges_suit_inputs_of_any_size(make_model, images):
    """Ten times as large an input would be clipped by a range that was set before."""
    model = make_model("tiny_mlp", 8)
    runner = runtimes.build(model, images, arithmetic="dynamic")
    static = runtimes.build(model, images)
    expected = logits_of(make_model("tiny_mlp"), 10 * images)
    assert largest_difference(runner(10 * images), expected) < INT8_TOLERANCE
    assert largest_difference(static(10 * images), expected) > INT8_TOLERANCE


@pytest.mark.parametrize("bits", [7, 4, 2])
def test_dynamic_arithmetic_refuses_narrower_weights(make_model, images, name, bits):
    with pytest.raises(ValueError, match=f"rounds weights to 8 bits itself, not to {bits}"):
        runtimes.build(make_model(name, bits), images, arithmetic="dynamic")


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_wider_weights_run_as_fp32_in_every_arithmetic(make_model, images, bits, arithmetic):
    runner = runtimes.build(make_model("tiny_mlp", bits), images, arithmetic=arithmetic)
    assert runner.kernel == "fp32"
    assert not onnx_runtime.INT8_OPERATORS & runner.operators.keys()


# Biases


@pytest.mark.parametrize("arithmetic", ["U8S8", "S8S8"])
def test_the_biases_of_the_graph_are_those_of_quantize_bias(make_model, images, name, arithmetic):
    model = make_model(name, 8)
    runner = runtimes.build(model, images, arithmetic=arithmetic, reduce_range=False)
    constants = constants_of(runner)
    weights = quantized_weights(model)
    read_by = {  # bias -> what its layer reads
        node.input[2]: node.input[0]
        for node in export.export_onnx(model, images).graph.node
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3
    }
    assert len(read_by) == len(weights)
    for parameter, activation in read_by.items():
        weight = weights[parameter.removesuffix("bias") + "weight"]
        input_scale = float(constants[f"{activation}_scale"])
        made = quantize_bias(model.get_parameter(parameter).detach(), input_scale, weight)
        written = constants[f"{parameter}_quantized"]
        assert written.dtype == np.int32
        assert np.array_equal(written, made.integers.numpy())
        scale = constants[f"{parameter}_quantized_scale"]
        assert np.allclose(scale.reshape(-1), made.scale.numpy(), rtol=1e-6)
        assert (constants[f"{parameter}_quantized_zero_point"] == 0).all()


# Graphs that cannot be quantized


QUANTIZERS = [
    lambda graph: onnx_int8.quantize_static_graph(graph, {}, {}),
    lambda graph: onnx_int8.quantize_dynamic_graph(graph, reduce_range=False),
]


@pytest.mark.parametrize("opset", [11, 12, 7])
@pytest.mark.parametrize("quantize_graph", QUANTIZERS, ids=["static", "dynamic"])
def test_an_old_graph_is_refused_with_advice(make_model, images, opset, quantize_graph):
    graph = with_opset(export.export_onnx(make_model("tiny_mlp"), images), opset)
    with pytest.raises(ValueError, match=f"written in opset {opset}.*Export it again") as error:
        quantize_graph(graph)
    assert "13 or later" in str(error.value)
    assert_told_without_a_traceback(error.value)


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("opset", [13, 18, 20])
def test_newer_graphs_pass(make_model, images, opset, domain):
    graph = export.export_onnx(make_model("tiny_mlp"), images)
    onnx_int8.check_opset(with_opset(graph, opset, domain))


def test_quantizing_does_not_change_the_graph(make_model, images, ranges_of):
    graph = export.export_onnx(make_model("tiny_mlp"), images)
    before = graph.SerializeToString()
    onnx_int8.quantize_static_graph(graph, {}, ranges_of("tiny_mlp"))
    onnx_int8.quantize_dynamic_graph(graph, reduce_range=True)
    weight_only.quantize_matrices(weight_only.gemm_to_matmul(graph), 4)
    assert graph.SerializeToString() == before


# A file is loaded


@pytest.mark.parametrize("bits", [32, 16, 8, 5])
def test_a_loaded_artefact_gives_the_same_logits(make_model, images, name, bits):
    runner = runtimes.build(make_model(name, bits), images)
    loaded = runtimes.load(runner.artefact)
    assert np.array_equal(loaded(images), runner(images))
    assert loaded.operators == runner.operators
    assert loaded.image_shape == runner.image_shape == (1, 12, 12)
    assert loaded.kernel == runner.kernel.split()[0]
    assert (loaded.runtime, loaded.artefact) == (runner.runtime, runner.artefact)


@pytest.mark.parametrize("arithmetic", ["S8S8", "dynamic"])
def test_a_loaded_artefact_of_other_arithmetic_gives_the_same_logits(
    make_model, images, name, arithmetic
):
    runner = runtimes.build(make_model(name, 8), images, arithmetic=arithmetic)
    assert np.array_equal(runtimes.load(runner.artefact)(images), runner(images))


def test_a_loaded_artefact_of_4_bit_matrices_gives_the_same_logits(make_model, images):
    runner = runtimes.build_weight_only(make_model("tiny_mlp"), images, 4)
    loaded = runtimes.load(runner.artefact, threads=2)
    assert np.allclose(loaded(images), runner(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [7, 4])  # their sums overflow nowhere
def test_without_optimisation_the_integers_are_simulated_in_fp32(make_model, images, name, bits):
    runner = runtimes.build(make_model(name, bits), images)
    simulated = runtimes.load(runner.artefact, optimise=False)
    assert not onnx_runtime.INT8_OPERATORS & simulated.operators.keys()
    assert {"QuantizeLinear", "DequantizeLinear"} <= simulated.operators.keys()
    assert simulated.kernel == "fp32"
    assert largest_difference(simulated(images), runner(images)) < 0.02
    assert simulated.artefact == runner.artefact


def test_without_optimisation_the_graph_runs_as_it_is_written(make_model, images):
    graph = export.export_onnx(make_model("tiny_mlp"), images)
    runner = runtimes.load(graph.SerializeToString(), optimise=False)
    written = [node.op_type for node in graph.graph.node]
    assert dict(runner.operators) == {kind: written.count(kind) for kind in written}
    assert np.allclose(runner(images), run(graph, images), atol=1e-6)


def change(edit: Callable[[onnx.ModelProto], object]):
    """Return a function that changes the bytes of an ONNX file through its graph."""

    def changed(content: bytes) -> bytes:
        graph = onnx.load_from_string(content)
        edit(graph)
        return graph.SerializeToString()

    return changed


def set_opset(version: int):
    return lambda content: with_opset(onnx.load_from_string(content), version).SerializeToString()


def add_input(graph):
    graph.graph.input.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [2]))


def add_output(graph):
    graph.graph.output.append(onnx.ValueInfoProto(name=graph.graph.node[0].output[0]))


NO_FILE = r"is no ONNX file \(\d+ bytes\); is it complete\?"
BROKEN = {
    "empty": (lambda content: b"", "cannot run this file|no ONNX file"),
    "words": (lambda content: b"certainly not an ONNX file", NO_FILE),
    "zeros": (lambda content: bytes(100), NO_FILE),
    "noise": (lambda content: np.random.default_rng(0).bytes(1000), NO_FILE),
    "half": (lambda content: content[: len(content) // 2], NO_FILE),
    "nearly all": (lambda content: content[:-1], NO_FILE),
    "one byte": (lambda content: content[:1], NO_FILE),
    "opset 40": (set_opset(40), "written in opset 40.*again with"),
    "opset 27": (set_opset(27), "written in opset 27.*again with"),
    "opset 6": (set_opset(6), "written in opset 6.*again with"),
    "IR version 99": (change(lambda graph: setattr(graph, "ir_version", 99)), "version 99"),
    "two inputs": (change(add_input), "one input and one output; this one has more"),
    "two outputs": (change(add_output), "one input and one output; this one has more"),
    "no input": (change(lambda graph: graph.graph.ClearField("input")), "'images' is not"),
    "a weight less": (change(lambda graph: graph.graph.initializer.pop(0)), "layers.0.weight"),
    "unknown operator": (
        change(lambda graph: setattr(graph.graph.node[0], "op_type", "Frobnicate")),
        "Frobnicate",
    ),
    "no opset": (change(lambda graph: graph.ClearField("opset_import")), "ONNX"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_with_a_reason(make_model, images, kind):
    content = runtimes.build(make_model("tiny_mlp"), images).artefact
    damage, reason = BROKEN[kind]
    with pytest.raises(ValueError, match=reason) as error:
        runtimes.load(damage(content))
    assert_told_without_a_traceback(error.value)
    assert "std::" not in str(error.value)


def test_half_of_a_packed_file_is_refused(make_model, images):
    content = runtimes.build(make_model("tiny_mlp", 5), images).artefact
    with pytest.raises(ValueError, match=NO_FILE):
        runtimes.load(content[: len(content) // 2])


# Matrices of few bits


@pytest.mark.parametrize("accuracy_level", [0, 4])
@pytest.mark.parametrize("block", [16, 32])
def test_more_bits_for_matrices_are_closer(make_model, images, accuracy_level, block):
    model = make_model("tiny_mlp")
    expected = logits_of(model, images)
    runners = [
        runtimes.build_weight_only(model, images, bits, block=block, accuracy_level=accuracy_level)
        for bits in (8, 4, 2)
    ]
    errors = [largest_difference(runner(images), expected) for runner in runners]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.03
    sizes = [runner.size_bytes for runner in runners]
    assert sizes[0] > sizes[1] > sizes[2]
    for bits, runner in zip((8, 4, 2), runners, strict=True):
        assert runner.kernel == f"{bits}-bit weights (MatMulNBits)"
        assert runner.operators["MatMulNBits"] == 3
        assert runner.remark == ""


@pytest.mark.parametrize(
    ("block", "blocks"), [(16, [9, 4, 2]), (32, [5, 2, 1]), (64, [3, 1, 1]), (256, [1, 1, 1])]
)
def test_each_block_of_a_column_has_a_scale_of_its_own(make_model, images, block, blocks):
    """The matrices have columns of 144, 64 and 32 weights."""
    runner = runtimes.build_weight_only(make_model("tiny_mlp"), images, 4, block=block)
    constants = constants_of(runner)
    graph = onnx.load_from_string(runner.artefact).graph
    scales = [constants[node.input[2]].size for node in graph.node if node.op_type == "MatMulNBits"]
    assert scales == [columns * count for columns, count in zip((64, 32, 10), blocks, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_as_exported_the_linear_layers_stay_floats(make_model, images, name):
    model = make_model(name)
    runner = runtimes.build_weight_only(model, images, 4, as_exported=True)
    assert runner.kernel == "fp32"
    assert runner.remark == "there is no matrix in this graph that the kernel could take"
    assert any("Gemm" in operator for operator in runner.operators)
    assert largest_difference(runner(images), logits_of(model, images)) < 1e-5


def test_convolutions_stay_as_they_are_and_the_remark_says_so(make_model, images):
    runner = runtimes.build_weight_only(make_model("tiny_convnet"), images, 8)
    assert runner.operators["MatMulNBits"] == 1
    assert runner.kernel == "8-bit weights (MatMulNBits)"
    assert runner.remark.startswith("only 1 of 10 layers has weights of 8 bits")
    expected = logits_of(make_model("tiny_convnet"), images)
    assert largest_difference(runner(images), expected) < INT8_TOLERANCE


def test_linear_layers_without_bias_are_rounded_too(images):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 32, bias=False), nn.ReLU(), nn.Linear(32, 10)
    )
    runner = runtimes.build_weight_only(model, images, 8)
    assert runner.operators["MatMulNBits"] == 2
    assert runner.remark == ""
    assert largest_difference(runner(images), logits_of(model, images)) < INT8_TOLERANCE


@pytest.mark.parametrize(
    ("bits", "block"),
    [(3, 32), (1, 32), (0, 32), (16, 32), (32, 32), (-4, 32), (4, 8), (4, 17), (4, 0), (4, 48),
     (8, -16), (4, 512)],
)  # fmt: skip
def test_widths_and_blocks_without_a_kernel_are_refused(make_model, images, bits, block):
    with pytest.raises(ValueError, match="MatMulNBits has kernels for 2, 4 and 8 bits") as error:
        runtimes.build_weight_only(make_model("tiny_mlp"), images, bits, block=block)
    assert f"not for {bits} bits" in str(error.value)
    assert_told_without_a_traceback(error.value)


def test_images_that_the_model_does_not_take_are_refused(make_model, images):
    with pytest.raises(ValueError, match="does not accept images of shape"):
        runtimes.build_weight_only(make_model("tiny_mlp"), images[:, :, :9], 4)


# A Gemm as MatMul and Add


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def make_graph(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], columns: int
) -> onnx.ModelProto:
    sides = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, length])
        for name, length in (("x", columns), ("y", None))
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    graph = helper.make_graph(nodes, "planted", sides[:1], sides[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kinds_of(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"transB": 1}, ["MatMul", "Add"]),
        ({"transB": 1, "alpha": 1.0, "beta": 1.0, "transA": 0}, ["MatMul", "Add"]),
        ({}, ["Gemm"]),
        ({"transB": 0}, ["Gemm"]),
        ({"transB": 1, "alpha": 2.0}, ["Gemm"]),
        ({"transB": 1, "beta": 0.5}, ["Gemm"]),
        ({"transB": 1, "transA": 1}, ["Gemm"]),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_a_gemm_as_matmul_computes_the_same(settings, kinds, biased):
    inputs = ["x", "w", "b"] if biased else ["x", "w"]
    node = helper.make_node("Gemm", inputs, ["y"], **settings)
    x = draw(6, 6)
    graph = make_graph([node], {"w": draw(6, 6), "b": draw(1, 1, 6).reshape(6)}, 6)
    changed = weight_only.gemm_to_matmul(graph)
    assert kinds_of(changed) == (kinds if biased else kinds[:1])
    assert np.allclose(run(changed, x), run(graph, x), rtol=1e-5, atol=1e-5)


def test_an_exported_model_computes_the_same_with_matmuls(make_model, images, name):
    graph = export.export_onnx(make_model(name), images)
    changed = weight_only.gemm_to_matmul(graph)
    assert "Gemm" not in kinds_of(changed)
    assert kinds_of(changed).count("MatMul") == kinds_of(graph).count("Gemm")
    assert np.allclose(run(changed, images), run(graph, images), rtol=1e-5, atol=1e-5)
    assert changed.ByteSize() < 1.1 * graph.ByteSize()  # no weight is in it twice


@pytest.mark.parametrize(
    "second",
    [
        helper.make_node("Gemm", ["h", "w", "b"], ["y"], transB=1),
        helper.make_node("Gemm", ["h", "w", "b"], ["y"], transB=0),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ],
    ids=["gemm", "gemm as it is", "matmul"],
)
def test_a_weight_that_two_nodes_read_computes_the_same(second):
    first = helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1)
    graph = make_graph([first, second], {"w": draw(6, 6), "b": draw(2, 3).reshape(6)}, 6)
    changed = weight_only.gemm_to_matmul(graph)
    names = [tensor.name for tensor in changed.graph.initializer]
    assert len(names) == len(set(names))
    x = draw(4, 6)
    assert np.allclose(run(changed, x), run(graph, x), rtol=1e-4, atol=1e-4)


def test_tied_layers_of_a_model_can_be_rounded(images):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(144, 144)

        def forward(self, images):
            return self.layer(torch.relu(self.layer(images.flatten(1))))

    model = Tied()
    runner = runtimes.build_weight_only(model, images, 8)
    assert runner.operators["MatMulNBits"] == 2
    assert largest_difference(runner(images), logits_of(model, images)) < INT8_TOLERANCE


def test_a_gemm_whose_weight_is_computed_is_left_as_it_is():
    weight = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(draw(6, 6)))
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    graph = make_graph([weight, gemm], {"b": draw(2, 3).reshape(6)}, 6)
    assert kinds_of(weight_only.gemm_to_matmul(graph)) == ["Constant", "Gemm"]
