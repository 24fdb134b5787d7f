"""PyTorch on any device: its answers in each format, and what is copied."""

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, FakeGraphs, Launching, rows
from safetensors.torch import load
from torch import nn

from course_utils import machine, runtimes
from course_utils.devices import Device, DeviceLostError, OutOfDeviceMemoryError
from course_utils.runtimes import build_on_device, torch_device

CPU = Device("cpu", "a processor", "cpu")
DIGITS = {"fp32": 22, "bf16": 8, "fp16": 11}  # of the mantissa


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


class Watch(nn.Module):
    """Notes under which circumstances it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.seen = {}

    def __deepcopy__(self, memo) -> "Watch":
        other = Watch()
        other.seen = self.seen
        return other

    def forward(self, images):
        self.seen["threads"] = torch.get_num_threads()
        self.seen["training"] = self.training
        self.seen["types"] = (images.dtype, self.conv.weight.dtype)
        self.seen["channels last"] = images.is_contiguous(memory_format=torch.channels_last)
        logits = self.conv(images).mean((2, 3))
        self.seen["inference mode"] = logits.is_inference()
        self.seen["tf32"] = tuple(part.allow_tf32 for part in switches())
        return logits


def switches() -> tuple:
    return torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture
def two_channels() -> np.ndarray:
    return np.random.default_rng(0).random((4, 2, 6, 6), dtype=np.float32)


@pytest.fixture
def linear() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(4, 3)


@pytest.fixture
def count_sent(monkeypatch) -> list[int]:
    """Note the size of each batch that is sent to a device."""
    sent, real = [], torch.from_numpy

    def from_numpy(batch):
        sent.append(len(batch))
        return real(batch)

    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    return sent


# Answers


@pytest.mark.parametrize("precision", DIGITS)
@pytest.mark.parametrize("keeps_images", [False, True])
@pytest.mark.parametrize("device", [CPU, FakeDevice()], ids=str)
def test_answers_are_near_those_of_the_model(tiny_resnet, images, device, precision, keeps_images):
    runner = build_on_device(
        tiny_resnet, images, device, precision=precision, keeps_images=keeps_images
    )
    expected = logits_of(tiny_resnet, images)
    near = 20 * 2.0 ** -DIGITS[precision] * np.abs(expected).max()
    for batch in (images, images[:7], images[:1]):
        logits = runner(batch)
        assert logits.dtype == np.float32
        assert np.abs(logits - expected[: len(batch)]).max() < near
    assert (runner.runtime, runner.kernel) == (f"PyTorch on {device.kind}", precision)
    assert (runner.image_shape, runner.threads) == ((1, 12, 12), 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_are_half_as_large_and_round_every_weight(tiny_mlp, images, precision):
    full, half = (
        build_on_device(tiny_mlp, images, CPU, precision=name) for name in ("fp32", precision)
    )
    assert half.size_bytes == pytest.approx(full.size_bytes / 2, rel=0.02)
    assert full.artefact == runtimes.build_eager(tiny_mlp, images).artefact
    for name, weights in load(half.artefact).items():
        rounded = tiny_mlp.state_dict()[name].to(torch_device.DTYPES[precision])
        assert torch.equal(weights, rounded)
    found = [runner(images) for runner in (full, half)]
    assert not np.array_equal(*found)


@pytest.fixture(autouse=True)
def recent_gpu(monkeypatch):
    """Let the fake GPU be one that has tf32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))


def test_an_older_gpu_computes_no_tf32_under_that_name(linear, images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (7, 5))
    with pytest.raises(ValueError, match="from 2020 on"):
        build_on_device(linear, images, FakeDevice(), precision="tf32")


def test_tf32_is_stored_as_fp32(linear):
    images, device = rows(3), FakeDevice()
    full, tensor = (
        build_on_device(linear, images, device, precision=name) for name in ("fp32", "tf32")
    )
    assert tensor.artefact == full.artefact
    assert tensor.kernel == "tf32"
    assert np.array_equal(tensor(images), full(images))  # the fake has no such multipliers


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_a_gpu_computes_with_tf32_or_without_and_is_left_as_it_was(two_channels, precision, before):
    model, usual = Watch(), [part.allow_tf32 for part in switches()]
    runner = build_on_device(model, two_channels, FakeDevice(), precision=precision)
    try:
        for part, allows in zip(switches(), before, strict=True):
            part.allow_tf32 = allows
        runner(two_channels)
        assert model.seen["tf32"] == (precision == "tf32",) * 2
        with pytest.raises(RuntimeError):
            runner.run(two_channels[:, :1])
        assert tuple(part.allow_tf32 for part in switches()) == before
    finally:
        for part, allows in zip(switches(), usual, strict=True):
            part.allow_tf32 = allows


@pytest.mark.parametrize("precision", DIGITS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_runs_as_it_should(two_channels, precision, threads):
    model = Watch().train()
    runner = build_on_device(model, two_channels, CPU, precision=precision, threads=threads)
    runner(two_channels)
    dtype = torch_device.DTYPES[precision]
    tf32 = model.seen.pop("tf32")
    assert tf32 == tuple(part.allow_tf32 for part in switches())  # of no concern there
    assert model.seen == {
        "threads": threads,
        "training": False,
        "types": (dtype, dtype),
        "channels last": True,
        "inference mode": True,
    }
    assert runner.threads == threads
    assert torch.get_num_threads() == 1


def test_the_model_stays_as_it_was(tiny_resnet, images):
    model = copy.deepcopy(tiny_resnet).train()
    before = copy.deepcopy(model.state_dict())
    build_on_device(model, images, CPU, precision="bf16")(images)
    assert model.training
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    weight = model.block1.conv1.weight
    assert weight.is_contiguous()


@pytest.mark.parametrize(
    ("options", "has_16_bits", "remark"),
    [
        ({}, True, ""),
        ({"precision": "bf16"}, True, ""),
        ({"precision": "bf16"}, False, "no bf16 instructions here: turned into fp32 and back"),
        ({"precision": "fp16"}, False, "no fp16 instructions here: turned into fp32 and back"),
        ({"keeps_images": True}, False, "images kept on the device"),
        (
            {"precision": "bf16", "keeps_images": True},
            False,
            "images kept on the device; no bf16 instructions here: turned into fp32 and back",
        ),
    ],
)
def test_the_remark_says_what_a_reader_must_know(monkeypatch, linear, options, has_16_bits, remark):
    has = {"bf16_instructions": has_16_bits, "fp16_instructions": has_16_bits}
    here = dataclasses.replace(machine.describe(), **has)
    monkeypatch.setattr(machine, "describe", lambda: here)
    assert build_on_device(linear, rows(2), CPU, **options).remark == remark
    elsewhere = build_on_device(linear, rows(2), FakeDevice(), **options).remark
    assert "instructions" not in elsewhere


# Images that stay


@pytest.mark.parametrize("device", [CPU, FakeDevice()], ids=str)
def test_images_that_are_kept_are_not_sent_again(linear, count_sent, device):
    images = rows(5)
    runner = build_on_device(linear, images, device, keeps_images=True)
    count_sent.clear()
    first, second = runner(images), runner(images)
    assert count_sent == []
    assert np.array_equal(first, second)
    assert np.allclose(first, logits_of(linear, images))
    count_sent.clear()
    others = images[::-1].copy()
    assert np.allclose(runner(others), logits_of(linear, others))  # others are sent, however like
    assert count_sent == [5, 5]  # once by this test itself


def test_images_that_are_not_kept_are_sent_in_each_call(linear, count_sent):
    images = rows(5)
    runner = build_on_device(linear, images, CPU)
    count_sent.clear()
    for _ in range(3):
        runner(images)
    assert count_sent == [5, 5, 5]


# What is refused


def test_an_unknown_format_is_named_with_those_there_are(linear):
    with pytest.raises(ValueError, match=r"\['fp32', 'tf32', 'bf16', 'fp16'\], not 'int8'"):
        build_on_device(linear, rows(2), CPU, precision="int8")


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "tf32"},
            "tf32 is a format of NVIDIA's GPUs from 2020 on; a device lacks it",
        ),
        ({"with_graph": True}, "CUDA graphs need an NVIDIA GPU; this is a device"),
    ],
)
def test_what_only_nvidia_s_gpus_can_is_refused_elsewhere(linear, kind, options, message):
    with pytest.raises(ValueError, match=message):
        build_on_device(linear, rows(2), FakeDevice(kind, "a device"), **options)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_at_all_is_refused(linear, threads):
    with pytest.raises(ValueError, match=rf"at least one thread; threads={threads} was given"):
        build_on_device(linear, rows(2), CPU, threads=threads)


@pytest.mark.parametrize(
    "options",
    [{}, {"keeps_images": True}, {"with_graph": True}, {"precision": "bf16"}],
    ids=str,
)
def test_images_that_the_model_does_not_accept_are_named(tiny_mlp, images, monkeypatch, options):
    FakeGraphs([]).plant(monkeypatch)
    with pytest.raises(ValueError, match=r"does not accept images of shape \(40, 1, 11, 12\)"):
        build_on_device(tiny_mlp, images[:, :, 1:], FakeDevice(), **options)


def test_other_images_are_refused_by_the_runner(tiny_mlp, images):
    runner = build_on_device(tiny_mlp, images, CPU)
    with pytest.raises(ValueError, match=r"shape \(n, 1, 12, 12\); it was given float64"):
        runner(images.astype(np.float64))
    with pytest.raises(ValueError, match=r"it was given float32 of shape \(40, 1, 11, 12\)"):
        runner(images[:, :, 1:])


@pytest.mark.parametrize("options", [{}, {"keeps_images": True}, {"with_graph": True}], ids=str)
def test_a_network_that_does_not_fit_is_no_refusal_of_images(linear, monkeypatch, options):
    FakeGraphs([]).plant(monkeypatch)
    network = Launching(FakeDevice(largest_batch=0), linear)
    with pytest.raises(OutOfDeviceMemoryError, match=r"in fp32 with a batch of 1 does not fit"):
        build_on_device(network, rows(3), network.device, **options)


def test_a_batch_that_does_not_fit_is_told_when_it_is_called(linear):
    network = Launching(FakeDevice(largest_batch=4), linear)
    runner = build_on_device(network, rows(3), network.device)
    assert runner(rows(4)).shape == (4, 3)
    with pytest.raises(OutOfDeviceMemoryError, match="a network in fp32 with a batch of 5 does"):
        runner(rows(5))
    assert runner(rows(4)).shape == (4, 3)


def test_images_that_cannot_be_kept_for_want_of_memory_are_told(linear, monkeypatch):
    real = torch.Tensor.contiguous

    def contiguous(tensor, **options):
        if len(tensor) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(tensor, **options)

    monkeypatch.setattr(torch.Tensor, "contiguous", contiguous)
    with pytest.raises(OutOfDeviceMemoryError, match="with a batch of 3 does not fit"):
        build_on_device(linear, rows(3), FakeDevice(), keeps_images=True)


def test_a_lost_device_is_told_in_whichever_call_it_is_lost(linear):
    network = Launching(FakeDevice(lost_at=3), linear)
    runner = build_on_device(network, rows(3), network.device)  # the first call
    runner(rows(3))
    for _ in range(2):  # and it stays so
        with pytest.raises(DeviceLostError, match="Fake GPU stopped answering while it ran a net"):
            runner(rows(3))
    lost = Launching(FakeDevice(lost_at=1), linear)
    with pytest.raises(DeviceLostError):
        build_on_device(lost, rows(3), lost.device)


# Recorded launches


@pytest.fixture
def recorded(linear, monkeypatch):
    """Return a function that builds with a recorded graph; its device has the log."""

    def build(images, **options):
        network = Launching(FakeDevice(), linear)
        FakeGraphs(network.device.log).plant(monkeypatch)
        runner = build_on_device(network, images, network.device, with_graph=True, **options)
        return runner, network.device

    return build


def test_the_launches_are_recorded_after_a_warm_up_on_a_stream_of_its_own(recorded):
    _, device = recorded(rows(3))
    assert device.log == [
        "launch",  # to see whether the images are accepted
        "side stream waits for main stream",
        "begin side stream",
        *["launch"] * torch_device.WARM_UP_CALLS,
        "end side stream",
        "main stream waits for side stream",
        "begin recording",
        "launch",
        "end recording",
    ]


@pytest.mark.parametrize("keeps_images", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_call_replays_with_its_own_images(recorded, linear, count, keeps_images):
    images = rows(count)
    runner, device = recorded(images, keeps_images=keeps_images)
    device.log.clear()
    for batch in (images, images + 1, images, images[::-1].copy()):
        assert np.allclose(runner(batch), logits_of(linear, batch), atol=1e-6)
    assert device.log == ["replay"] * 4  # and nothing is launched
    assert runner.remark.endswith("replayed as one")


def test_images_that_are_kept_are_replayed_without_being_sent(recorded, count_sent):
    images = rows(3)
    runner, _ = recorded(images, keeps_images=True)
    runner(images + 1)
    count_sent.clear()
    runner(images)
    assert count_sent == []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_graph_takes_batches_of_its_own_size_only(recorded, count):
    runner, device = recorded(rows(3))
    device.log.clear()
    with pytest.raises(
        RuntimeError, match=rf"recorded for \(3, 4\) takes no batch of \({count}, 4\)"
    ):
        runner(rows(count))
    assert device.log == []


def test_a_network_that_cannot_be_recorded_is_refused(linear, monkeypatch):
    @contextlib.contextmanager
    def refuse(graph):
        raise torch.AcceleratorError(
            "CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors ..."
        )
        yield

    FakeGraphs([]).plant(monkeypatch)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(ValueError, match=r"cannot be recorded as a graph: .* is capturing$"):
        build_on_device(linear, rows(2), FakeDevice(), with_graph=True)
