"""Mixed-precision training: the scale of the loss, steps, and in which type layers compute."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import measure, mixed_precision, models
from course_utils.mixed_precision import (
    LARGEST_SCALE,
    PRECISIONS,
    LossScaler,
    autocast,
    build_step,
    take_step,
)

LABELS = np.arange(40) % 10


@pytest.fixture
def batch(images):
    return torch.from_numpy(images), torch.from_numpy(LABELS)


def make_twins(model, **options):
    """Return two copies of a model, each with an optimiser of its own."""
    twins = [copy.deepcopy(model).train() for _ in range(2)]
    return [(twin, torch.optim.SGD(twin.parameters(), lr=0.1, **options)) for twin in twins]


def are_equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_compute_in_the_precision_and_the_weights_stay(precision, tiny_resnet, batch):
    model = copy.deepcopy(tiny_resnet)
    found = {}
    for name in ("stem", "block2.norm1", "head"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.dtype})
        )
    with autocast(precision):
        model(batch[0])
    assert set(found.values()) == {PRECISIONS[precision]}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_in_fp32_the_context_changes_nothing(tiny_resnet, batch):
    with torch.inference_mode():
        expected = tiny_resnet(batch[0])
        with autocast("fp32"):
            assert torch.equal(tiny_resnet(batch[0]), expected)


def test_a_context_is_for_the_kind_of_device():
    assert autocast("bf16", "cpu:0").device == "cpu"


@pytest.mark.parametrize("make", [autocast, lambda name: build_step(nn.Linear(1, 1), LABELS, name)])
def test_an_unknown_precision_is_named(make):
    with pytest.raises(ValueError, match=r"no precision 'fp8'; choose one of .*'bf16'"):
        make("fp8")


@pytest.mark.parametrize("grow_after", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1024.0, 2.0**16])
def test_the_scaler_does_what_torchs_does_step_by_step(scale, grow_after, tiny_mlp, batch):
    images, labels = batch
    (ours, optimizer), (theirs, torchs_optimizer) = make_twins(tiny_mlp, momentum=0.9)
    scaler = LossScaler(scale, grow_after)
    torchs = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=grow_after)
    spoiled = {2: math.inf, 3: math.nan, 9: -math.inf, 14: math.nan}  # a gradient, by step
    for step in range(20):
        optimizer.zero_grad()
        (F.cross_entropy(ours(images), labels) * scaler.scale).backward()
        torchs_optimizer.zero_grad()
        torchs.scale(F.cross_entropy(theirs(images), labels)).backward()
        if step in spoiled:
            for model in (ours, theirs):
                next(model.parameters()).grad[0, 0] = spoiled[step]
        assert scaler.step(optimizer) == (step not in spoiled)
        torchs.step(torchs_optimizer)
        torchs.update()
        assert scaler.scale == torchs.get_scale()
        assert scaler.good_steps == torchs.state_dict()["_growth_tracker"]
        assert are_equal(ours, theirs)


def test_the_scale_stays_finite_as_torchs_does(tiny_mlp):
    scaler = LossScaler(2.0**125, grow_after=1)
    torchs = torch.amp.GradScaler("cpu", init_scale=2.0**125, growth_interval=1)
    (ours, optimizer), (theirs, torchs_optimizer) = make_twins(tiny_mlp)
    for _ in range(5):
        for model in (ours, theirs):
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
        torchs.scale(torch.zeros(1))  # which makes its scale
        scaler.step(optimizer)
        torchs.step(torchs_optimizer)
        torchs.update()
        assert scaler.scale == torchs.get_scale()
    assert scaler.scale == LARGEST_SCALE


def test_a_skipped_step_changes_neither_weights_nor_momentum(tiny_mlp, batch):
    (model, optimizer), _ = make_twins(tiny_mlp, momentum=0.9)
    scaler = LossScaler(8.0)
    assert take_step(F.cross_entropy(model(batch[0]), batch[1]), optimizer, scaler)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    assert not take_step(model(batch[0]).sum() * math.inf, optimizer, scaler)
    assert scaler.scale == 4.0
    after = model.state_dict(), optimizer.state_dict()["state"]
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    for index, state in before[1].items():
        assert torch.equal(state["momentum_buffer"], after[1][index]["momentum_buffer"])


def test_a_scaler_goes_on_where_it_stopped():
    kept = LossScaler(4.0)
    kept.good_steps = 7
    resumed = LossScaler()
    resumed.load_state_dict(kept.state_dict())
    assert (resumed.scale, resumed.good_steps) == (4.0, 7)


@pytest.mark.parametrize(
    "options",
    [{"scale": 0}, {"scale": -1.0}, {"scale": math.inf}, {"scale": math.nan}, {"grow_after": 0}],
)
def test_a_scale_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="above 0"):
        LossScaler(**options)


@pytest.mark.parametrize("scale", [None, 2.0**20])
def test_a_step_in_fp32_is_the_same_with_and_without_a_scale(scale, tiny_mlp, batch):
    (model, optimizer), (other, others_optimizer) = make_twins(tiny_mlp)
    scaler = scale and LossScaler(scale)
    for _ in range(3):
        assert take_step(F.cross_entropy(model(batch[0]), batch[1]), optimizer, scaler)
        others_optimizer.zero_grad()
        F.cross_entropy(other(batch[0]), batch[1]).backward()
        others_optimizer.step()
    assert are_equal(model, other)  # powers of two round nothing


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_in_each_precision_lowers_the_loss(precision, tiny_mlp, batch):
    images, labels = batch
    (model, optimizer), _ = make_twins(tiny_mlp)
    scaler = LossScaler(2.0**40) if precision == "fp16" else None  # too large at first
    losses, skipped = [], 0
    for _ in range(160):  # of which fp16 skips some twenty
        with autocast(precision):
            logits = model(images)
        losses.append(F.cross_entropy(logits.float(), labels))
        skipped += not take_step(losses[-1], optimizer, scaler)
    assert losses[-1] < 0.9 * losses[0]
    assert (skipped > 5) == (precision == "fp16")
    assert scaler is None or scaler.scale == 2.0 ** (40 - skipped)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_can_be_timed_and_trains_a_copy(precision, tiny_mlp, images):
    before = copy.deepcopy(tiny_mlp)
    step = build_step(tiny_mlp, LABELS, precision)
    first = step(images)
    assert first.shape == (40, 10)
    assert first.dtype == np.float32
    for _ in range(20):
        last = step(images)
    assert not np.array_equal(first, last)
    assert are_equal(tiny_mlp, before)
    assert all(parameter.grad is None for parameter in tiny_mlp.parameters())
    timed = measure.compare(step, images=images, rounds=1)
    assert timed.times_ms[0].min() > 0


def test_the_loss_of_a_step_is_scaled_in_fp16_alone(tiny_mlp, images, monkeypatch):
    used = []
    monkeypatch.setattr(mixed_precision, "take_step", lambda *args: used.append(args[-1]))
    for precision in PRECISIONS:
        build_step(tiny_mlp, LABELS, precision)(images)
    assert [type(scaler) for scaler in used] == [type(None), type(None), LossScaler]


def test_a_step_in_fp32_is_sgd_with_nesterovs_momentum(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resnet = models.ResNet8(width=8)
    step = build_step(resnet, LABELS, "fp32")
    model = copy.deepcopy(resnet).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, nesterov=True)
    for _ in range(3):
        logits = model(torch.from_numpy(images))
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.from_numpy(LABELS)).backward()
        optimizer.step()
        assert np.allclose(step(images), logits.detach().numpy(), atol=1e-5)
