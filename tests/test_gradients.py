"""Gradients of real backward passes, and what number formats make of them."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.formats import FORMATS
from course_utils.gradients import (
    DTYPES,
    cast_gradients,
    find_gradients,
    find_stuck_share,
    tell_fate,
)


@pytest.fixture
def batch(images):
    return torch.from_numpy(images), torch.from_numpy(np.arange(40) % 10)


def test_gradients_in_fp32_are_those_of_a_backward_pass(tiny_resnet, batch):
    model = copy.deepcopy(tiny_resnet).train()
    seen = {}

    def keep(layer, _, output):
        output.retain_grad()
        seen[layer] = output

    named = dict(model.named_modules())
    for layer in named.values():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            layer.register_forward_hook(keep)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    outputs = find_gradients(tiny_resnet, *batch)
    assert len(outputs) == len(seen) == 19
    for name, gradient in outputs.items():
        assert torch.equal(gradient, seen[named[name]].grad)
    weights = find_gradients(tiny_resnet, *batch, of="weights")
    assert weights.keys() == dict(model.named_parameters()).keys()
    for name, gradient in weights.items():
        assert torch.equal(gradient, model.get_parameter(name).grad)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_between_layers_have_the_type_of_the_pass(precision, tiny_resnet, batch):
    found = find_gradients(tiny_resnet, *batch, precision=precision)
    assert {gradient.dtype for gradient in found.values()} == {DTYPES[precision]}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_of_weights_are_fp32_but_were_16_bit_numbers(precision, tiny_mlp, batch):
    exact = find_gradients(tiny_mlp, *batch, of="weights")
    found = find_gradients(tiny_mlp, *batch, precision=precision, of="weights")
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, gradient.to(DTYPES[precision]).float())
        assert not torch.equal(exact[name], exact[name].to(DTYPES[precision]).float())
        error = (gradient - exact[name]).norm() / exact[name].norm()
        assert 0 < error < 0.2


def test_the_model_stays_as_it_is(tiny_resnet, batch):
    before = copy.deepcopy(tiny_resnet.state_dict())
    find_gradients(tiny_resnet, *batch)
    assert not tiny_resnet.training
    assert all(torch.equal(before[name], now) for name, now in tiny_resnet.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_resnet.parameters())


def test_a_scaled_loss_scales_gradients_that_are_not_scaled_back(tiny_mlp, batch):
    plain = find_gradients(tiny_mlp, *batch)
    scaled = find_gradients(tiny_mlp, *batch, loss_scale=2.0**12)
    for name, gradient in plain.items():
        assert torch.equal(scaled[name], 2.0**12 * gradient)


def test_a_frozen_model_has_gradients_too(tiny_mlp, batch):
    frozen = copy.deepcopy(tiny_mlp).requires_grad_(False)
    expected = find_gradients(tiny_mlp, *batch)
    for name, gradient in find_gradients(frozen, *batch).items():
        assert torch.equal(gradient, expected[name])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("exponents", [(-46, -20), (-20, 5), (5, 20)])
def test_a_cast_rounds_as_the_format_of_the_course(name, exponents):
    generator = torch.Generator().manual_seed(0)
    shape = (5000,)
    exponent = torch.empty(shape).uniform_(*exponents, generator=generator)
    values = torch.randn(shape, generator=generator) * 2**exponent
    cast = cast_gradients({"layer": values}, name, loss_scale=4.0)["layer"]
    assert cast.dtype == DTYPES[name]
    assert torch.equal(cast.float(), FORMATS[name].round_to(4 * values))


@pytest.mark.parametrize("name", DTYPES)
def test_the_fate_at_the_borders_of_a_format(name):
    reach = FORMATS[name]
    smallest, normal, largest = (
        reach.smallest_subnormal,
        reach.smallest_normal,
        reach.largest,
    )
    values = torch.tensor(
        [smallest / 2, -smallest, normal - smallest, normal, -1.0, largest / 2, largest, 0.0],
        dtype=torch.float64,
    )
    cast = values.to(DTYPES[name])
    fate = tell_fate({"layer": values}, {"layer": cast}, name)
    assert fate.count == 7
    assert fate.underflow == pytest.approx(1 / 7)
    assert fate.subnormal == pytest.approx(2 / 7)
    assert fate.overflow == pytest.approx(0 if reach.has_infinity else 1 / 7)


def test_infinity_and_nan_are_overflow_and_shares_are_of_all_layers():
    exact = {"a": torch.ones(2, 3), "b": torch.tensor([1.0, 0.0, 0.0])}
    held = {
        "a": torch.tensor([[1, math.inf, -math.inf], [math.nan, 0, 2**-20]]).half(),
        "b": torch.tensor([1.0, math.nan, 0.0]).half(),
    }
    fate = tell_fate(exact, held, "fp16")
    assert fate.count == 7
    assert fate.overflow == pytest.approx(3 / 7)
    assert fate.underflow == fate.subnormal == pytest.approx(1 / 7)


def test_a_larger_scale_saves_gradients_from_fp16(tiny_resnet, batch):
    exact = find_gradients(tiny_resnet, *batch)
    tiny = {name: gradient * 2.0**-16 for name, gradient in exact.items()}
    shares = [
        tell_fate(tiny, cast_gradients(tiny, "fp16", scale), "fp16").underflow
        for scale in (1.0, 2.0**4, 2.0**8, 2.0**16)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.3
    assert shares[-1] < 0.01


def test_a_pass_in_fp16_loses_about_what_a_cast_loses(tiny_resnet, batch):
    exact = find_gradients(tiny_resnet, *batch)
    scale = 2.0**-12  # small enough to lose many
    passed = find_gradients(tiny_resnet, *batch, precision="fp16", loss_scale=scale)
    by_pass = tell_fate(exact, passed, "fp16")
    by_cast = tell_fate(exact, cast_gradients(exact, "fp16", scale), "fp16")
    assert by_cast.underflow > 0.1
    assert by_pass.underflow == pytest.approx(by_cast.underflow, rel=0.3)
    assert by_pass.overflow == by_cast.overflow == 0


def test_one_infinite_gradient_spoils_all_that_are_computed_from_it(tiny_resnet, batch):
    exact = find_gradients(tiny_resnet, *batch)
    scale = 2.0**17 / float(exact["head"].abs().max())
    by_cast = tell_fate(exact, cast_gradients(exact, "fp16", scale), "fp16")
    passed = find_gradients(tiny_resnet, *batch, precision="fp16", loss_scale=scale)
    by_pass = tell_fate(exact, passed, "fp16")
    assert 0 < by_cast.overflow < 0.9
    assert by_pass.overflow > 0.99


def test_bf16_needs_no_scale(tiny_resnet, batch):
    exact = find_gradients(tiny_resnet, *batch)
    for scale in (2.0**-40, 1.0, 2.0**40):
        passed = find_gradients(tiny_resnet, *batch, precision="bf16", loss_scale=scale)
        fate = tell_fate(exact, passed, "bf16")
        assert fate.underflow < 0.01  # a ReLU that closed, not the range
        assert fate.subnormal == fate.overflow == 0


def test_gradients_that_are_all_0_have_no_fate():
    nothing = {"layer": torch.zeros(3)}
    with pytest.raises(ValueError, match="All gradients are 0"):
        tell_fate(nothing, nothing, "fp16")


@pytest.mark.parametrize(
    ("name", "share"),
    [("fp32", 0), ("fp16", 1 / 4), ("bf16", 2 / 4), ("fp8 E5M2", 4 / 4), ("fp8 E4M3", 3 / 4)],
)
def test_weights_are_stuck_if_the_step_is_below_half_a_gap(name, share):
    model = nn.Linear(5, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 1.0, 1.0, -1.0, 1.0]])
    # the gap below 1 is 2**-11 in fp16, 2**-8 in bf16, 2**-4 in E4M3, 2**-3 in E5M2
    gradients = {"weight": torch.tensor([[2**-13, 2**-10, 2**-6, -(2**-4), 0.0]])}
    assert find_stuck_share(model, gradients, 1.0, name) == share
    assert find_stuck_share(model, {"weight": torch.zeros(1, 5)}, 1.0, name) == 0


def test_a_weight_is_rounded_before_the_step_already():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1 + 2**-8 - 2**-12)  # just below the middle of two values of bf16
    gradients = {"weight": torch.tensor([[-(2**-11)]])}  # a step from there would cross it
    assert find_stuck_share(model, gradients, 1.0, "bf16") == 1


def test_a_smaller_learning_rate_leaves_more_weights_stuck(tiny_mlp, batch):
    gradients = find_gradients(tiny_mlp, *batch, of="weights")
    for name in ("bf16", "fp16"):
        shares = [find_stuck_share(tiny_mlp, gradients, rate, name) for rate in (1, 0.1, 0.01)]
        assert shares == sorted(shares)
        assert shares[0] < shares[-1]
        master = find_stuck_share(tiny_mlp, gradients, 0.01, "fp32")
        assert master < 0.1 * shares[-1]


@pytest.mark.parametrize(
    "use",
    [
        lambda name: cast_gradients({}, name),
        lambda name: tell_fate({}, {}, name),
        lambda name: find_stuck_share(nn.Linear(1, 1), {}, 0.1, name),
    ],
)
def test_an_unknown_format_is_named(use):
    with pytest.raises(ValueError, match="no format 'int8'; choose one of"):
        use("int8")


def test_an_unknown_precision_of_a_pass_is_named(tiny_mlp, batch):
    with pytest.raises(ValueError, match="no precision 'fp8 E5M2'"):
        find_gradients(tiny_mlp, *batch, precision="fp8 E5M2")
