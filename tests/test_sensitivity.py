"""How far the answers of a network move when one of its layers is rounded."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.quantize import (
    fold_batch_norms,
    measure_divergence,
    measure_sensitivity,
    quantize_weights,
    sensitivity,
)

WIDTHS = [2, 3, 4, 8]


@pytest.fixture(scope="module")
def measured(tiny_mlp, images):
    return measure_sensitivity(tiny_mlp, images, WIDTHS)


class Constant(nn.Module):
    """Answers every image with the same logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.repeat(len(images), 1)


def softmax(model, images) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.from_numpy(images)).double().numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# The divergence


def test_the_divergence_of_an_example(images):
    even, uneven = Constant([0.0, 0.0]), Constant([0.0, float(np.log(3))])
    there = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    back = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert measure_divergence(even, uneven, images) == pytest.approx(there, rel=1e-6)
    assert measure_divergence(uneven, even, images) == pytest.approx(back, rel=1e-6)


def test_a_network_does_not_diverge_from_itself(tiny_mlp, images):
    assert measure_divergence(tiny_mlp, copy.deepcopy(tiny_mlp), images) == 0


def test_huge_logits_are_no_problem(images):
    apart = measure_divergence(Constant([1000.0, 0.0]), Constant([0.0, 1000.0]), images)
    assert apart == pytest.approx(1000)


@pytest.mark.parametrize("batch", [1, 7, 40, 1000])
def test_the_size_of_batches_changes_nothing(tiny_mlp, images, monkeypatch, batch):
    rounded = quantize_weights(tiny_mlp, 3)
    expected = measure_divergence(tiny_mlp, rounded, images)
    monkeypatch.setattr(sensitivity, "BATCH", batch)
    assert measure_divergence(tiny_mlp, rounded, images) == pytest.approx(expected, rel=1e-4)


# Of each layer and width


@pytest.mark.parametrize("layer", ["layers.0", "layers.1", "layers.2"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_sensitivity_is_that_of_a_layer_rounded_alone(tiny_mlp, images, measured, layer, bits):
    alone = {f"layers.{n}": 32 for n in range(3)} | {layer: bits}
    p, q = softmax(tiny_mlp, images), softmax(quantize_weights(tiny_mlp, alone), images)
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert measured.divergences[layer][bits] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_all_layers_and_widths_are_measured(measured):
    assert measured.widths == WIDTHS
    assert measured.weight_counts == {
        "layers.0": 144 * 64, "layers.1": 64 * 32, "layers.2": 32 * 10,
    }  # fmt: skip
    assert list(measured.divergences) == list(measured.weight_counts)
    for by_width in measured.divergences.values():
        assert list(by_width) == WIDTHS
        assert by_width[2] > by_width[4] > by_width[8] > 0


def test_convolutions_are_layers_too(tiny_convnet, images):
    found = measure_sensitivity(tiny_convnet, images[:10], [2, 32])
    assert "block2.shortcut.0" in found.divergences
    assert len(found.divergences) == 10
    assert all(by_width[2] > by_width[32] == 0 for by_width in found.divergences.values())


def test_the_widths_may_come_in_any_order_and_more_than_once(tiny_mlp, images, measured):
    found = measure_sensitivity(tiny_mlp, images, iter([8, 3, 2, 3, 4]))
    for layer, by_width in measured.divergences.items():
        assert list(found.divergences[layer]) == WIDTHS
        assert found.divergences[layer] == pytest.approx(by_width, rel=1e-3, abs=1e-9)


def test_a_network_in_training_is_measured_as_it_answers(tiny_mlp, images):
    noisy = nn.Sequential(nn.Flatten(), nn.Linear(144, 10), nn.Dropout(0.5)).train()
    found = measure_sensitivity(noisy, images, [3])
    assert found == measure_sensitivity(copy.deepcopy(noisy).eval(), images, [3])
    assert noisy.training


def test_the_network_stays_as_it_was(tiny_mlp, images):
    before = copy.deepcopy(tiny_mlp.state_dict())
    measure_sensitivity(tiny_mlp, images, [2])
    assert all(torch.equal(before[name], now) for name, now in tiny_mlp.state_dict().items())


# The sum


def test_the_prediction_is_the_sum_over_the_layers(measured):
    widths = {"layers.0": 2, "layers.1": 8, "layers.2": 3}
    expected = sum(measured.divergences[layer][bits] for layer, bits in widths.items())
    assert measured.predict(widths) == pytest.approx(expected)


@pytest.mark.parametrize(
    "widths",
    [
        {},
        {"layers.0": 2, "layers.1": 2},
        {"layers.0": 2, "layers.1": 2, "layers.2": 2, "layers.3": 2},
        {"layers.0": 2, "layers.1": 2, "Layers.2": 2},
    ],
)
def test_other_layers_cannot_be_predicted(measured, widths):
    with pytest.raises(ValueError, match=r"Give a width for each of \['layers.0', 'layers.1'"):
        measured.predict(widths)


def test_a_width_that_was_not_measured_cannot_be_predicted(measured):
    with pytest.raises(ValueError, match=r"'layers.1' was measured at \[2, 3, 4, 8\] bits, not 5"):
        measured.predict({"layers.0": 2, "layers.1": 5, "layers.2": 2})


# What cannot be measured


def test_batch_norms_have_to_be_folded_before(tiny_resnet, images):
    with pytest.raises(ValueError, match=r"Fold the batch norms first, quantize.fold_batch_norms"):
        measure_sensitivity(tiny_resnet, images, [4])


def test_a_batch_norm_that_cannot_be_folded_is_no_obstacle(images):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 12), nn.Flatten()).eval()
    assert measure_sensitivity(fold_batch_norms(model), images, [2]).divergences["1"][2] > 0


@pytest.mark.parametrize("widths", [[1], [4, 17], [0], [-4]])
def test_a_width_that_cannot_be_made_is_refused(tiny_mlp, images, widths):
    with pytest.raises(ValueError, match="bits cannot be made here: choose 2 to 16"):
        measure_sensitivity(tiny_mlp, images, widths)


def test_without_widths_or_layers_there_is_nothing_to_measure(tiny_mlp, images):
    with pytest.raises(ValueError, match="There is nothing to measure"):
        measure_sensitivity(tiny_mlp, images, [])
    with pytest.raises(ValueError, match="There is nothing to measure"):
        measure_sensitivity(nn.Flatten(), images)


@pytest.mark.parametrize("spoil", [lambda x: x[:0], lambda x: x.astype(float), lambda x: x / 0])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_images_that_cannot_be_used_are_refused(tiny_mlp, images, spoil):
    with pytest.raises(ValueError, match=r"float32 images|NaN or infinite"):
        measure_sensitivity(tiny_mlp, spoil(images))
