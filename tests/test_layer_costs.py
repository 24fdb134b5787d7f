"""Layer costs: exact, as counted by hand and by two published counters."""

import copy
import math

import numpy as np
import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from course_utils import models, quantize
from course_utils.layer_costs import LayerCost, ModelCosts, count_costs

# torch says so where the zeros of a padding are not the same on both sides, as one of ours.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
PIXELS = np.zeros((1, 1, 28, 28), np.float32)
SMALL = np.zeros((1, 8, 9, 7), np.float32)
COURSE = ["resnet8_w32_fashion", "resnet8_w16_fashion", "mlp_1024_fashion", "lenet_300_100_fashion"]
CONVOLUTIONS = {
    "plain": nn.Conv2d(8, 12, 3),
    "padded": nn.Conv2d(8, 12, 3, padding=1),
    "same": nn.Conv2d(8, 12, (3, 4), padding="same", bias=False),
    "strided": nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
    "strided 1x1": nn.Conv2d(8, 12, 1, stride=(2, 3)),
    "dilated": nn.Conv2d(8, 12, 3, dilation=2),
    "oblong": nn.Conv2d(8, 12, (1, 5)),
    "grouped": nn.Conv2d(8, 12, 3, groups=4),
    "depthwise": nn.Conv2d(8, 8, 3, groups=8, bias=False),
    "depthwise, multiplied": nn.Conv2d(8, 16, 3, groups=8, padding=1),
}


def by_name(costs: ModelCosts) -> dict[str, LayerCost]:
    found = {layer.name: layer for layer in costs.layers}
    assert len(found) == len(costs.layers), "a layer was called twice"
    return found


def count_by_torch(model: nn.Module, images: np.ndarray) -> int:
    """Return what torch's own counter finds: two for each MAC of a product or convolution.

    It counts no biases, batch norms, ReLUs or additions.
    """
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.from_numpy(images))
    return counter.get_total_flops()


def count_by_ptflops(model: nn.Module, images: np.ndarray) -> tuple[int, int]:
    """Return MACs and parameters as ptflops finds them.

    Its "aten" backend counts products and convolutions, and one more for each value to which a
    bias is added; no batch norms, ReLUs or additions.
    """
    found = get_model_complexity_info(
        model.eval(), images.shape[1:], False, False, backend="aten", verbose=False
    )
    return found


def count_biased_values(model: nn.Module, costs: ModelCosts) -> int:
    """Return how many output values have a bias added to them."""
    layers = dict(model.named_modules())
    return sum(
        cost.output_bytes // 4
        for cost in costs.layers
        if cost.kind in ("convolution", "linear") and layers[cost.name].bias is not None
    )


def count_products(costs: ModelCosts) -> int:
    return sum(cost.macs for cost in costs.layers if cost.kind != "batch norm")


class TwoInOne(nn.Module):
    """Calls one layer twice, keeps an early activation, and looks at shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 6)
        self.shared = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.shared.weight

    def forward(self, x):
        x = self.first(x.view(x.size(0), -1))
        y = self.shared(self.shared(x).relu())
        return self.tied(x + y)


# By hand


def test_a_stem_costs_what_is_counted_by_hand():
    costs = by_name(count_costs(models.ResNet8(32), PIXELS))
    stem = costs["stem"]
    assert stem.kind == "convolution"
    assert stem.macs == 28 * 28 * 32 * 1 * 9
    assert stem.flop == 2 * stem.macs
    assert stem.parameters == 32 * 1 * 9
    assert stem.weight_bytes == 4 * 288
    assert stem.input_bytes == 4 * 28 * 28
    assert stem.output_bytes == 4 * 28 * 28 * 32
    assert stem.bytes_moved == 1152 + 3136 + 100_352
    assert stem.flop_per_byte == pytest.approx(451_584 / 104_640)


@pytest.mark.parametrize("width", [16, 32])
def test_a_resnet_costs_what_is_counted_by_hand(width):
    w = width
    macs = {
        "stem": 28**2 * w * 9,
        "block1.conv1": 28**2 * w * w * 9,
        "block1.conv2": 28**2 * w * w * 9,
        "block2.conv1": 14**2 * 2 * w * w * 9,
        "block2.conv2": 14**2 * 2 * w * 2 * w * 9,
        "block2.shortcut.0": 14**2 * 2 * w * w,
        "block3.conv1": 7**2 * 4 * w * 2 * w * 9,
        "block3.conv2": 7**2 * 4 * w * 4 * w * 9,
        "block3.shortcut.0": 7**2 * 4 * w * 2 * w,
        "head": 4 * w * 10,
    }
    norms = {
        "norm": 28**2 * w,
        **{f"block1.norm{n}": 28**2 * w for n in (1, 2)},
        **{f"block2.{name}": 14**2 * 2 * w for name in ("norm1", "norm2", "shortcut.1")},
        **{f"block3.{name}": 7**2 * 4 * w for name in ("norm1", "norm2", "shortcut.1")},
    }
    model = models.ResNet8(width)
    costs = count_costs(model, PIXELS)
    found = {layer.name: layer.macs for layer in costs.layers if layer.macs}
    assert found == macs | norms
    assert costs.macs == sum(macs.values()) + sum(norms.values())
    folded = count_costs(quantize.fold_batch_norms(model), PIXELS)
    assert {layer.name: layer.macs for layer in folded.layers if layer.macs} == macs
    channels = w + 2 * w + 3 * 2 * w + 3 * 4 * w  # of the batch norms: gain and bias become a bias
    assert costs.parameters - folded.parameters == channels
    assert costs.weight_bytes - folded.weight_bytes == 4 * (4 * channels - channels)


def test_what_has_no_multiply_adds_is_listed_with_its_bytes():
    costs = by_name(count_costs(models.ResNet8(32), PIXELS))
    plane = 4 * 28 * 28 * 32
    assert (costs["add"].kind, costs["add"].macs, costs["add"].flop_per_byte) == ("add", 0, 0)
    assert (costs["add"].input_bytes, costs["add"].output_bytes) == (2 * plane, plane)
    assert (costs["relu"].input_bytes, costs["relu"].output_bytes) == (plane, plane)
    assert (costs["mean"].input_bytes, costs["mean"].output_bytes) == (4 * 128 * 7 * 7, 4 * 128)
    kinds = [cost.kind for cost in costs.values()]
    assert [kinds.count(kind) for kind in ("relu", "add", "mean")] == [7, 3, 1]


def test_a_batch_norm_reads_its_statistics_too():
    norm = by_name(count_costs(models.ResNet8(32), PIXELS))["norm"]
    assert (norm.macs, norm.parameters, norm.weight_bytes) == (28 * 28 * 32, 2 * 32, 4 * 4 * 32)


def test_a_stride_passes_over_what_it_does_not_need():
    costs = by_name(count_costs(models.ResNet8(32), PIXELS))
    assert costs["block2.shortcut.0"].input_bytes == 4 * 32 * 14 * 14  # of 28 × 28
    assert costs["block2.conv1"].input_bytes == 4 * 32 * 28 * 28
    (uneven,) = count_costs(CONVOLUTIONS["strided 1x1"], SMALL).layers
    assert uneven.input_bytes == 4 * 8 * 5 * 3  # rows 0, 2, 4, 6, 8 and columns 0, 3, 6


def test_a_batch_costs_its_images_but_reads_the_weights_once():
    one = count_costs(models.MLP([784, 30, 10]), PIXELS)
    many = count_costs(models.MLP([784, 30, 10]), np.repeat(PIXELS, 16, axis=0))
    assert many.macs == 16 * one.macs == 16 * (784 * 30 + 30 * 10)
    assert many.weight_bytes == one.weight_bytes == 4 * (784 * 30 + 30 + 30 * 10 + 10)
    assert many.flop_per_byte > one.flop_per_byte
    for few, more in zip(one.layers, many.layers, strict=True):
        assert more.output_bytes == 16 * few.output_bytes
        assert more.weight_bytes == few.weight_bytes


def test_int8_moves_a_quarter_of_the_bytes_but_for_the_biases():
    model = quantize.fold_batch_norms(models.ResNet8(16))
    fp32 = count_costs(model, PIXELS)
    int8 = count_costs(model, PIXELS, bytes_per_weight=1, bytes_per_activation=1)
    assert (int8.macs, int8.parameters) == (fp32.macs, fp32.parameters)
    biases = sum(tensor.numel() for name, tensor in model.named_parameters() if "bias" in name)
    assert int8.weight_bytes == (fp32.weight_bytes - 4 * biases) / 4 + 4 * biases
    assert 4 * int8.peak_activation_bytes == fp32.peak_activation_bytes
    for narrow, wide in zip(int8.layers, fp32.layers, strict=True):
        assert 4 * narrow.output_bytes == wide.output_bytes


def test_half_bytes_are_rounded_up():
    layer = nn.Linear(3, 3, bias=False)
    (cost,) = count_costs(layer, np.zeros((1, 3), np.float32), bytes_per_weight=0.5).layers
    assert cost.weight_bytes == math.ceil(9 / 2)


# What has to exist at once


def test_the_peak_of_a_resnet_is_in_its_first_block():
    costs = count_costs(models.ResNet8(32), PIXELS)
    plane = 4 * 28 * 28 * 32
    assert costs.peak_activation_bytes == 3 * plane  # shortcut, input and output of conv2
    live = {name: layer.live_bytes for name, layer in by_name(costs).items()}
    assert live["stem"] == 4 * 28 * 28 + plane
    assert live["relu"] == plane  # written over the sums of the stem
    assert live["block1.conv1"] == 2 * plane
    assert live["block1.conv2"] == 3 * plane
    assert live["add"] == 2 * plane
    assert live["block2.conv2"] == plane + plane // 2 + plane // 2
    assert live["head"] == 4 * 128 + 4 * 10


def test_an_mlp_holds_the_input_and_output_of_one_layer():
    costs = count_costs(models.MLP([784, 300, 100, 10]), PIXELS)
    live = [layer.live_bytes for layer in costs.layers]
    assert live == [4 * n for n in (784 + 300, 300, 300 + 100, 100, 100 + 10)]
    assert costs.peak_activation_bytes == 4 * (784 + 300)


def test_an_activation_stays_until_its_last_reader():
    costs = count_costs(TwoInOne(), np.zeros((2, 4, 5), np.float32))
    kept = 4 * 2 * 6
    live = [layer.live_bytes // kept for layer in costs.layers[1:]]
    assert live == [2, 2, 3, 2, 2]  # shared, relu, shared, add, tied
    assert costs.layers[0].live_bytes == 4 * 2 * 20 + kept


@pytest.mark.parametrize("inplace", [True, False])
def test_writing_in_place_needs_no_memory_of_its_own(inplace):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace), nn.Dropout(), nn.Flatten())
    costs = count_costs(model, np.zeros((1, 4), np.float32))
    assert [layer.kind for layer in costs.layers] == ["linear", "relu"]
    assert [layer.live_bytes for layer in costs.layers] == [32, 16]
    assert costs.layers[1].bytes_moved == 32


def test_a_relu_whose_input_is_read_again_needs_memory():
    class Twice(nn.Module):
        def forward(self, x):
            return F.relu(x) + x

    costs = count_costs(Twice(), np.zeros((1, 4), np.float32))
    assert [layer.live_bytes for layer in costs.layers] == [32, 32]


# Layers called again


def test_a_layer_called_twice_costs_twice_but_is_stored_once():
    model = TwoInOne()
    costs = count_costs(model, np.zeros((2, 4, 5), np.float32))
    names = ["first", "shared", "relu", "shared", "add", "tied"]
    assert [layer.name for layer in costs.layers] == names
    assert [layer.macs for layer in costs.layers] == [240, 72, 0, 72, 0, 72]
    assert [layer.parameters for layer in costs.layers] == [126, 42, 0, 0, 0, 0]
    assert [layer.weight_bytes for layer in costs.layers] == [504, 168, 0, 168, 0, 144]
    assert costs.parameters == models.count_parameters(model) == 168
    assert costs.weight_bytes == 4 * 168


# Published counters


@pytest.mark.parametrize("name", COURSE)
@pytest.mark.parametrize("fold", [False, True], ids=["batch norms", "folded"])
def test_published_counters_agree_on_the_course_s_models(name, fold):
    model = models.build_model(name).eval()
    model = quantize.fold_batch_norms(model) if fold else model
    costs = count_costs(model, PIXELS)
    assert 2 * count_products(costs) == count_by_torch(model, PIXELS)
    macs, parameters = count_by_ptflops(model, PIXELS)
    assert count_products(costs) + count_biased_values(model, costs) == macs
    assert costs.parameters == parameters == models.count_parameters(model)


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_published_counters_agree_on_every_kind_of_convolution(layer):
    model = nn.Sequential(layer)
    costs = count_costs(model, SMALL)
    assert 2 * costs.macs == count_by_torch(model, SMALL)
    macs, parameters = count_by_ptflops(model, SMALL)
    assert (costs.macs + count_biased_values(model, costs), costs.parameters) == (macs, parameters)
    assert costs.weight_bytes == 4 * parameters


def test_a_depthwise_convolution_has_one_channel_a_filter():
    (cost,) = count_costs(CONVOLUTIONS["depthwise"], SMALL).layers
    assert cost.macs == 7 * 5 * 8 * 9


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_what_a_convolution_reads_is_what_its_output_depends_on(layer):
    layer = copy.deepcopy(layer)
    nn.init.ones_(layer.weight)  # of one sign: random ones may cancel to exactly nothing
    image = torch.zeros(1, 8, 9, 7, requires_grad=True)
    layer(image).sum().backward()
    (cost,) = count_costs(layer, SMALL).layers
    assert cost.input_bytes == 4 * int((image.grad != 0).sum())


# Bad input


def test_images_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"does not accept float32 images of shape \(1, 3, 8, 8\)"):
        count_costs(models.ResNet8(4), np.zeros((1, 3, 8, 8), np.float32))


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="no images in this batch"):
        count_costs(models.ResNet8(4), PIXELS[:0])


@pytest.mark.parametrize("size", [{"bytes_per_weight": 0}, {"bytes_per_activation": -1}])
def test_bytes_have_to_be_above_0(size):
    with pytest.raises(ValueError, match="give numbers above 0"):
        count_costs(models.ResNet8(4), PIXELS, **size)


@pytest.mark.parametrize(
    "layer", [nn.Softmax(1), nn.ConvTranspose2d(1, 2, 3), nn.Bilinear(2, 2, 2), nn.GELU()]
)
def test_a_layer_that_cannot_be_counted_is_named(layer):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = layer

        def forward(self, x):
            return self.odd(x, x) if isinstance(layer, nn.Bilinear) else self.odd(x)

    images = np.zeros((1, 2) if isinstance(layer, nn.Bilinear) else (1, 1, 5, 5), np.float32)
    with pytest.raises(
        ValueError, match=rf"how many multiply-adds 'odd', a {type(layer).__name__}"
    ):
        count_costs(Odd(), images)


@pytest.mark.parametrize("function", [torch.square, lambda x: x @ x.T, lambda x: x * 2])
def test_a_function_that_cannot_be_counted_is_named(function):
    class Odd(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(ValueError, match=r"a call of '(square|getattr|mul)'"):
        count_costs(Odd(), np.zeros((2, 2), np.float32))


def test_a_parameter_outside_of_a_layer_is_named():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x + self.offset

    with pytest.raises(ValueError, match="'offset', a tensor that is used outside of a layer"):
        count_costs(Scaled(), np.zeros((2, 2), np.float32))


def test_a_model_that_branches_on_values_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else x + 1

    with pytest.raises(ValueError, match="must not branch on the values"):
        count_costs(Branching(), np.zeros((2, 2), np.float32))


def test_the_model_is_left_as_it_is():
    model = models.ResNet8(4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_costs(model, PIXELS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
