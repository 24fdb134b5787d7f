"""Memory: bytes counted by hand for small networks, and what fresh processes measure."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import models, quantize, runtimes
from course_utils.measure import fresh_process
from course_utils.measure.fresh_process import SINCE_START
from course_utils.measure.memory import (
    count_inference_bytes,
    count_training_bytes,
    measure_memory,
)
from course_utils.runtimes import onnx_runtime

ROOM = 4 * 2**20  # for pages that the system reads ahead, or makes large
N = 6  # images in a batch
PIXELS = 144

sgd = functools.partial(torch.optim.SGD, lr=0.1)
sgd_with_momentum = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
adam = functools.partial(torch.optim.Adam, lr=0.001)

# What the loss saves: the logarithms of the probabilities, the labels in 8 bytes, one number.
LOSS = 4 * N * 10 + 8 * N + 4


@pytest.fixture(autouse=True)
def lock(monkeypatch, tmp_path):
    monkeypatch.setattr("course_utils.measure.timing_lock.lock_file", lambda: tmp_path / "lock")


@pytest.fixture
def batch(images) -> np.ndarray:
    return images[:N]


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(N) % 10


def train(*layers: nn.Module, batch, labels, make_optimizer=sgd) -> dict[str, int]:
    return count_training_bytes(nn.Sequential(*layers), batch, labels, make_optimizer)


def infer(*layers: nn.Module, batch) -> int:
    return count_inference_bytes(nn.Sequential(*layers), batch)["activations at their peak"]


# Training, counted by hand


def test_training_an_mlp(tiny_mlp, batch, labels):
    counted = count_training_bytes(tiny_mlp, batch, labels, sgd)
    parameters = 4 * (144 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10)
    assert counted == {
        "parameters": parameters,
        "buffers": 0,
        "gradients": parameters,
        "optimizer state": 0,
        # Each layer saves its input; what ReLU saves is the next layer's input.
        "saved for backward": 4 * N * (144 + 64 + 32) + LOSS,
    }


def test_training_a_resnet(tiny_resnet, batch, labels):
    counted = count_training_bytes(tiny_resnet, batch, labels, sgd_with_momentum)
    parameters = 4 * models.count_parameters(tiny_resnet)
    norms = [4, 4, 4, 8, 8, 8, 16, 16, 16]
    in_block1, in_block2, in_block3 = 4 * 12 * 12, 8 * 6 * 6, 16 * 3 * 3
    # The outputs of convolutions and of ReLUs: 2 of the stem and 4 of block 1; 5 with a shortcut.
    activations = PIXELS + 6 * in_block1 + 5 * in_block2 + 5 * in_block3 + 16
    assert counted == {
        "parameters": parameters,
        "buffers": sum(4 * (channels + channels) + 8 for channels in norms),
        "gradients": parameters,
        "optimizer state": parameters,
        "saved for backward": 4 * N * activations + 4 * 2 * sum(norms) + LOSS,
    }


def test_batch_norm_saves_its_input_and_two_numbers_a_channel(batch, labels):
    layers = nn.Conv2d(1, 2, 12), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 10)
    counted = train(*layers, batch=batch, labels=labels)
    assert counted["buffers"] == 4 * (2 + 2) + 8
    saved = 4 * N * (PIXELS + 2 + 2) + 4 * (2 + 2)
    assert counted["saved for backward"] == saved + LOSS


def test_dropout_saves_what_it_drew(batch, labels):
    layers = nn.Flatten(), nn.Linear(144, 64), nn.Dropout(0.5), nn.Linear(64, 10)
    with_it = train(*layers, batch=batch, labels=labels)["saved for backward"]
    without = train(*layers[:2], layers[3], batch=batch, labels=labels)["saved for backward"]
    assert without == 4 * N * (144 + 64) + LOSS
    assert with_it - without == 4 * N * 64


@pytest.mark.parametrize(
    ("make_optimizer", "numbers", "tensors"),
    [(sgd, 0, 0), (sgd_with_momentum, 1, 0), (adam, 2, 1), (torch.optim.Adam, 2, 1)],
)
def test_the_state_of_an_optimizer(tiny_mlp, batch, labels, make_optimizer, numbers, tensors):
    """Adam also counts its steps, in four bytes for each tensor of parameters."""
    counted = count_training_bytes(tiny_mlp, batch, labels, make_optimizer)
    assert counted["optimizer state"] == numbers * counted["parameters"] + 4 * tensors * 6


def test_what_is_frozen_has_no_gradient(batch, labels):
    frozen, trained = nn.Linear(144, 64), nn.Linear(64, 10)
    frozen.requires_grad_(False)
    layers = nn.Flatten(), frozen, nn.ReLU(), trained
    counted = train(*layers, batch=batch, labels=labels, make_optimizer=adam)
    assert counted["parameters"] == 4 * (144 * 64 + 64 + 64 * 10 + 10)
    assert counted["gradients"] == 4 * (64 * 10 + 10)
    assert counted["optimizer state"] == 2 * counted["gradients"] + 8
    assert counted["saved for backward"] == 4 * N * 64 + LOSS


def test_shared_parameters_are_counted_once(batch, labels):
    shared = nn.Linear(144, 144)
    counted = train(nn.Flatten(), shared, shared, nn.Linear(144, 10), batch=batch, labels=labels)
    assert counted["parameters"] == counted["gradients"] == 4 * (144 * 145 + 144 * 10 + 10)
    assert counted["saved for backward"] == 4 * N * (144 + 144 + 144) + LOSS


class Same(nn.Module):
    """Multiplies an activation with a view of itself: both are saved, in the same memory."""

    def forward(self, x):
        return x * x.view(-1).view(x.shape)


def test_views_of_one_activation_are_counted_once(batch, labels):
    layers = nn.Flatten(), nn.Linear(144, 8), Same(), nn.Linear(8, 10)
    counted = train(*layers, batch=batch, labels=labels)
    assert counted["saved for backward"] == 4 * N * (144 + 8 + 8) + LOSS


def test_a_larger_batch_needs_more_activations_and_nothing_else(tiny_resnet, images):
    labels = np.zeros(40, int)
    one, other = (count_training_bytes(tiny_resnet, images[:n], labels[:n], adam) for n in (20, 40))
    assert one.pop("saved for backward") < other.pop("saved for backward")
    assert one == other


# Inference, counted by hand


def test_inference_of_an_mlp(tiny_mlp, batch):
    assert count_inference_bytes(tiny_mlp, batch) == {
        "parameters": 4 * (144 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10),
        "buffers": 0,
        # In the first ReLU: the images, what it reads, what it writes.
        "activations at their peak": 4 * N * (144 + 64 + 64),
    }


def test_inference_of_a_resnet(tiny_resnet, batch):
    counted = count_inference_bytes(tiny_resnet, batch)
    # At the second batch norm of block 1: its input and its output, the first ReLU's output, and
    # the block's input, which the shortcut still needs.
    assert counted["activations at their peak"] == 4 * N * (PIXELS + 4 * 4 * 12 * 12)
    assert counted["parameters"] == 4 * models.count_parameters(tiny_resnet)
    assert counted["buffers"] == sum(8 * n + 8 for n in [4, 4, 4, 8, 8, 8, 16, 16, 16])


def test_an_activation_that_nothing_reads_any_more_is_given_back(batch):
    deep = [nn.Linear(144, 144) for _ in range(12)]
    assert infer(nn.Flatten(), *deep, batch=batch) == 4 * N * 3 * 144


def test_the_widest_place_decides(batch):
    layers = nn.Flatten(), nn.Linear(144, 500), nn.Linear(500, 300), nn.Linear(300, 10)
    assert infer(*layers, batch=batch) == 4 * N * (144 + 500 + 300)


def test_what_writes_in_place_needs_no_more(batch):
    layers = [nn.Flatten(), nn.Linear(144, 64)]
    assert infer(*layers, nn.ReLU(inplace=True), batch=batch) == 4 * N * (144 + 64)
    assert infer(*layers, nn.ReLU(), batch=batch) == 4 * N * (144 + 64 + 64)


class Hoards(nn.Module):
    """Keeps every activation until its end, as training does."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(144, 144) for _ in range(layers))

    def forward(self, images):
        kept = [images.flatten(1)]
        for layer in self.layers:
            kept.append(layer(kept[-1]))
        return kept[-1]


@pytest.mark.parametrize("layers", [1, 5])
def test_a_module_that_keeps_its_activations_is_charged_for_them(batch, layers):
    counted = count_inference_bytes(Hoards(layers), batch)
    assert counted["activations at their peak"] == 4 * N * 144 * (layers + 1)


def test_dropout_draws_nothing_in_an_inference(batch):
    layers = nn.Flatten(), nn.Linear(144, 64), nn.Dropout(0.5)
    assert infer(*layers, batch=batch) == infer(*layers[:2], batch=batch)


def test_an_inference_agrees_with_what_pytorch_s_allocator_counts(tiny_mlp, batch):
    """The profiler sees each allocation; a network without kernels' scratch shows nothing else."""
    model = copy.deepcopy(tiny_mlp).eval()
    given = torch.from_numpy(batch)
    with torch.no_grad():
        model(given)
        with torch.profiler.profile(profile_memory=True) as profile:
            model(given)
    events = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = np.cumsum([size for _, size in sorted(events, key=lambda event: event[0])])
    counted = count_inference_bytes(tiny_mlp, batch)["activations at their peak"]
    assert counted == held.max() + batch.nbytes


# Nothing changes


def test_the_model_and_the_random_numbers_are_left_as_they_were(tiny_resnet, batch, labels):
    model = nn.Sequential(copy.deepcopy(tiny_resnet), nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    for mode in (True, False):
        model.train(mode)
        random = torch.get_rng_state()
        count_training_bytes(model, batch, labels, adam)
        count_inference_bytes(model, batch)
        assert torch.equal(torch.get_rng_state(), random)
        assert {module.training for module in model.modules()} == {mode}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counting_twice_counts_the_same(tiny_resnet, batch, labels):
    for count in (
        functools.partial(count_inference_bytes, tiny_resnet, batch),
        functools.partial(count_training_bytes, tiny_resnet, batch, labels, adam),
    ):
        assert count() == count()


# What cannot be counted


def test_images_that_the_model_does_not_take_are_named(tiny_mlp, labels):
    wrong = np.zeros((N, 1, 5, 5), np.float32)
    with pytest.raises(ValueError, match=r"does not accept images of shape \(6, 1, 5, 5\)"):
        count_inference_bytes(tiny_mlp, wrong)
    with pytest.raises(ValueError, match=r"cannot be trained on images of shape \(6, 1, 5, 5\)"):
        count_training_bytes(tiny_mlp, wrong, labels, sgd)


@pytest.mark.parametrize("wrong", [np.zeros(N + 1, int), np.full(N, 10), np.zeros((N, 3), int)])
def test_labels_that_do_not_fit_are_named(tiny_mlp, batch, wrong):
    with pytest.raises(ValueError, match=r"cannot be trained on images of shape .* with labels"):
        count_training_bytes(tiny_mlp, batch, wrong, sgd)


def test_a_model_without_anything_to_train_is_refused(tiny_mlp, batch, labels):
    frozen = copy.deepcopy(tiny_mlp).requires_grad_(False)
    for model in (frozen, nn.Flatten()):
        with pytest.raises(ValueError, match="none requires a gradient"):
            count_training_bytes(model, batch, labels, sgd)


# Measured in fresh processes


def test_a_batch_needs_its_activations(tiny_resnet, images):
    runner = runtimes.build(tiny_resnet, images)
    many = np.tile(images, (64, 1, 1, 1))  # (2560, 1, 12, 12)
    small, large = (measure_memory(runner, batch) for batch in (images[:1], many))
    activation = 4 * len(many) * 4 * 12 * 12
    grown = large.first_call.value - small.first_call.value
    assert grown >= 2 * activation - ROOM  # the stem's and block 1's
    # Its kernels may fill up 4 channels to 16.
    assert grown <= 4 * count_inference_bytes(tiny_resnet, many)["activations at their peak"]
    assert large.later_calls.value >= large.first_call.value - ROOM
    assert large.model.value == pytest.approx(small.model.value, abs=ROOM)
    for found in (small.model, small.first_call, small.later_calls):
        assert (found.unit, found.count) == ("bytes", 1)
        assert found.low == found.value == found.high
        assert found.provenance.kind == "measured"


def test_the_weights_count_as_the_model_s(images):
    wide = runtimes.build(models.MLP([144, 2000, 2000, 10]), images)
    narrow = runtimes.build(models.MLP([144, 20, 20, 10]), images)
    wide, narrow = (measure_memory(runner, images[:1]) for runner in (wide, narrow))
    weights = 4 * 2000 * (144 + 2000 + 10)
    grown = wide.model.value - narrow.model.value
    assert grown >= weights - ROOM
    assert wide.first_call.value <= ROOM


def test_a_file_of_packed_weights_is_unpacked_first(tiny_convnet, images):
    packed = runtimes.build(quantize.quantize_weights(tiny_convnet, 4), images)
    assert measure_memory(packed, images).first_call.value > 0


def plant_stages(monkeypatch, *peaks: int):
    """Let each process report a model of 100 bytes over images of 50, and a peak above them."""
    reports = iter(peaks)

    def run_once(codes, files, limit_s):
        peak = next(reports)
        resident = {"images": 50, "load": 180, "give back": 150}
        return [[1, 0, 0, 1], *([1, resident.get(name, 0), peak, 1] for name in codes)]

    monkeypatch.setattr(fresh_process, "_run_once", run_once)


def test_several_processes_give_a_median_and_a_spread(monkeypatch, tiny_mlp, images):
    plant_stages(monkeypatch, 1150, 2150, 1350)
    found = measure_memory(runtimes.build(tiny_mlp, images), images, repeats=3)
    assert (found.model.low, found.model.value, found.model.high) == (100, 100, 100)
    assert (found.first_call.low, found.first_call.value, found.first_call.high) == (
        1000,
        1200,
        2000,
    )
    assert found.later_calls.count == 3


def test_a_peak_since_the_start_says_so(monkeypatch, tiny_mlp, images, tmp_path):
    monkeypatch.setattr(fresh_process, "PROC", str(tmp_path / "nowhere"))
    found = measure_memory(runtimes.build(tiny_mlp, images), images)
    assert found.first_call.note == found.later_calls.note == SINCE_START


def test_the_runner_and_the_images_have_to_fit(make_runner, tiny_split, tiny_mlp, images):
    with pytest.raises(ValueError, match=r"ONNX Runtime, .* this one is of planted runtime"):
        measure_memory(make_runner(), tiny_split.images)
    runner = runtimes.build(tiny_mlp, images)
    with pytest.raises(ValueError, match=r"takes float32 images of shape \(n, 1, 12, 12\)"):
        measure_memory(runner, images[:, :, :5])
    with pytest.raises(ValueError, match="nothing to measure with 40 images in 0"):
        measure_memory(runner, images, repeats=0)
    with pytest.raises(ValueError, match="nothing to measure with 0 images"):
        measure_memory(runner, images[:0])


def test_the_stages_open_a_session_as_the_runners_do():
    """One thread, that does not spin while it waits."""
    for option in ("intra_op_num_threads", "inter_op_num_threads", "allow_spinning"):
        assert option in onnx_runtime.LOADING.load
