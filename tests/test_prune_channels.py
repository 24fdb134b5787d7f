"""Structured pruning: exact groups, counts and shapes; what is cut computes what is masked."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_utils import models, quantize, runtimes
from course_utils.layer_costs import count_costs
from course_utils.prune.channel_choice import (
    choose_channels,
    score_channels,
    score_channels_first_order,
)
from course_utils.prune.channels import cut_channels, fit_shapes, mask_channels, prune_channels
from course_utils.prune.groups import ChannelGroup, find_groups
from course_utils.prune.holding import hold_zeros

SIDE = 8  # rows and columns of the small images


class Plain(nn.Module):
    """Convolutions one after the other, with everything between them that is known."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.drop = nn.Dropout()
        self.third = nn.Conv2d(2 * width, width, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        x = F.avg_pool2d(self.second(x).relu(), 2)
        return self.head(self.pool(self.third(self.drop(x))).view(x.size(0), -1))


class Flattened(nn.Module):
    """A linear layer that reads maps of 4x4."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten()
        )
        self.hidden = nn.Linear(16 * width, 2 * width)
        self.head = nn.Linear(2 * width, 10, bias=False)

    def forward(self, x):
        return self.head(F.relu(self.hidden(self.features(x))))


class Separable(nn.Module):
    """A depthwise convolution with a shortcut around it, as in MobileNets."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, bias=False)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.point = nn.Conv2d(width, 2 * width, 1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + F.relu(self.norm(self.depthwise(x)))
        return self.head(self.point(x).mean([-2, -1]))


class Repeated(nn.Module):
    """One layer called twice, and a sum that is written into its first term."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        out = self.again(self.again(x))
        out += x
        return self.head(out.mean(dim=(2, 3), keepdim=True).flatten(1))


class Calls(nn.Module):
    """Two convolutions, and between them whatever a test wants to try."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.between = between if isinstance(between, nn.Module) else None
        self.function = between
        self.second = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.second(self.function(self.first(x))).flatten(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.two(self.one(x)))


KINDS = {
    "resnet": models.ResNet8,
    "mlp": lambda width: models.MLP([SIDE * SIDE, 2 * width, width, 10]),
    "plain": Plain,
    "flattened": Flattened,
    "separable": Separable,
    "repeated": Repeated,
}


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model with parameters and statistics as after a training, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "norm.weight", "norm1.weight", "norm2.weight")):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.4, 0.5, generator=generator)
    return model.eval()


def draw_images(count: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, images: torch.Tensor | None = None) -> np.ndarray:
    with torch.inference_mode():
        return model(draw_images() if images is None else images).numpy()


# Which channels belong together


def test_a_residual_network_has_the_groups_that_its_additions_make():
    groups = find_groups(models.ResNet8(4))
    assert {name: (group.channels, group.writers) for name, group in groups.items()} == {
        "stem": (4, ("stem", "block1.conv2")),
        "block1.conv1": (4, ("block1.conv1",)),
        "block2.conv1": (8, ("block2.conv1",)),
        "block2.conv2": (8, ("block2.conv2", "block2.shortcut.0")),
        "block3.conv1": (16, ("block3.conv1",)),
        "block3.conv2": (16, ("block3.conv2", "block3.shortcut.0")),
    }
    assert groups["stem"].norms == ("norm", "block1.norm2")
    assert groups["stem"].readers == {"block1.conv1": 1, "block2.conv1": 1, "block2.shortcut.0": 1}
    assert groups["block3.conv2"].readers == {"head": 1}


def test_a_linear_layer_behind_a_flatten_reads_each_channel_as_often_as_there_are_places():
    assert find_groups(Flattened(3)) == {
        "features.0": ChannelGroup(
            "features.0", 3, ("features.0",), (), (), {"hidden": 16}, ("features.0",)
        ),
        "hidden": ChannelGroup("hidden", 6, ("hidden",), (), (), {"head": 1}, ("hidden",)),
    }


def test_a_depthwise_convolution_couples_what_it_reads_with_what_it_writes():
    groups = find_groups(Separable(4))
    assert groups["stem"] == ChannelGroup(
        "stem", 4, ("stem",), ("depthwise",), ("norm",), {"point": 1}, ("stem", "norm")
    )
    assert list(groups) == ["stem", "point"]


def test_a_layer_that_is_called_twice_couples_its_inputs_with_its_outputs():
    groups = find_groups(Repeated(4))
    assert list(groups) == ["stem"]
    assert groups["stem"].writers == ("stem", "again")
    assert groups["stem"].readers == {"again": 1, "head": 1}


def test_what_is_added_to_the_input_or_to_the_logits_is_no_group():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward, self.middle, self.outward = (nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, x):
            return self.outward(self.middle(x + self.inward(x)))

    assert list(find_groups(Outer())) == ["middle"]


# What is cut computes what is masked


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(
    width=st.integers(2, 12), keep=st.floats(0.25, 1), round_to=st.sampled_from([1, 2, 3, 8]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_cut_network_computes_what_the_masked_one_does(kind, width, keep, round_to, seed):
    model = settle(KINDS[kind](width), seed)
    kept = choose_channels(model, keep, round_to=round_to)
    cut, masked = cut_channels(model, kept), mask_channels(model, kept)
    np.testing.assert_allclose(logits(cut), logits(masked), rtol=1e-4, atol=1e-4)
    assert type(cut) is type(model)
    groups = find_groups(cut)
    assert {name: groups[name].channels for name in kept} == {
        name: len(channels) for name, channels in kept.items()
    }


@settings(max_examples=25)
@given(data=st.data())
def test_any_choice_of_channels_can_be_cut(data):
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    model = settle(KINDS[kind](4))
    kept = {
        name: data.draw(st.lists(st.integers(0, group.channels - 1), min_size=1, unique=True))
        for name, group in find_groups(model).items()
    }
    cut, masked = cut_channels(model, kept), mask_channels(model, kept)
    np.testing.assert_allclose(logits(cut), logits(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_masking_changes_the_answers_and_nothing_changes_the_model(kind):
    model = settle(KINDS[kind](6))
    before = copy.deepcopy(model.state_dict())
    kept = choose_channels(model, 0.5)
    masked = mask_channels(model, kept)
    cut_channels(model, kept)
    score_channels_first_order(model, draw_images(), torch.tensor([0, 1, 2]))
    assert not np.allclose(logits(masked), logits(model), atol=1e-3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_all_channels_is_the_network_itself(kind):
    model = settle(KINDS[kind](5))
    whole = prune_channels(model, 1.0, round_to=8)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_cut_network_can_be_trained_and_keeps_the_mode_of_the_model():
    model = models.ResNet8(4)
    model.stem.weight.requires_grad_(False)
    cut = prune_channels(model, 0.5)
    assert cut.training
    assert not cut.stem.weight.requires_grad
    cut(draw_images()).sum().backward()
    gradients = {name: parameter.grad for name, parameter in cut.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == ["stem.weight"]


def test_half_the_channels_of_a_resnet_leave_the_shapes_of_one_of_half_the_width():
    cut = prune_channels(models.ResNet8(32), 0.5)
    assert {
        name: tuple(tensor.shape) for name, tensor in cut.state_dict().items() if tensor.ndim > 1
    } == {
        "stem.weight": (16, 1, 3, 3),
        "block1.conv1.weight": (16, 16, 3, 3),
        "block1.conv2.weight": (16, 16, 3, 3),
        "block2.conv1.weight": (32, 16, 3, 3),
        "block2.conv2.weight": (32, 32, 3, 3),
        "block2.shortcut.0.weight": (32, 16, 1, 1),
        "block3.conv1.weight": (64, 32, 3, 3),
        "block3.conv2.weight": (64, 64, 3, 3),
        "block3.shortcut.0.weight": (64, 32, 1, 1),
        "head.weight": (10, 64),
    }
    assert repr(cut) == repr(models.ResNet8(16))
    assert models.count_parameters(cut) == 77_754
    pixels = np.zeros((1, 1, 28, 28), np.float32)
    small, whole = count_costs(cut, pixels), count_costs(models.ResNet8(32), pixels)
    assert small.macs == count_costs(models.ResNet8(16), pixels).macs == 9_411_776
    assert whole.macs == 37_288_320
    macs = {layer.name: layer.macs for layer in small.layers}
    # a quarter where inputs and outputs are cut, a half where the image or the logits stay
    for layer in whole.layers:
        outer = layer.name in ("stem", "head") or layer.kind == "batch norm"
        assert macs[layer.name] * (2 if outer else 4) == layer.macs, layer.name


def test_an_exported_cut_network_computes_the_same():
    cut = prune_channels(settle(models.ResNet8(8)), {"stem": 3, "block3.conv1": 5})
    images = draw_images(2, side=12)
    runner = runtimes.build(cut, images[:1].numpy())
    np.testing.assert_allclose(runner(images.numpy()), logits(cut, images), rtol=1e-4, atol=1e-4)


# How many are kept, and which


@pytest.mark.parametrize(
    ("channels", "keep", "round_to", "kept"),
    [
        (32, 0.5, 1, 16), (32, 1, 1, 32), (32, 0.02, 1, 1), (10, 0.24, 1, 2), (10, 0.25, 1, 3),
        (32, 0.5, 8, 16), (32, 0.6, 8, 16), (32, 0.63, 8, 24), (32, 0.625, 8, 24),
        (32, 0.01, 8, 8), (32, 0.95, 8, 32), (7, 0.2, 8, 7), (8, 0.2, 8, 8), (22, 0.95, 8, 22),
        (20, 0.9, 8, 16), (19, 1, 8, 19), (64, 0.5, 16, 32),
    ],
)  # fmt: skip
def test_as_many_are_kept_as_asked_for(channels, keep, round_to, kept):
    model = nn.Sequential(nn.Linear(3, channels), nn.ReLU(), nn.Linear(channels, 2))
    assert len(choose_channels(model, keep, round_to=round_to)["0"]) == kept
    assert prune_channels(model, keep, round_to=round_to)[0].out_features == kept


def test_counts_can_be_given_for_any_layer_of_a_group():
    kept = choose_channels(models.ResNet8(8), {"block1.conv2": 3, "block2.conv1": 10}, round_to=4)
    counts = {name: len(channels) for name, channels in kept.items()}
    assert counts == {
        "stem": 4, "block1.conv1": 8, "block2.conv1": 12, "block2.conv2": 16, "block3.conv1": 32,
        "block3.conv2": 32,
    }  # fmt: skip


def test_the_channels_of_the_highest_scores_are_kept_in_ascending_order():
    model = models.MLP([4, 5, 2])
    scores = {"layers.0": torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0])}
    assert choose_channels(model, 0.4, scores=scores) == {"layers.0": [1, 3]}
    assert choose_channels(model, {"layers.0": 4}, scores=scores) == {"layers.0": [1, 2, 3, 4]}
    cut = prune_channels(model, 0.4, scores=scores)
    assert torch.equal(cut.layers[0].weight, model.layers[0].weight[[1, 3]])
    assert torch.equal(cut.layers[0].bias, model.layers[0].bias[[1, 3]])
    assert torch.equal(cut.layers[1].weight, model.layers[1].weight[:, [1, 3]])
    assert torch.equal(cut.layers[1].bias, model.layers[1].bias)


def test_a_norm_is_the_sum_of_those_of_all_filters_that_write_a_channel():
    model = settle(models.ResNet8(4))
    norms = [conv.weight.flatten(1).norm(dim=1) for conv in (model.stem, model.block1.conv2)]
    assert torch.allclose(score_channels(model)["stem"], sum(norms))
    assert list(score_channels(model)) == list(find_groups(model))


@torch.no_grad()
def test_the_norm_of_a_group_is_that_of_all_weights_that_would_go_with_a_channel():
    resnet, flattened = settle(models.ResNet8(4)), settle(Flattened(4))
    block = resnet.block3
    gone = [block.conv2.weight[5], block.norm2.weight[5], resnet.head.weight[:, 5]]
    gone += [block.shortcut[0].weight[5], block.shortcut[1].weight[5]]
    norm = torch.cat([tensor.flatten() for tensor in gone]).norm()
    assert torch.allclose(score_channels(resnet, by="group")["block3.conv2"][5], norm)
    gone = [flattened.features[0].weight[2], flattened.hidden.weight[:, 32:48]]  # its 16 places
    norm = torch.cat([tensor.flatten() for tensor in gone]).norm()
    assert torch.allclose(score_channels(flattened, by="group")["features.0"][2], norm)
    assert score_channels(Plain(4), by="group")["first"].shape == (4,)  # a norm without factors


def test_a_first_order_score_is_the_sum_of_weight_times_gradient():
    model = settle(Flattened(4))
    model.features[0].bias.data.zero_()
    image, label = draw_images(1), torch.tensor([3])
    scores = score_channels_first_order(model, image, label)
    F.cross_entropy(model(image), label).backward()
    weight, hidden = model.features[0].weight, model.hidden
    by_hand = (weight * weight.grad).sum(dim=(1, 2, 3)).abs()
    assert torch.allclose(scores["features.0"], by_hand, rtol=1e-3)
    by_hand = (hidden.weight * hidden.weight.grad).sum(dim=1) + hidden.bias * hidden.bias.grad
    assert torch.allclose(scores["hidden"], by_hand.abs(), rtol=1e-3)


def test_a_first_order_score_behind_batch_norms_is_that_of_their_factors_and_offsets():
    model = settle(models.ResNet8(4))
    image, label = draw_images(1), torch.tensor([3])
    scores = score_channels_first_order(model, image, label)
    F.cross_entropy(model(image), label).backward()
    norms = model.norm, model.block1.norm2  # whose sum is what the channels of the stem hold
    by_hand = sum(norm.weight * norm.weight.grad + norm.bias * norm.bias.grad for norm in norms)
    assert torch.allclose(scores["stem"], by_hand.abs(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_a_first_order_score_is_how_the_loss_moves_when_a_channel_shrinks(kind):
    model = settle(KINDS[kind](3)).double()
    image, label, step = draw_images(1).double(), torch.tensor([3]), 1e-6
    scores = score_channels_first_order(model, image, label)
    for name, group in find_groups(model).items():
        losses = []
        for factor in (1 - step, 1 + step):
            scaled = copy.deepcopy(model).requires_grad_(False)
            for layer in map(scaled.get_submodule, group.last):
                layer.weight[0] *= factor
                if layer.bias is not None:
                    layer.bias[0] *= factor
            losses.append(float(F.cross_entropy(scaled(image), label)))
        slope = (losses[1] - losses[0]) / (2 * step)
        assert float(scores[name][0]) == pytest.approx(abs(slope), rel=1e-4, abs=1e-7), name


def test_first_order_scores_are_means_over_images_in_batches():
    model = settle(Plain(3))
    images, labels = draw_images(230), torch.arange(230) % 10
    whole = score_channels_first_order(model, images, labels)
    parts = [
        score_channels_first_order(model, images[start : start + 46], labels[start : start + 46])
        for start in range(0, 230, 46)
    ]
    for name, score in whole.items():
        mean = sum(part[name] for part in parts) / 5
        assert torch.allclose(score, mean, rtol=1e-3, atol=1e-7), name


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_network_is_read_back_into_its_architecture(kind):
    cut = settle(prune_channels(KINDS[kind](6), 0.5))
    fitted = fit_shapes(KINDS[kind](9), cut.state_dict())
    assert repr(fitted) == repr(cut)
    assert np.array_equal(logits(fitted.eval()), logits(cut))


def test_tensors_of_another_network_are_refused():
    model = Flattened(4)
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"this MLP: 'features.0.bias' is only in the tensors"):
        fit_shapes(models.MLP([64, 4, 10]), state)
    with pytest.raises(ValueError, match=r"'hidden.bias' is only in the model"):
        fit_shapes(model, {name: state[name] for name in state if name != "hidden.bias"})
    with pytest.raises(ValueError, match=r"'hidden.bias' has the shape \(3,\), .* need \(8,\)"):
        fit_shapes(model, state | {"hidden.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'features.0.weight' has the shape \(4, 1, 5, 5\)"):
        fit_shapes(model, state | {"features.0.weight": torch.zeros(4, 1, 5, 5)})
    with pytest.raises(ValueError, match="'head' reads 9 inputs, but gets 8 channels"):
        fit_shapes(model, state | {"head.weight": torch.zeros(10, 9)})
    norms = {"weight": 5, "bias": 5, "running_mean": 5, "running_var": 5}
    widened = {f"norm.{name}": torch.ones(count) for name, count in norms.items()}
    with pytest.raises(ValueError, match="'norm' couples 4 channels with 5"):
        fit_shapes(models.ResNet8(4), models.ResNet8(4).state_dict() | widened)


# What is refused

WRONG_KEEPS = {
    "nothing": (0, "without any. Keep 0.125 or more: the largest possible cut is 0.875"),
    "less than a channel": (0.12, "leave layer 'stem', which has 4 channels, without any"),
    "below": (-0.5, r"above 0 and up to 1 \(all of them\), not -0.5"),
    "percent": (50, "not 50. For percent, divide by 100"),
    "above": (math.inf, "not inf"),
    "nan": (math.nan, "not nan"),
    "no count": ({"stem": 0}, "'stem' cannot keep 0 channels: .* at most 3 can be cut"),
    "too many": ({"block1.conv2": 5}, "'block1.conv2' cannot keep 5 channels: it has 4"),
    "half a channel": ({"stem": 1.5}, "'stem' cannot keep 1.5 channels"),
    "no layer": ({"stern": 2}, r"no layer 'stern' whose channels can be cut; there are \['stem'"),
    "the logits": ({"head": 5}, "no layer 'head' .* The channels of the input and of the logits"),
    "disagree": (
        {"stem": 2, "block1.conv2": 3},
        "Coupled channels that disagree: 'stem' and 'block1.conv2' .* keep as many channels",
    ),
}


@pytest.mark.parametrize("what", WRONG_KEEPS)
def test_what_cannot_be_kept_is_refused(what):
    keep, message = WRONG_KEEPS[what]
    with pytest.raises(ValueError, match=message):
        prune_channels(models.ResNet8(4), keep)


@settings(max_examples=30)
@given(channels=st.integers(1, 2000))
def test_the_largest_possible_cut_is_possible(channels):
    model = nn.Sequential(nn.Linear(1, channels), nn.Linear(channels, 1))
    with pytest.raises(ValueError, match="the largest possible cut") as refusal:
        choose_channels(model, 1e-9)
    least = float(str(refusal.value).split("Keep ")[1].split()[0])
    assert len(choose_channels(model, least)["0"]) == 1


WRONG_CHANNELS = {
    "out of range": ({"stem": [0, 4]}, "'stem' has the channels 0 to 3, not 4"),
    "negative": ({"stem": [-1]}, "not -1"),
    "twice": ({"stem": [2, 1, 2]}, r"A channel of 'stem' is named twice: \[1, 2, 2\]"),
    "none": ({"stem": []}, "'stem' would be left without channels; at most 3 of its 4"),
    "no layer": ({"block9": [0]}, "There is no layer 'block9'"),
    "disagree": (
        {"block2.conv2": [0, 1], "block2.shortcut.0": [0, 2]},
        "Coupled channels that disagree: 'block2.conv2' and 'block2.shortcut.0'",
    ),
}


@pytest.mark.parametrize("change", [cut_channels, mask_channels])
@pytest.mark.parametrize("what", WRONG_CHANNELS)
def test_channels_that_cannot_be_cut_are_refused(what, change):
    kept, message = WRONG_CHANNELS[what]
    with pytest.raises(ValueError, match=message):
        change(models.ResNet8(4), kept)


def test_coupled_channels_that_agree_are_cut():
    model = settle(models.ResNet8(4))
    cut = cut_channels(model, {"block1.conv2": [2, 0], "stem": [0, 2]})
    assert torch.equal(cut.stem.weight, model.stem.weight[[0, 2]])
    assert torch.equal(cut.block1.conv2.weight, model.block1.conv2.weight[[0, 2]])


UNKNOWN = {
    "a layer norm": (nn.LayerNorm(SIDE), "layer 'between', a LayerNorm,"),
    "a sigmoid": (nn.Sigmoid(), "layer 'between', a Sigmoid,"),
    "groups": (nn.Conv2d(4, 4, 3, groups=2, padding=1), "layer 'between', a Conv2d,"),
    "multiplied channels": (nn.Conv2d(4, 8, 1, groups=4), "layer 'between', a Conv2d,"),
    "rows as inputs": (nn.Linear(SIDE, SIDE), "layer 'between', a Linear,"),
    "a concatenation": (lambda x: torch.cat([x, x], 1), "'cat', a call of 'cat'"),
    "a number added": (lambda x: x + 1, "'add', a call of 'add'"),
    "a product": (lambda x: x * x, "'mul', a call of 'mul'"),
    "some channels": (lambda x: x[:, :2], "'getitem', a call of 'getitem'"),
    "a mean of channels": (lambda x: x + x.mean(1, keepdim=True), "'mean', a call of 'mean'"),
    "a mean of rows": (lambda x: x.mean(dim=2, keepdim=True), "'mean', a call of 'mean'"),
    "flattened rows": (lambda x: x.flatten(2), "'flatten', a call of 'flatten'"),
    "another view": (lambda x: x.view(-1, 4, SIDE, SIDE), "'view', a call of 'view'"),
    "pooling of vectors": (
        lambda x: F.avg_pool2d(x.flatten(1), 2),
        "'avg_pool2d', a call of 'avg_pool2d'",
    ),
    "a tensor": (lambda x: x + torch.ones(1), "'_tensor_constant0', a tensor that is used outside"),
    "shapes that differ": (
        lambda x: x + x.mean(dim=(2, 3)),
        "'add' adds activations of shapes that differ",
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_followed_is_named(what):
    between, message = UNKNOWN[what]
    with pytest.raises(ValueError, match=message):
        prune_channels(Calls(between), 0.5)


def test_other_models_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match=r"no channels to cut: those of its input and .* logits"):
        choose_channels(models.MLP([4, 2]), 0.5)
    with pytest.raises(ValueError, match="'one' and 'two' share their weights"):
        choose_channels(Tied(), 0.5)
    with pytest.raises(ValueError, match=r"'layers.0' has weights that are held or rounded"):
        choose_channels(quantize.quantize_weights(models.MLP([4, 4, 2]), 4), 0.5)
    with pytest.raises(ValueError, match=r"'layers.0' .* prune\.release_zeros comes before"):
        choose_channels(hold_zeros(models.MLP([4, 4, 2])), 0.5)


def test_wrong_scores_and_roundings_are_refused():
    model = models.MLP([4, 5, 2])
    with pytest.raises(ValueError, match=r"Round to a multiple of 1 .* not of 0"):
        choose_channels(model, 0.5, round_to=0)
    with pytest.raises(
        ValueError, match=r"'layers.0' needs scores of shape \(5,\); there are none"
    ):
        choose_channels(model, 0.5, scores={})
    with pytest.raises(ValueError, match=r"of shape \(5,\); there are \(4,\)"):
        choose_channels(model, 0.5, scores={"layers.0": torch.ones(4)})
    with pytest.raises(ValueError, match=r"'layers.0' has weights or scores that are no finite"):
        choose_channels(model, 0.5, scores={"layers.0": torch.full((5,), math.nan)})
    with pytest.raises(ValueError, match="by 'norm' or 'group', not by 'size'"):
        score_channels(model, by="size")
    with pytest.raises(ValueError, match="3 images and 2 labels"):
        score_channels_first_order(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"does not accept images of shape \(3, 1, 3, 3\)"):
        score_channels_first_order(model, torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 1]))
