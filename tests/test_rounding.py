"""Fake quantization: what is rounded, the gradients to train by, and the steps to begin with."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_utils.quantize import LearnedStep, RoundedLayer, fake_quantize
from course_utils.quantize.rounding import round_activation, round_pixels, round_weight

LIMITS = [(-1, 1), (-7, 7), (-127, 127), (0, 3), (0, 15), (-5, 10), (-15, 0), (-200, 55)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def round_by_hand(x, step, low, high):
    return step * torch.clamp(torch.round(x / step), low, high)


def round_straight_through(x, step, low, high):
    """Return the same by operations that autograd knows: only rounding is passed straight."""
    steps = torch.clamp(x / step, low, high)
    return (steps + (steps.round() - steps).detach()) * step


def gradients(function, x, step, low, high, weights, **more):
    """Return the gradients of x and of the step of the weighted sum of what is returned."""
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    (weights * function(x, step, low, high, **more)).sum().backward()
    return x.grad, step.grad


# What is rounded


@pytest.mark.parametrize(("low", "high"), LIMITS)
def test_numbers_become_multiples_of_the_step_between_the_limits(low, high):
    x, step = 3 * draw(500), torch.tensor(0.37)
    rounded = fake_quantize(x, step, low, high)
    assert torch.equal(rounded, round_by_hand(x, step, low, high))
    integers = rounded / step
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert low - 1e-4 <= integers.min() <= integers.max() <= high + 1e-4


def test_each_channel_has_its_own_step():
    x, steps = draw(3, 4, 2, 2), torch.tensor([0.1, 0.5, 2.0])
    rounded = fake_quantize(x, steps.view(3, 1, 1, 1), -7, 7)
    for channel, step in enumerate(steps):
        assert torch.equal(rounded[channel], fake_quantize(x[channel], step, -7, 7))


def test_rounding_changes_neither_the_numbers_nor_the_step():
    x, step = draw(20), torch.tensor(0.3)
    before = x.clone()
    fake_quantize(x, step, -2, 1)
    assert torch.equal(x, before)
    assert step == torch.tensor(0.3)


# Gradients


@pytest.mark.parametrize(("low", "high"), LIMITS)
@pytest.mark.parametrize("shape", [(), (4, 1, 1)])
def test_gradients_are_those_of_the_straight_through_estimator(low, high, shape):
    x = 0.5 * (high - low) * draw(4, 30, 5).double()
    weights = draw(4, 30, 5, seed=1).double()
    step = 0.2 + draw(*shape, seed=2).abs().double()
    found = gradients(fake_quantize, x, step, low, high, weights)
    expected = gradients(round_straight_through, x, step, low, high, weights)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=1e-9)
    steps = x / step
    outside = ((steps < low) | (steps > high)).float().mean()
    assert 0 < outside < 1  # both kinds were compared


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20),
    st.floats(0.125, 4, width=32),
    st.sampled_from(LIMITS),
)
def test_gradients_of_any_numbers(numbers, step, limits):
    x, step = torch.tensor(numbers), torch.tensor(step)
    ones = torch.ones_like(x)
    found = gradients(fake_quantize, x, step, *limits, ones)
    expected = gradients(round_straight_through, x, step, *limits, ones)
    assert torch.equal(found[0], expected[0])
    assert found[1] == pytest.approx(expected[1].item(), rel=1e-4, abs=0.01)


def test_gradients_at_and_beyond_the_limits():
    """Steps of 0.5 from 0 to 3: the gradient of the step is LSQ's equation 3, term by term."""
    table = {  # number: gradient of the number, gradient of the step
        -9.0: (0, 0), -0.01: (0, 0), 0.0: (1, 0),
        0.2: (1, 0 - 0.4), 0.3: (1, 1 - 0.6), 1.3: (1, 3 - 2.6), 1.5: (1, 0),
        1.51: (0, 3), 1.7: (0, 3), 1.8: (0, 3), 9.0: (0, 3),
    }  # fmt: skip
    for number, (of_number, of_step) in table.items():
        x, step = torch.tensor([number]), torch.tensor(0.5)
        found = gradients(fake_quantize, x, step, 0, 3, torch.ones(1))
        assert found[0].item() == of_number, number
        assert found[1].item() == pytest.approx(of_step, abs=1e-5), number


def test_below_a_negative_limit_the_step_has_its_gradient():
    found = gradients(fake_quantize, torch.tensor([-5.0]), torch.tensor(0.5), -4, 4, torch.ones(1))
    assert (found[0].item(), found[1].item()) == (0, -4)


def test_only_the_gradient_of_the_step_is_scaled():
    x, step, weights = draw(50), torch.tensor(0.3), draw(50, seed=1)
    plain = gradients(fake_quantize, x, step, -3, 3, weights)
    scaled = gradients(fake_quantize, x, step, -3, 3, weights, gradient_scale=0.25)
    assert torch.equal(scaled[0], plain[0])
    assert scaled[1].item() == pytest.approx(0.25 * plain[1].item())


# A step that is learned


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_width_follows_from_the_limits(bits):
    largest = 2 ** (bits - 1) - 1
    assert LearnedStep(torch.tensor(1.0), -largest, largest, 1).bits == bits
    for low in (0, -1, -(2 ** (bits - 1)), -(2**bits - 1)):
        assert LearnedStep(torch.tensor(1.0), low, low + 2**bits - 1, 1).bits == bits


@pytest.mark.parametrize(
    ("low", "high", "count", "scale"),
    [(-7, 7, 36, 1 / math.sqrt(36 * 7)), (0, 3, 100, 1 / math.sqrt(300)),
     (-15, 0, 4, 1 / math.sqrt(60)), (-12, 3, 5, 1 / math.sqrt(60))],
)  # fmt: skip
def test_the_gradient_of_a_step_shrinks_with_the_values_that_share_it(low, high, count, scale):
    x, weights = draw(40), draw(40, seed=1)
    rounding = LearnedStep(torch.tensor(0.2), low, high, count)
    (weights * rounding(x)).sum().backward()
    plain = gradients(fake_quantize, x, torch.tensor(0.2), low, high, weights)[1]
    assert rounding.step.grad.item() == pytest.approx(scale * plain.item(), rel=1e-5)


def test_a_step_below_0_counts_as_above():
    x, weights = draw(40), draw(40, seed=1)
    above, below = (LearnedStep(torch.tensor(step), -3, 3, 1) for step in (0.2, -0.2))
    assert torch.equal(above(x), below(x))
    for rounding in (above, below):
        (weights * rounding(x)).sum().backward()
    assert below.step.grad == -above.step.grad  # away from 0 is the other way


@pytest.mark.parametrize("step", [0.0, 1e-44, -1e-40])
def test_a_step_of_nothing_makes_nothing_strange(step):
    rounding = LearnedStep(torch.tensor(step), -3, 3, 1)
    x = torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30], requires_grad=True)
    rounded = rounding(x)
    rounded.sum().backward()
    assert rounded.isfinite().all()
    assert rounded[2] == 0
    assert x.grad.isfinite().all()
    assert rounding.step.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 10), (6, 5, 3, 3)])
def test_one_step_for_each_row_or_channel(shape):
    weight, steps = draw(*shape), 0.1 + draw(6, seed=1).abs()
    rounded = LearnedStep(steps, -3, 3, 1)(weight)
    for channel in range(6):
        alone = round_by_hand(weight[channel], steps[channel], -3, 3)
        assert torch.equal(rounded[channel], alone)


@pytest.mark.parametrize("first", [0.02, 3.0])
def test_learning_finds_a_better_step(first):
    x = draw(2000)
    rounding = LearnedStep(torch.tensor(first), -3, 3, 1)
    optimizer = torch.optim.SGD(rounding.parameters(), lr=0.05)
    errors = []
    for _ in range(200):
        error = (rounding(x) - x).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert errors[-1] < 0.5 * errors[0]
    assert 0.2 < rounding.positive_step < 1.2


def test_what_a_rounding_does_is_told():
    assert "4 bits, -5 to 10, 1 steps" in repr(LearnedStep(torch.tensor(1.0), -5, 10, 1))


# A layer that rounds its weights


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_rounded_layer_computes_with_rounded_weights(bits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv, linear = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Linear(6, 4)
    x, y = draw(3, 2, 8, 8), draw(3, 6)
    for layer, given_, compute in (
        (conv, x, lambda weight: F.conv2d(x, weight, conv.bias, stride=2, padding=1)),
        (linear, y, lambda weight: F.linear(y, weight, linear.bias)),
    ):
        before = layer.weight.detach().clone()
        rounding = round_weight(layer, bits)
        rounded = RoundedLayer(layer, rounding)(given_)
        expected = compute(rounding(layer.weight))
        assert torch.allclose(rounded, expected, atol=1e-6)
        assert not torch.equal(rounding(layer.weight), layer.weight)
        rounded.square().sum().backward()
        assert layer.weight.grad.abs().sum() > 0
        assert rounding.step.grad.abs().sum() > 0
        assert torch.equal(layer.weight, before)


# The steps to begin with


def squared_errors(weight, step, high):
    """Return the squared error of each channel: (channels,), in float64."""
    rows, step = weight.detach().double().flatten(1), step.double().view(-1, 1)
    return (round_by_hand(rows, step, -high, high) - rows).square().sum(1)


def layer_with(weight: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    return layer


DISTRIBUTIONS = {
    "normal": draw(50, 60),
    "even": torch.rand(50, 60, generator=torch.Generator().manual_seed(0)) - 0.3,
    "long tails": draw(50, 60) ** 3,
    "one outlier": torch.cat([draw(50, 59), torch.full((50, 1), 20.0)], dim=1),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_steps_of_weights_have_the_least_squared_error_of_all_that_are_tried(kind, bits):
    weight, high = DISTRIBUTIONS[kind], 2 ** (bits - 1) - 1
    rounding = round_weight(layer_with(weight), bits)
    assert (rounding.low, rounding.high, rounding.bits) == (-high, high, bits)
    assert rounding.count == 60
    found = squared_errors(weight, rounding.step.detach(), high)
    widest = weight.abs().amax(1) / high
    shares = torch.arange(10, 101) / 100
    every = torch.stack([squared_errors(weight, share * widest, high) for share in shares])
    assert (found <= every.amin(0) * 1.0001 + 1e-12).all()
    assert every.std(0).min() > 0  # they are not all the same


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_narrow_weights_gain_by_cutting_off(bits):
    weight, high = DISTRIBUTIONS["normal"], 2 ** (bits - 1) - 1
    rounding = round_weight(layer_with(weight), bits)
    widest = weight.abs().amax(1) / high
    gain = squared_errors(weight, rounding.step.detach(), high) / squared_errors(
        weight, widest, high
    )
    assert (gain <= 1).all()
    assert gain.mean() < 0.95


def test_the_best_steps_of_normal_numbers_are_those_of_the_tables():
    """Of evenly spaced levels for standard normal numbers: Max, 1960, table II, 3 and 7 levels."""
    weight = draw(1, 200_000)
    for bits, best in ((2, 1.2240), (3, 0.6508)):
        step = round_weight(layer_with(weight), bits).step.item()
        widest = weight.abs().max().item() / (2 ** (bits - 1) - 1)
        assert step == pytest.approx(best, abs=0.01 * widest)  # steps that are tried lie so far off


def test_a_channel_of_zeros_stays_zeros_and_disturbs_no_other():
    weight = draw(3, 20)
    weight[1] = 0
    rounding = round_weight(layer_with(weight), 4)
    rounded = rounding(weight)
    assert (rounded[1] == 0).all()
    assert (rounding.step > 0).all()
    for channel in (0, 2):
        alone = round_weight(layer_with(weight[channel : channel + 1]), 4)
        assert rounding.step[channel] == alone.step[0]


def errors_of(values, step, low, high):
    return (round_by_hand(values, step, low, high) - values).square().sum().item()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_steps_of_activations_have_nearly_the_least_squared_error(bits):
    """Nearly: steps 9 % apart are tried, and the error inside a step is estimated."""
    generator = torch.Generator().manual_seed(0)
    values = F.relu(torch.randn(100, 300, generator=generator))
    rounding = round_activation(values, bits)
    assert (rounding.low, rounding.high) == (0, 2**bits - 1)
    assert rounding.count == 300
    step = rounding.step.detach()
    found = errors_of(values, step, 0, 2**bits - 1)
    tried = [factor * step for factor in np.geomspace(1 / 8, 8, 121)]
    every = [errors_of(values, one, 0, 2**bits - 1) for one in tried]
    assert found < 1.15 * min(every)
    for factor in (0.7, 1.4):
        assert found < errors_of(values, factor * step, 0, 2**bits - 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.0, 0.5, 3.0])
def test_values_on_both_sides_of_0_get_a_zero_point(bits, shift):
    generator = torch.Generator().manual_seed(0)
    values = shift + torch.randn(100, 50, generator=generator)
    rounding = round_activation(values, bits)
    assert rounding.high - rounding.low == 2**bits - 1
    assert rounding.low <= 0 <= rounding.high
    assert rounding(torch.zeros(1)) == 0
    assert rounding.bits == bits
    signal = values.square().mean()
    assert (rounding(values) - values).square().mean() < signal * {2: 0.5, 4: 0.05, 8: 0.001}[bits]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_that_are_never_positive_use_all_integers(bits):
    values = -F.relu(draw(50, 40))
    rounding = round_activation(values, bits)
    assert (rounding.low, rounding.high) == (-(2**bits - 1), 0)
    mirrored = round_activation(-values, bits)
    assert torch.allclose(rounding(values), -mirrored(-values))
    rounding(values).sum().backward()
    assert rounding.step.grad.isfinite()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_activation_of_nothing_but_zeros_can_be_rounded(bits):
    rounding = round_activation(torch.zeros(20, 10), bits)
    assert rounding.step > 0
    assert torch.equal(rounding(torch.zeros(5)), torch.zeros(5))
    assert rounding.high == 2**bits - 1  # ready for what training makes of it


def test_images_of_bytes_stay_as_they_are():
    every = torch.arange(256).view(1, 1, 16, 16) / 255
    rounding = round_pixels(every)
    assert torch.allclose(rounding(every), every, rtol=1e-6, atol=0)
    assert (rounding(every) * 255).round().flatten().tolist() == list(range(256))
    assert rounding.count == 256
    assert not rounding.step.requires_grad
    between = torch.full((1, 1, 16, 16), 0.5 / 255 + 0.001)
    assert torch.allclose(rounding(between), torch.tensor(1 / 255))
