"""Quantization-aware training: where it rounds, what conversion keeps, and that it helps."""

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from recipes import PLAIN
from torch import fx, nn

from course_utils import models, quantize
from course_utils.quantize import (
    RoundedLayer,
    aware,
    convert_aware,
    find_roundings,
    prepare_aware,
    quantized_weights,
    spread_integers,
    train_aware,
)
from course_utils.training import DivergedError, Recipe, evaluate

NAMES = ["trained_resnet", "trained_mlp"]


@pytest.fixture(params=NAMES)
def trained(request) -> nn.Module:
    """Return each of the trained networks in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def calibration(pictures) -> np.ndarray:
    return pictures.images[:200]


@pytest.fixture(scope="module")
def unseen(pictures) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(pictures.images[600:]), torch.from_numpy(pictures.labels[600:])


def seeded(make, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*arguments)


def sequential(*layers) -> nn.Module:
    return nn.Sequential(*layers).eval()


@torch.inference_mode()
def logits_of(model, images) -> torch.Tensor:
    return model(torch.as_tensor(images))


def assert_same_state(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def widths_of(model: nn.Module) -> dict[str, int]:
    return {name: rounding.bits for name, rounding in find_roundings(model).items()}


def weight_widths_of(prepared: nn.Module) -> dict[str, int]:
    layers = prepared.named_modules()
    return {name: one.rounding.bits for name, one in layers if isinstance(one, RoundedLayer)}


# Where it rounds


def test_the_roundings_of_a_resnet(trained_resnet, calibration):
    prepared = prepare_aware(trained_resnet, 3, calibration)
    assert weight_widths_of(prepared) == {
        "stem": 8, "block1.conv1": 3, "block1.conv2": 3, "block2.conv1": 3, "block2.conv2": 3,
        "block2.shortcut.0": 3, "block3.conv1": 3, "block3.conv2": 3, "block3.shortcut.0": 3,
        "head": 8,
    }  # fmt: skip
    assert widths_of(prepared) == {
        "round_images": 8,
        "round_relu": 3, "round_relu_1": 3, "round_block1_norm2": 8,  # a sum reads it: 8 bits
        "round_relu_2": 3, "round_relu_3": 3, "round_block2_norm2": 8,
        "round_block2_shortcut_1": 8,
        "round_relu_4": 3, "round_relu_5": 3, "round_block3_norm2": 8,
        "round_block3_shortcut_1": 8,
        "round_relu_6": 8, "round_mean": 8, "round_head": 8,
    }  # fmt: skip


def test_the_roundings_of_fully_connected_layers(trained_mlp, calibration):
    prepared = prepare_aware(trained_mlp, 2, calibration)
    assert weight_widths_of(prepared) == {"layers.0": 8, "layers.1": 2, "layers.2": 8}
    assert widths_of(prepared) == {
        "round_images": 8, "round_relu": 2, "round_relu_1": 8, "round_layers_2": 8,
    }  # fmt: skip


def test_a_width_by_the_name_of_each_layer_holds_for_the_outer_ones_too(trained_mlp, calibration):
    widths = {"layers.0": 3, "layers.1": 2, "layers.2": 5}
    prepared = prepare_aware(trained_mlp, widths, calibration)
    assert weight_widths_of(prepared) == widths
    assert widths_of(prepared) == {
        "round_images": 8, "round_relu": 2, "round_relu_1": 5, "round_layers_2": 8,
    }  # fmt: skip


def test_what_layers_of_two_widths_read_has_the_wider_one(trained_resnet, calibration):
    widths = dict.fromkeys(quantize.count_weights(trained_resnet), 2)
    widths |= {"block2.conv1": 3, "block2.shortcut.0": 5}
    rounded = widths_of(prepare_aware(trained_resnet, widths, calibration))
    assert rounded["round_relu_2"] == 5
    assert rounded["round_relu"] == rounded["round_relu_3"] == 2


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(lambda: [nn.Flatten(), nn.Linear(256, 10)], id="flatten"),
        pytest.param(lambda: [nn.Dropout(), nn.Flatten(), nn.Linear(256, 10)], id="dropout"),
        pytest.param(lambda: [nn.Identity(), nn.Flatten(), nn.Linear(256, 10)], id="identity"),
        pytest.param(lambda: [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)], id="max pool"),
    ],
)
def test_layers_that_only_move_values_are_looked_through(calibration, between):
    """The width is that of the layer behind, and nothing is rounded twice."""
    net = sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *between()
    )  # fmt: skip
    widths = {name: 2 + number for number, name in enumerate(quantize.count_weights(net))}
    prepared = prepare_aware(net, widths, calibration)
    assert list(widths_of(prepared).values()) == [8, 3, 4, 8]


class Views(nn.Module):
    """Flattens as many networks do: with a size that it asks for."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(144, 20), nn.Linear(20, 10)

    def forward(self, images):
        return self.last(torch.relu(self.first(self.how(images))))


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.view(x.size(0), -1), lambda x: x.reshape(x.shape[0], -1),
        lambda x: torch.flatten(x, 1), lambda x: x.reshape(-1, 144).contiguous(),
    ],
)  # fmt: skip
def test_every_way_to_flatten_is_taken(calibration, how):
    net = seeded(Views, how).eval()
    prepared = prepare_aware(net, {"first": 4, "last": 4}, calibration)
    assert list(widths_of(prepared).values()) == [8, 4, 8]
    assert_answers_stay(prepared, calibration)


def test_a_batch_norm_behind_its_convolution_is_not_rounded_apart(calibration):
    net = seeded(
        lambda: sequential(
            nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Flatten(), nn.Linear(300, 10),
        )
    )  # fmt: skip
    prepared = prepare_aware(net, 4, calibration)
    assert list(widths_of(prepared)) == [
        "round_input_1", "round__0", "round__3", "round__5",
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_model_of_one_layer_has_eight_bits(calibration, bits):
    prepared = prepare_aware(models.MLP([144, 10]), bits, calibration)
    assert weight_widths_of(prepared) == {"layers.0": 8}
    assert list(widths_of(prepared).values()) == [8, 8]


@pytest.mark.parametrize("bits", [np.int64(4), 4.0])
def test_a_width_may_come_from_elsewhere(trained_mlp, calibration, bits):
    assert_same_state(
        prepare_aware(trained_mlp, bits, calibration), prepare_aware(trained_mlp, 4, calibration)
    )
    assert weight_widths_of(prepare_aware(trained_mlp, bits, calibration))["layers.1"] == 4


def test_preparing_changes_neither_the_model_nor_the_images(trained, calibration):
    before, shown = copy.deepcopy(trained), calibration.copy()
    prepare_aware(trained, 2, calibration)
    assert_same_state(trained, before)
    assert not find_roundings(trained)
    assert np.array_equal(shown, calibration)


def test_activations_are_observed_in_float32_on_the_first_images(trained_mlp, calibration):
    few = prepare_aware(trained_mlp, 4, calibration[:50])
    many = prepare_aware(trained_mlp, 4, calibration)
    more = prepare_aware(trained_mlp, 4, np.concatenate([calibration, 0 * calibration]))
    assert_same_state(many, more)
    behind = ["round_relu", "round_relu_1", "round_layers_2"]
    steps = [[one.get_submodule(name).step.item() for name in behind] for one in (few, many)]
    assert steps[0] != steps[1]
    wide = prepare_aware(trained_mlp, 8, calibration)  # does not see what four bits would change
    assert torch.equal(wide.round_layers_2.step, many.round_layers_2.step)


def test_a_prepared_model_rounds_as_its_steps_say(trained_mlp, calibration):
    """The whole network again, by hand."""
    prepared = prepare_aware(trained_mlp, 3, calibration)

    def rounded(x, rounding):
        step = rounding.step.view(-1, 1) if rounding.step.ndim else rounding.step
        return step * torch.clamp(torch.round(x / step), rounding.low, rounding.high)

    x = rounded(torch.from_numpy(calibration), prepared.round_images).flatten(1)
    for number, behind in enumerate(["round_relu", "round_relu_1", "round_layers_2"]):
        layer = prepared.get_submodule(f"layers.{number}")
        x = x @ rounded(layer.layer.weight, layer.rounding).T + layer.layer.bias
        x = rounded(x.relu() if number < 2 else x, prepared.get_submodule(behind))
    assert torch.allclose(logits_of(prepared, calibration), x, atol=1e-4)


def test_eight_bits_hardly_change_the_logits(trained, calibration):
    exact = logits_of(trained, calibration)
    prepared = logits_of(prepare_aware(trained, 8, calibration), calibration)
    assert not torch.equal(prepared, exact)
    assert (prepared - exact).square().mean() < 0.01 * exact.square().mean()


# What cannot be prepared


@pytest.mark.parametrize("bits", [1, 9, 16, 32, 0, -4, 2.5])
def test_a_width_that_cannot_be_trained_is_refused(trained_mlp, calibration, bits):
    with pytest.raises(ValueError, match=f"takes 2 to 8 bits, not {bits}"):
        prepare_aware(trained_mlp, bits, calibration)
    widths = {"layers.0": 8, "layers.1": bits, "layers.2": 8}
    with pytest.raises(ValueError, match=f"takes 2 to 8 bits, not {bits}"):
        prepare_aware(trained_mlp, widths, calibration)


def test_a_layer_that_does_not_exist_is_named_with_the_nearest(trained_resnet, calibration):
    widths = dict.fromkeys(quantize.count_weights(trained_resnet), 4)
    del widths["block2.conv1"]
    with pytest.raises(ValueError, match=r"no layer 'block2\.conv'.*Did you mean 'block2\.conv"):
        prepare_aware(trained_resnet, {**widths, "block2.conv": 4}, calibration)
    with pytest.raises(ValueError, match=r"needs a width; there is none for \['block2\.conv1'\]"):
        prepare_aware(trained_resnet, widths, calibration)


def rounded_once(model, images):
    return prepare_aware(model, 4, images)


@pytest.mark.parametrize(
    "make", [rounded_once, lambda model, images: convert_aware(rounded_once(model, images))]
)
def test_a_model_that_rounds_already_is_refused(trained, calibration, make):
    with pytest.raises(ValueError, match="rounds its activations already: prepare the one in"):
        prepare_aware(make(trained, calibration), 4, calibration)


def test_a_model_without_layers_to_round_is_refused(calibration):
    with pytest.raises(ValueError, match="no convolution or linear layer in this model"):
        prepare_aware(sequential(nn.Flatten(), nn.ReLU()), 4, calibration)


def test_a_batch_norm_without_statistics_is_refused(calibration):
    net = sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
    with pytest.raises(ValueError, match="batch norm '1' keeps no statistics"):
        prepare_aware(net, 4, calibration)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 10)

    def forward(self, images):
        x = self.layer(images.flatten(1))
        return x if x.sum() > 0 else -x


def test_a_model_that_branches_on_values_is_refused(calibration):
    with pytest.raises(ValueError, match=r"cannot be traced.*must not branch"):
        prepare_aware(Branches(), 4, calibration)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda images: images[:0], "n of 1 or more"),
        (lambda images: images.astype(np.float64), "float32 images.*float64"),
        (lambda images: (255 * images).astype(np.uint8), "float32 images.*uint8"),
        (lambda images: 255 * images, "divided by 255"),
        (lambda images: images - 0.5, "takes pixels from 0 to 1"),
        (lambda images: np.where(images == images.max(), np.nan, images), "NaN or infinite"),
        (lambda images: images[:, 0, 0], r"does not accept images of shape \(200, 12\)"),
        (lambda images: images.repeat(3, axis=1), r"does not accept images of shape"),
    ],
)
def test_unfit_images_are_refused_with_a_reason(trained, calibration, spoil, reason):
    with pytest.raises(ValueError, match=reason) as error:
        prepare_aware(trained, 4, spoil(calibration))
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert len(str(error.value)) < 300


def test_weights_that_are_not_numbers_are_refused(trained_mlp, calibration):
    broken = copy.deepcopy(trained_mlp)
    broken.layers[1].weight.data[3, 2] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        prepare_aware(broken, 4, calibration)


# What conversion keeps


def assert_answers_stay(prepared, images, least=0.97, most=0.02):
    """Check that conversion changes the logits by no more than rounded biases do.

    ``least`` is the share of answers that stay, ``most`` the error as a share of the square.
    """
    converted = convert_aware(prepared)
    before, after = logits_of(prepared, images), logits_of(converted, images)
    assert (before.argmax(1) == after.argmax(1)).float().mean() >= least
    assert (before - after).square().mean() <= most * before.square().mean()
    return converted


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_conversion_keeps_the_answers(trained, pictures, calibration, bits):
    prepared = prepare_aware(trained, bits, calibration)
    # How many depends on the processor, whose sums trained the network: in twelve trainings that
    # began otherwise 79 to 98 % with 2 bits (error 6 % at most), at least 97.6 % with 3.
    bounds = {2: (0.5, 0.3), 3: (0.9, 0.1)}.get(bits, (0.97, 0.02))
    assert_answers_stay(prepared, pictures.images, *bounds)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_rounded_biases_the_logits_stay(trained, calibration, bits, monkeypatch):
    """But for a few images where a sum lies on the edge between two integers."""
    monkeypatch.setattr(aware, "round_biases_", lambda model: None)
    prepared = prepare_aware(trained, bits, calibration)
    before = logits_of(prepared, calibration)
    after = logits_of(convert_aware(prepared), calibration)
    is_close = (before - after).abs().amax(1) < 1e-4 * before.abs().max()
    assert is_close.float().mean() > 0.9


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_converted_model_has_integers_and_no_batch_norms(trained, calibration, bits):
    prepared = prepare_aware(trained, bits, calibration)
    before = copy.deepcopy(prepared)
    converted = convert_aware(prepared)
    assert_same_state(prepared, before)
    kinds = (nn.BatchNorm2d, RoundedLayer)
    assert not [layer for layer in converted.modules() if isinstance(layer, kinds)]
    assert not any(parameter.requires_grad for parameter in converted.parameters())
    assert not converted.training
    grids = quantized_weights(converted)
    widths = weight_widths_of(prepared)
    assert {name.removesuffix(".weight"): one.bits for name, one in grids.items()} == widths
    for name, one in grids.items():
        assert one.integers.abs().max() <= 2 ** (one.bits - 1) - 1
        assert one.scale.numel() == len(one.integers)
        assert torch.equal(converted.get_parameter(name), one.dequantize())
    found, expected = (find_roundings(model) for model in (converted, prepared))
    assert found.keys() == expected.keys()
    for name, rounding in found.items():
        assert torch.equal(rounding.step, expected[name].step)
        assert (rounding.low, rounding.high) == (expected[name].low, expected[name].high)


def inputs_of(converted: fx.GraphModule) -> dict[str, float]:
    """Return the step of what each layer reads, by the layer's name, in a chain or a ResNet."""
    steps = {}
    for node in converted.graph.nodes:
        if node.op == "call_module" and node.target in quantize.count_weights(converted):
            source = node.args[0]
            while not str(source.target).startswith("round_"):
                source = source.args[0]
            steps[node.target] = float(converted.get_submodule(source.target).step)
    return steps


def assert_biases_are_multiples(network, exact):
    """Check the biases against the steps of the sums, and against those not rounded."""
    grids, steps = quantized_weights(network), inputs_of(network)
    assert steps.keys() == set(quantize.count_weights(network))
    for layer, input_step in steps.items():
        bias = network.get_parameter(f"{layer}.bias").double()
        unit = input_step * spread_integers(grids[f"{layer}.weight"]).scale.double().flatten()
        multiples = bias / unit
        assert torch.allclose(multiples, multiples.round(), atol=1e-3, rtol=1e-6)
        moved = (bias - exact.get_parameter(f"{layer}.bias")).abs()
        assert (moved <= 0.501 * unit + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_biases_are_whole_multiples_of_the_steps_of_the_sums(trained, calibration, bits):
    converted = convert_aware(prepare_aware(trained, bits, calibration))
    assert_biases_are_multiples(converted, quantize.fold_batch_norms(trained))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_biases_of_narrowed_weights_are_multiples_of_their_steps(trained, calibration, bits):
    converted = convert_aware(prepare_aware(trained, bits, calibration))
    before = copy.deepcopy(converted.state_dict())
    assert_biases_are_multiples(quantize.narrow_weights(converted, 7), converted)
    assert all(torch.equal(before[name], value) for name, value in converted.state_dict().items())


def with_norms(change) -> nn.Module:
    """Return a convnet whose first batch norm was changed."""
    net = seeded(
        lambda: sequential(
            nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3),
            nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for norm in (net[1], net[4]):
        norm.running_mean.uniform_(-0.2, 0.2, generator=generator)
        norm.running_var.uniform_(0.1, 0.5, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.5, generator=generator)
    change(net)
    return net


def set_gamma(*values):
    def change(net):
        net[4].weight.data[: len(values)] = torch.tensor(values)

    return change


def without_affine(net):
    net[4] = nn.BatchNorm2d(6, affine=False).eval()


def zero_channel(net):
    net[3].weight.data[2] = 0


def all_zero(net):
    net[3].weight.data.zero_()


def dead_relus(net):
    for norm in (net[1], net[4]):
        norm.bias.data.fill_(-100)


CASES = {
    "plain": lambda net: None,
    "negative gamma": set_gamma(-1.0, -0.3),
    "gamma of 0": set_gamma(0.0, 0.0),
    "tiny gamma": set_gamma(1e-6, -1e-9, 1e-12, 1e-20),
    "gamma that floats hardly hold": set_gamma(1e-36, 1e-38, -1e-38, 1e-42),
    "no affine": without_affine,
    "a channel of zeros": zero_channel,
    "nothing but zeros": all_zero,
    "dead ReLUs": dead_relus,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [2, 8])
def test_strange_channels_are_converted_too(calibration, case, bits):
    net = with_norms(CASES[case])
    widths = dict.fromkeys(quantize.count_weights(net), bits)
    converted = assert_answers_stay(prepare_aware(net, widths, calibration), calibration, 0.9)
    for grid in quantized_weights(converted).values():
        assert (grid.scale >= torch.finfo(torch.float32).tiny).all()
        assert grid.integers.abs().max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("gamma", [0.0, 1e-30, 1e-12, 1e-5])
def test_a_channel_that_is_switched_off_still_gives_its_bias(calibration, gamma):
    net = with_norms(set_gamma(gamma))
    net[4].bias.data[0] = 0.4321
    converted = convert_aware(prepare_aware(net, 4, calibration))
    grid = quantized_weights(converted)["3.weight"]
    assert converted.get_submodule("3").bias[0].item() == pytest.approx(0.4321, abs=0.002)
    assert grid.dequantize()[0].abs().max() < 1e-4


def test_sums_with_the_largest_biases_fit_into_32_bits(calibration):
    net = with_norms(set_gamma(1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12))
    net[4].bias.data.fill_(3.0)
    converted = convert_aware(prepare_aware(net, 8, calibration))
    step = inputs_of(converted)["3"]
    grid = spread_integers(quantized_weights(converted)["3.weight"])
    bias = (converted.get_submodule("3").bias / (step * grid.scale.flatten())).abs()
    products = 255 * grid.integers.flatten(1).abs().sum(1)
    assert (bias + products < 2**31).all()
    assert bias.max() > 2**29  # it was near


def test_only_what_was_prepared_can_be_converted(trained, calibration):
    converted = convert_aware(prepare_aware(trained, 4, calibration))
    for model in (trained, quantize.fold_batch_norms(trained), converted):
        with pytest.raises(ValueError, match=r"Only what quantize\.prepare_aware returned"):
            convert_aware(model)


def test_a_float_model_has_no_roundings(trained):
    assert find_roundings(trained) == {}


class Activated(nn.Module):
    """A convolution and what comes after it."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)
        self.activation = activation

    def forward(self, x):
        return self.head(self.activation(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("activation", "told"),
    [
        (nn.ReLU6(), "cuts off at two ends"), (nn.Hardtanh(), "cuts off at two ends"),
        (lambda x: x.clamp(0, 6), "cuts off at two ends"),
        (lambda x: nn.functional.relu6(x), "cuts off at two ends"),
        (lambda x: nn.functional.dropout(x, 0.5, True), "Make it a layer, nn.Dropout"),
        (lambda x: x.reshape(len(x), 8, -1, 1), "take x.flatten"),
    ],
)  # fmt: skip
def test_what_would_be_rounded_otherwise_is_refused(calibration, activation, told):
    with pytest.raises(ValueError, match=told):
        prepare_aware(Activated(activation), 4, calibration)


@pytest.mark.parametrize("kind", [nn.SiLU, nn.Hardswish])
def test_layers_that_overwrite_what_they_read_are_rounded_the_same(calibration, kind):
    torch.manual_seed(0)
    model = Activated(kind())
    steps = []
    for inplace in (False, True):
        model.activation = kind(inplace=inplace)
        found = find_roundings(prepare_aware(model, 8, calibration))
        steps.append({name: (one.low, one.step.item()) for name, one in found.items()})
    assert steps[0] == steps[1]
    assert "round_conv" in steps[0]


# Training


RECIPE = dataclasses.replace(PLAIN, epochs=3, peak_learning_rate=0.05)


@pytest.fixture(scope="module")
def lessons(pictures) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(pictures.images[:600]), torch.from_numpy(pictures.labels[:600])


def test_training_repairs_what_two_bits_break(trained_resnet, lessons, unseen, calibration):
    before = copy.deepcopy(trained_resnet)
    seen, losses = [], []
    trained = train_aware(
        trained_resnet, 2, *lessons, RECIPE, calibration=calibration,
        on_epoch=lambda epoch, loss, model: seen.append((epoch, loss, len(find_roundings(model)))),
        on_step=losses.append,
    )  # fmt: skip
    exact = evaluate(trained_resnet, *unseen)
    rounded = evaluate(convert_aware(prepare_aware(trained_resnet, 2, calibration)), *unseen)
    repaired = evaluate(trained, *unseen)
    assert rounded < exact - 0.3
    assert repaired > exact - 0.15
    assert {grid.bits for grid in quantized_weights(trained).values()} == {2, 8}
    assert_same_state(trained_resnet, before)
    assert [(epoch, count) for epoch, _, count in seen] == [(1, 15), (2, 15), (3, 15)]
    assert len(losses) == 3 * 12
    assert seen[0][1] == pytest.approx(np.mean(losses[:12]), rel=1e-5)


def test_training_moves_all_steps_but_that_of_the_images(trained_mlp, lessons, calibration):
    start = prepare_aware(trained_mlp, 3, calibration)
    models_seen = []
    train_aware(
        trained_mlp, 3, *lessons, dataclasses.replace(RECIPE, epochs=1), calibration=calibration,
        on_epoch=lambda epoch, loss, model: models_seen.append(copy.deepcopy(model)),
    )  # fmt: skip
    before, after = start.state_dict(), models_seen[0].state_dict()
    steps = [name for name in before if name.endswith("step")]
    assert len(steps) == 4 + 3
    moved = {name for name in steps if not torch.equal(before[name], after[name])}
    assert moved == set(steps) - {"round_images.step"}


def test_a_training_with_rounding_goes_on_where_it_broke_off(
    trained_mlp, lessons, calibration, tmp_path
):
    """As if nothing had happened, to the last bit; the epoch that was begun is begun again."""
    given = (trained_mlp, 3, *lessons, RECIPE)
    unbroken = train_aware(*given, calibration=calibration)
    state_file = tmp_path / "mlp.train_state"
    steps = []

    def interrupt(loss):
        steps.append(loss)
        if len(steps) == 12 + 7:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_aware(*given, calibration=calibration, state_file=state_file, on_step=interrupt)
    epochs = []
    resumed = train_aware(
        *given, calibration=calibration, state_file=state_file,
        on_epoch=lambda epoch, loss, model: epochs.append(epoch),
    )  # fmt: skip
    assert epochs == [2, 3]
    assert_same_state(resumed, unbroken)
    for name, grid in quantized_weights(unbroken).items():
        assert torch.equal(quantized_weights(resumed)[name].integers, grid.integers)


@pytest.mark.parametrize("other", [2, {"layers.0": 8, "layers.1": 4, "layers.2": 7}])
def test_the_state_of_a_training_of_another_width_is_refused(
    trained_mlp, lessons, calibration, tmp_path, other
):
    """The weights would fit; but steps that were learned for other integers would not."""
    state_file = tmp_path / "mlp.train_state"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    train_aware(trained_mlp, 4, *lessons, recipe, calibration=calibration, state_file=state_file)
    written = state_file.read_bytes()
    with pytest.raises(ValueError, match=r"rounded to 4, 8 bits .* but this .* rounded to [247]"):
        train_aware(
            trained_mlp, other, *lessons, recipe, calibration=calibration, state_file=state_file
        )
    assert state_file.read_bytes() == written


def test_a_diverged_training_keeps_the_last_good_model_converted(trained_mlp, lessons, calibration):
    recipe = Recipe(
        epochs=2, batch=50, peak_learning_rate=1e12, flip=False, shift_pixels=0, erase_pixels=0
    )
    with pytest.raises(DivergedError, match=r"smaller learning rate than 1e\+12") as error:
        train_aware(trained_mlp, 4, *lessons, recipe, calibration=calibration)
    start = convert_aware(prepare_aware(trained_mlp, 4, calibration))
    assert_same_state(error.value.model, start)
    assert quantized_weights(error.value.model).keys() == {
        "layers.0.weight", "layers.1.weight", "layers.2.weight",
    }  # fmt: skip
