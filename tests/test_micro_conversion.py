"""From a trained network to whole numbers: close to it, and nothing else is taken."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import calibrate, datasets, distill, micro
from course_utils.micro.integers import Addition, Convolution, Linear, Mean
from course_utils.models import DSCNN

NAMES = ["tiny_resnet", "tiny_mlp", "tiny_ds_cnn"]
IMAGES = 24


@pytest.fixture(scope="module")
def tiny_ds_cnn() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DSCNN(width=8)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_var, 0.02, 0.1)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
    return network.eval()


@pytest.fixture(scope="module", params=NAMES)
def model(request) -> nn.Module:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def network(model, images) -> micro.IntegerNetwork:
    return micro.quantize_to_integers(model, images)


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def dequantize(tensor, values: np.ndarray) -> torch.Tensor:
    """Return real numbers (n, channels, rows, columns)."""
    real = tensor.scale * (values.astype(np.float64) - tensor.zero_point)
    return torch.from_numpy(real).permute(0, 3, 1, 2)


def compute(network: micro.IntegerNetwork, operation, values: list[torch.Tensor]) -> torch.Tensor:
    """Return what an operation stands for, in real numbers, before the result is rounded."""
    if isinstance(operation, Addition):
        return values[0] + values[1]
    if isinstance(operation, Mean):
        return values[0].mean(dim=(2, 3), keepdim=True)
    source, target = network.tensors[operation.inputs[0]], network.tensors[operation.output]
    products = operation.multiplier / 2.0**operation.shift * target.scale  # step of the products
    bias = torch.from_numpy(operation.bias * products)
    steps = products / source.scale
    if isinstance(operation, Linear):
        weight = torch.from_numpy(operation.weight * steps[:, None])
        flat = values[0].permute(0, 2, 3, 1).flatten(1)
        return F.linear(flat, weight, bias)[..., None, None]
    weight = torch.from_numpy(operation.weight * steps[:, None, None, None]).permute(0, 3, 1, 2)
    return F.conv2d(
        values[0], weight, bias, operation.stride, operation.padding, groups=operation.groups
    )


def fake_quantize(network: micro.IntegerNetwork, operation, real: torch.Tensor) -> torch.Tensor:
    """Return real numbers on the grid of an operation's output, within its range."""
    if isinstance(operation, Linear) and operation.gives_logits:
        return real
    target = network.tensors[operation.output]
    levels = torch.floor(real / target.scale + 0.5) + target.zero_point
    return target.scale * (levels.clamp(operation.low, 127) - target.zero_point)


def test_the_whole_is_within_a_step_of_the_fake_quantized_network(network, images):
    integers = list(network.trace(images[:IMAGES]))
    values = [dequantize(network.tensors[0], integers[0])]
    for operation in network.operations:
        given = [values[number] for number in operation.inputs]
        values.append(fake_quantize(network, operation, compute(network, operation, given)))
    for number, (tensor, found) in enumerate(zip(network.tensors, integers, strict=True)):
        apart = (dequantize(tensor, found) - values[number]).abs() / tensor.scale
        assert apart.max() <= 1 + 1e-6, f"tensor {number}"
        assert apart.mean() < 0.5


def test_its_logits_are_near_those_of_the_float_network(model, network, images):
    expected = logits_of(model, images)
    found = network.run(images) * network.logit_scale
    assert np.abs(found - expected).max() <= 0.08 * np.abs(expected).max()


def test_weights_are_symmetric_with_a_scale_for_each_output(network):
    for operation in network.operations:
        if isinstance(operation, Convolution | Linear):
            largest = np.abs(operation.weight.reshape(len(operation.weight), -1)).max(axis=1)
            assert (largest == 127).all()
            assert ((operation.multiplier >= 2**30) & (operation.multiplier < 2**31)).all()
            assert (operation.shift > 32).all()


def test_relus_end_at_the_zero_point_and_nothing_else_does(tiny_ds_cnn, images):
    network = micro.quantize_to_integers(tiny_ds_cnn, images)
    rectified = {one.name for one in network.operations
                 if one.low == network.tensors[one.output].zero_point}  # fmt: skip
    plain = {f"block{block}.pointwise" for block in (1, 2, 3, 5)}  # their ReLU follows an addition
    weighted = {one.name for one in network.operations if isinstance(one, Convolution)}
    assert weighted - rectified == plain
    for operation, found in zip(network.operations, list(network.trace(images))[1:], strict=True):
        assert found.min() >= operation.low if found.dtype == np.int8 else True


def test_the_model_stays_as_it_is(tiny_resnet, images):
    before = copy.deepcopy(tiny_resnet.state_dict())
    micro.quantize_to_integers(tiny_resnet, images)
    assert all(torch.equal(before[name], now) for name, now in tiny_resnet.state_dict().items())


def test_another_method_of_calibration_gives_narrower_ranges(tiny_resnet, images):
    wide = micro.quantize_to_integers(tiny_resnet, images)
    narrow = micro.quantize_to_integers(
        tiny_resnet, images, method=lambda seen: calibrate.percentile(seen, 95)
    )
    assert narrow.tensors[1].scale < 0.95 * wide.tensors[1].scale


class Written(nn.Module):
    """Written otherwise than the networks of the course."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, (3, 5), stride=(2, 1), padding="valid")
        self.grouped = nn.Conv2d(6, 6, 3, padding="same", groups=2, bias=False)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(images))
        x = (x + self.grouped(x)).relu()
        return self.head(self.hidden(self.pool(x)).relu())


def make_flattening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(75, 4))


@pytest.mark.parametrize("make", [Written, make_flattening])
def test_other_ways_to_write_a_network_are_understood(make, images):
    torch.manual_seed(0)
    model = make().eval()
    network = micro.quantize_to_integers(model, images)
    expected = logits_of(model, images)
    found = network.run(images) * network.logit_scale
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
    run = micro.load_c(network, micro.write_c(network, "other"), "other", ["-O1"])
    assert np.array_equal(run(images), network.run(images))


def test_dead_channels_and_dead_layers_keep_their_biases(images):
    torch.manual_seed(0)
    model = make_flattening()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].weight[1] *= 1e-20
        model[0].bias[:2] = torch.tensor([0.3, 0.2])
        model[3].weight[2] = 0
    expected = logits_of(model, images)
    network = micro.quantize_to_integers(model, images)
    assert np.allclose(network.run(images) * network.logit_scale, expected, atol=0.02)
    with torch.no_grad():
        model[0].bias[:] = -5  # no output is ever above 0
    network = micro.quantize_to_integers(model, images)
    assert np.allclose(
        network.run(images) * network.logit_scale, model[3].bias.detach(), atol=0.001
    )


class Calls(nn.Module):
    """A convolution, then what is given."""

    def __init__(self, then) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.then = then

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.then(self, self.conv(images)).mean(dim=(2, 3))


UNSUPPORTED = {
    "sigmoid": (Calls(lambda self, x: torch.sigmoid(x)), "The call 'sigmoid' cannot"),
    "norm": (Calls(lambda self, x: self.norm(torch.relu(x))), "'norm', a BatchNorm2d, cannot"),
    "plus 1": (Calls(lambda self, x: x + 1), "should read 2 tensors"),
    "add twice": (Calls(lambda self, x: torch.add(x, x, alpha=2)), "multiplies what it adds"),
    "broadcast": (Calls(lambda self, x: x + x.mean(dim=(2, 3), keepdim=True)), "of two shapes"),
    "two readers": (Calls(lambda self, x: x + torch.relu(x)), "ReLU of what others read"),
    "one axis": (Calls(lambda self, x: x + x.mean(dim=3, keepdim=True)), "no mean over the plane"),
    "view": (Calls(lambda self, x: x.reshape(-1, 4, 4, 25)), "only flattening"),
    "max pool": (
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
        "'0', a MaxPool2d, pools",
    ),
    "dilation": (
        nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten()),
        "'0', a Conv2d, has a dilation",
    ),
    "circular": (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "padding"),
    "on rows": (nn.Sequential(nn.Linear(12, 4), nn.Flatten()), "flatten it first"),
    "a plane": (nn.Sequential(nn.Conv2d(1, 4, 3)), "returns logits"),
    "nothing": (nn.Flatten(), "returns logits"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name, images):
    model, told = UNSUPPORTED[name]
    with pytest.raises(ValueError, match=told) as caught:
        micro.quantize_to_integers(model, images)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda images: images * 255, "divided by 255"),
        (lambda images: images[:0], "n of 1 or more"),
        (lambda images: (images * 255).astype(np.uint8), "float32"),
        (lambda images: np.where(images > 0.5, np.nan, images), "NaN"),
        (lambda images: images[:, :, :, :3].repeat(2, axis=1), "does not accept"),
    ],
)
def test_images_unfit_to_calibrate_on_are_refused(spoil, told, tiny_resnet, images):
    with pytest.raises(ValueError, match=told):
        micro.quantize_to_integers(tiny_resnet, spoil(images))


def test_a_model_that_branches_is_refused(images):
    branching = Calls(lambda self, x: x if x.sum() > 0 else -x)
    with pytest.raises(ValueError, match="cannot be traced"):
        micro.quantize_to_integers(branching, images)


def test_weights_that_are_no_numbers_are_refused(tiny_mlp, images):
    broken = copy.deepcopy(tiny_mlp)
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        micro.quantize_to_integers(broken, images)


def test_a_bias_far_above_all_else_is_refused(images):
    model = make_flattening()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = -1e6
    with pytest.raises(ValueError, match="do not fit into 32 bits"):
        micro.quantize_to_integers(model, images)


def test_the_student_stays_as_accurate():
    student = distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model
    fashion = datasets.load_fashion()
    network = micro.quantize_to_integers(student, fashion.calibration.images[:200])
    some = fashion.test.first(1000)
    answers = network.run(some.images).argmax(axis=1)
    expected = logits_of(student, some.images).argmax(axis=1)
    assert (answers == expected).mean() > 0.99
    assert (answers == some.labels).mean() > (expected == some.labels).mean() - 0.005
