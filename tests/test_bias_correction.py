"""Bias correction: outputs that are right on average, and nothing changed but the biases."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from course_utils.bias_correction import correct_biases
from course_utils.models import MLP
from course_utils.quantize import quantize_weights, quantized_weights

LAYERS = nn.Conv2d | nn.Linear


def grouped() -> nn.Module:
    """Return convolutions of one, of two and of all channels a group."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip


def partly_without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 16, bias=False), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip


def small_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(600, 10, bias=False)
    )


PLANTED = [small_convnet, grouped, partly_without_biases]


@pytest.fixture(params=[*(plant.__name__ for plant in PLANTED), "tiny_mlp", "tiny_convnet"])
def net(request) -> nn.Module:
    """Return each of the networks in turn: no output of a layer has a mean of 0."""
    if request.param.startswith("tiny"):
        return request.getfixturevalue(request.param)
    return seeded({plant.__name__: plant for plant in PLANTED}[request.param])


def seeded(plant) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plant().eval()


def mean_outputs(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean of each layer's outputs by channel, in float64."""
    means = {}

    def note(name: str, output: Tensor) -> None:
        axes = tuple(axis for axis in range(output.ndim) if axis != 1)
        means[name] = output.double().numpy().mean(axis=axes)

    noting = copy.deepcopy(model)
    for name, layer in noting.named_modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    with torch.inference_mode():
        noting(torch.from_numpy(images))
    return means


def biased_layers(model: nn.Module) -> set[str]:
    return {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and layer.bias is not None
    }


def off_by(model: nn.Module, original: nn.Module, images: np.ndarray) -> dict[str, float]:
    """Return how far each layer's mean outputs are off, beside the largest of them."""
    wanted, found = mean_outputs(original, images), mean_outputs(model, images)
    assert wanted.keys() == found.keys()
    return {
        name: float(np.abs(found[name] - mean).max() / np.abs(mean).max())
        for name, mean in wanted.items()
    }


# Right on average


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_layer_with_a_bias_is_right_on_average(net, images, bits, per_channel):
    rounded = quantize_weights(net, bits, per_channel)
    before = off_by(rounded, net, images)
    after = off_by(correct_biases(rounded, net, images), net, images)
    last = list(before)[-1]
    assert last in biased_layers(net)
    assert before[last] > 1e-3  # else there would be nothing to correct
    for name in biased_layers(net):
        assert after[name] < 1e-5


@pytest.mark.parametrize("count", [1, 2, 40])
def test_any_number_of_images_will_do(net, images, count):
    rounded = quantize_weights(net, 3)
    corrected = correct_biases(rounded, net, images[:count])
    after = off_by(corrected, net, images[:count])
    assert all(after[name] < 1e-5 for name in biased_layers(net))


def test_other_images_are_nearly_right_too(net, images):
    rounded = quantize_weights(net, 2)
    before = off_by(rounded, net, images[20:])
    after = off_by(correct_biases(rounded, net, images[:20]), net, images[20:])
    last = list(before)[-1]
    assert after[last] < before[last] / 2


def test_a_bias_is_moved_by_the_mean_error_of_its_channel(images):
    layer = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 10)))
    rounded = quantize_weights(layer, 2)
    inputs = images.reshape(len(images), -1).astype(np.float64)
    error = (layer[1].weight - rounded[1].weight).detach().double().numpy()
    moved = correct_biases(rounded, layer, images)[1].bias - layer[1].bias
    assert moved.detach().numpy() == pytest.approx(inputs.mean(axis=0) @ error.T, abs=1e-5)


class OnTokens(nn.Module):
    """Runs one layer on each row of an image: (n, rows, columns) -> (n, rows, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.rows, self.head = nn.Linear(12, width), nn.Linear(12 * width, 10)

    def forward(self, images):
        return self.head(self.rows(images[:, 0]).relu().flatten(1))


@pytest.mark.parametrize("width", [12, 5])  # as many channels as rows, and fewer
def test_the_channels_of_a_linear_layer_are_its_last_axis(width, images):
    net = seeded(lambda: OnTokens(width))
    corrected = correct_biases(quantize_weights(net, 2), net, images)
    rows = torch.from_numpy(images)[:, 0]
    with torch.inference_mode():
        off = (corrected.rows(rows) - net.rows(rows)).mean((0, 1))
    assert off.abs().max() < 1e-5


# What changes, and what does not


def test_the_biases_change_at_two_bits(net, images):
    rounded = quantize_weights(net, 2)
    corrected = correct_biases(rounded, net, images)
    for name in biased_layers(net):
        before, after = (model.get_submodule(name).bias for model in (rounded, corrected))
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        assert not torch.allclose(after, before, rtol=0.01, atol=1e-3)


def test_all_but_the_biases_stays_as_it_is(net, images):
    rounded = quantize_weights(net, 3)
    corrected = correct_biases(rounded, net, images)
    before, after = rounded.state_dict(), corrected.state_dict()
    assert before.keys() == after.keys()
    changing = {f"{name}.bias" for name in biased_layers(net)}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - changing)
    weights, kept = quantized_weights(rounded), quantized_weights(corrected)
    assert weights.keys() == kept.keys()
    assert len(kept) == sum(isinstance(layer, LAYERS) for layer in net.modules())
    for name, weight in weights.items():
        assert torch.equal(kept[name].integers, weight.integers)
        assert torch.equal(kept[name].scale, weight.scale)
        assert kept[name].bits == 3


def test_layers_without_a_bias_get_none(images):
    net = seeded(partly_without_biases)
    corrected = correct_biases(quantize_weights(net, 2), net, images)
    assert biased_layers(corrected) == biased_layers(net) == {"2", "7"}


def test_a_net_without_biases_is_left_alone(images):
    net = seeded(without_biases)
    rounded = quantize_weights(net, 2)
    corrected = correct_biases(rounded, net, images)
    assert corrected is not rounded
    before, after = rounded.state_dict(), corrected.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_net_that_was_not_rounded_stays_as_it_is(net, images):
    corrected = correct_biases(quantize_weights(net, 32), net, images)
    for name, parameter in net.named_parameters():
        assert torch.allclose(corrected.get_parameter(name), parameter, atol=1e-6)


def test_the_arguments_stay_as_they_are(net, images):
    rounded = quantize_weights(net, 2)
    shown = images.copy()
    given = (net, rounded)
    before = [copy.deepcopy(model.state_dict()) for model in given]
    correct_biases(rounded, net, shown)
    assert np.array_equal(shown, images)
    for model, kept in zip(given, before, strict=True):
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
        assert not any(layer._forward_hooks for layer in model.modules())
    quantized_weights(rounded)  # they still stand for its weights


def test_a_net_in_training_mode_is_not_changed_by_being_looked_at(images):
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(400, 10)
        )
    )
    nn.init.uniform_(net[1].running_mean, 0.5, 1, torch.Generator().manual_seed(0))
    expected = correct_biases(quantize_weights(net, 2), net, images).state_dict()
    net.train()
    rounded = quantize_weights(net, 2)
    before = [copy.deepcopy(model.state_dict()) for model in (net, rounded)]
    corrected = correct_biases(rounded, net, images)
    assert net.training
    assert corrected.training
    for model, kept in zip((net, rounded), before, strict=True):
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    for name, value in corrected.state_dict().items():
        assert torch.equal(value, expected[name])


def test_the_corrected_net_has_no_hooks_and_can_be_corrected_again(net, images):
    once = correct_biases(quantize_weights(net, 2), net, images)
    assert not any(layer._forward_hooks for layer in once.modules())
    twice = correct_biases(once, net, images)
    for name in biased_layers(net):
        first, second = (model.get_submodule(name).bias for model in (once, twice))
        assert torch.allclose(first, second, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: MLP([144, 64, 10]), id="a layer less"),
        pytest.param(lambda: MLP([144, 64, 32, 16, 10]), id="a layer more"),
        pytest.param(lambda: MLP([144, 48, 32, 10]), id="another width"),
        pytest.param(small_convnet, id="other layers"),
        pytest.param(nn.Flatten, id="no layer at all"),
    ],
)
def test_a_net_of_other_layers_is_refused(tiny_mlp, images, other):
    strange = seeded(other)
    for rounded, original in ((strange, tiny_mlp), (tiny_mlp, strange)):
        with pytest.raises(ValueError, match="does not have the layers of the original one"):
            correct_biases(rounded, original, images)


def test_without_images_there_is_no_mean(net, images):
    with pytest.raises(ValueError, match="no images to take the means over"):
        correct_biases(quantize_weights(net, 2), net, images[:0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(tiny_mlp, images, value):
    strange = images.copy()
    strange[3, 0, 1, 1] = value
    with pytest.raises(ValueError, match="no images to take the means over, or some hold NaN"):
        correct_biases(quantize_weights(tiny_mlp, 2), tiny_mlp, strange)
