"""Measuring on a device: the clock stops when the work is done, not when it is handed over."""

import itertools

import numpy as np
import pytest
import torch
from fake_device import LAUNCH_S, WORK_S, FakeDevice, rows, rule_time
from torch import nn

from course_utils import models, runtimes, sweep
from course_utils.devices import Device, DeviceLostError, OutOfDeviceMemoryError
from course_utils.measure import (
    compare,
    compare_on_device,
    count_launches,
    measure_copies,
    measure_launches,
    measure_peak,
    on_device,
    wait_for,
)
from course_utils.measure.on_device import estimate_seconds
from course_utils.sweep.batches import BATCH

CPU = Device("cpu", "a processor", "cpu")
DONE_MS = 1000 * (LAUNCH_S + WORK_S)
MS = 1e-4  # readings of the clock take time too


@pytest.fixture
def gpu(monkeypatch) -> FakeDevice:
    """Return a device by whose time all clocks go."""
    device = FakeDevice()
    rule_time(device, monkeypatch)
    return device


def find_runs(log: list[str]) -> set[tuple[str, ...]]:
    """Return what stands between two readings of the clock, each kind once."""
    between = itertools.groupby(log, key=lambda entry: entry == "clock")
    return {tuple(group) for is_clock, group in between if not is_clock}


# Calls that are waited for


def test_the_fake_is_timed_wrongly_by_whoever_does_not_wait(gpu):
    """What all the others here would find, if there were no waiting."""
    start = gpu.clock()
    for _ in range(10):
        gpu.launch()
    assert 1000 * (gpu.clock() - start) == pytest.approx(10_000 * LAUNCH_S, abs=MS)
    gpu.synchronize()
    assert 1000 * (gpu.clock() - start) == pytest.approx(1000 * (LAUNCH_S + 10 * WORK_S), abs=MS)


def test_a_call_ends_when_the_device_has_done_its_work(gpu):
    run = wait_for(gpu.launch, gpu)
    images = rows(3)
    assert run(images) is images
    assert gpu.log == ["launch", "synchronize"]
    assert gpu.host_s == gpu.idle_s == LAUNCH_S + WORK_S


def test_what_is_compared_is_the_time_until_the_work_is_done(gpu):
    def thrice():
        for _ in range(3):
            gpu.launch()

    timed = compare_on_device({"one": gpu.launch, "three": thrice}, gpu)
    assert timed.names == ["one", "three"]
    assert timed.latency("one").value == pytest.approx(DONE_MS, abs=MS)
    assert timed.latency("three").value == pytest.approx(1000 * (LAUNCH_S + 3 * WORK_S), abs=MS)
    assert timed.latency("one").fastest == pytest.approx(DONE_MS, abs=MS)


def test_work_of_earlier_is_not_charged_to_the_first_call(gpu):
    for _ in range(50):
        gpu.launch()
    timed = compare_on_device({"one": gpu.launch}, gpu)
    assert timed.latency("one").p99 == pytest.approx(DONE_MS, abs=MS)
    assert gpu.log[50] == "synchronize"
    assert find_runs(gpu.log[51:]) == {("launch", "synchronize")}


def test_a_few_calls_are_estimated_from_one_that_is_waited_for(gpu):
    gpu.launch()
    seconds = estimate_seconds(gpu.launch, gpu, calls=8)
    assert seconds == pytest.approx(8 * (LAUNCH_S + WORK_S), abs=1e-6)
    assert gpu.log == ["launch", "synchronize", "clock", "launch", "synchronize", "clock"]


def test_nothing_to_compare_is_refused(gpu):
    with pytest.raises(ValueError, match="0 runners were given"):
        compare_on_device({}, gpu)


def test_a_call_that_fails_is_named():
    def fail():
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(ValueError, match="Nothing was timed: 'bad' raised RuntimeError: shapes"):
        compare_on_device({"bad": fail}, CPU)


# Three times


def test_launching_and_working_and_waiting_are_told_apart(gpu):
    for _ in range(50):  # of no concern to what is measured
        gpu.launch()
    times = measure_launches(gpu.launch, gpu)
    micro = 1e6
    assert times.launch.value == pytest.approx(micro * LAUNCH_S, rel=1e-3)
    assert times.device.value == pytest.approx(micro * WORK_S, rel=1e-3)
    assert times.answer.value == pytest.approx(micro * (LAUNCH_S + WORK_S), rel=1e-3)
    for found in (times.launch, times.device, times.answer):
        assert (found.unit, found.count) == ("µs", on_device.REPEATS)
        assert found.low <= found.value <= found.high
        assert found.provenance.kind == "measured"
        assert found.provenance.note.startswith("Fake GPU; others kept")


def test_marks_are_around_the_launches_and_read_when_the_queue_is_empty(gpu, monkeypatch):
    monkeypatch.setattr(on_device, "LAUNCHES", 3)
    monkeypatch.setattr(on_device, "REPEATS", 2)
    measure_launches(gpu.launch, gpu)
    start = gpu.log.index("launch")
    warm_up, once = ["launch"] * 3, [
        "synchronize", "clock", "record_event", *["launch"] * 3, "record_event", "clock",
        "synchronize", "elapsed", "clock", *["launch", "synchronize"] * 3, "clock",
    ]  # fmt: skip
    expected = warm_up + 2 * once
    assert gpu.log[start : start + len(expected)] == expected
    assert set(gpu.log[start + len(expected) :]) <= {"clock"}


def test_launches_on_the_processor_have_three_times_too():
    number = torch.zeros(1)
    times = measure_launches(lambda: number.add_(1), CPU)
    assert number.item() == on_device.WARM_UP + 2 * on_device.REPEATS * on_device.LAUNCHES
    assert all(found.value > 0 for found in (times.launch, times.device, times.answer))


# Memory


class Remembering(FakeDevice):
    """Has weights of 1000 bytes, and needs 50 more for each launch that waits in its queue."""

    def reset_peak(self):
        self.log.append("reset")

    def peak_bytes(self):
        self.log.append("peak")
        return 1000 + 50 * self.log[self.log.index("reset") :].count("launch")


@pytest.mark.parametrize("held_bytes", [0, 300])
def test_the_memory_of_a_call_is_what_it_adds(held_bytes):
    device = Remembering()
    device.launch()  # of earlier

    def run():
        for _ in range(3):
            device.launch()

    found = measure_peak(run, device, held_bytes)
    assert (found.value, found.low, found.high) == (150 + held_bytes,) * 3
    assert (found.unit, found.provenance.note) == ("bytes", "on Fake GPU")
    assert device.log[1:] == [
        "synchronize", "reset", "peak", *["launch"] * 3, "synchronize", "peak",
    ]  # fmt: skip


def test_the_memory_of_a_call_is_not_told_by_the_processor():
    with pytest.raises(ValueError, match="PyTorch does not tell"):
        measure_peak(lambda: None, CPU)


def test_a_call_that_does_not_fit_has_no_memory():
    device = Remembering(largest_batch=3)
    with pytest.raises(OutOfDeviceMemoryError, match="a call does not fit"):
        measure_peak(lambda: device.launch(4), device)


# Operations


class Shuffled(nn.Module):
    """Looks at its input in many ways, and multiplies once."""

    def forward(self, x):  # (batch, 4)
        x = x.unsqueeze(1).expand(-1, 2, -1).transpose(1, 2).movedim(0, 1).detach()
        first, second = x.chunk(2, dim=0)
        one, _ = first.unbind(0)
        return one[:, :1].squeeze(1).unflatten(0, (1, -1)).view(-1, 1) * second[0].mT[0]


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        pytest.param(models.MLP([4, 5, 3]), (2, 4), 3, id="two products and a ReLU"),
        pytest.param(nn.Flatten(), (2, 4, 3), 0, id="a view"),
        pytest.param(Shuffled(), (2, 4), 1, id="views and a product"),
        pytest.param(nn.Conv2d(1, 2, 3), (1, 1, 4, 4), 1, id="a convolution"),
        pytest.param(nn.Linear(3, 5, bias=False), (2, 4, 3), 1, id="a product in three dimensions"),
        # 9 convolutions, 7 of which a ReLU follows, each with a batch norm; 3 additions, a mean
        # and a product
        pytest.param(models.ResNet8(4), (1, 1, 12, 12), 9 + 9 + 7 + 3 + 1 + 1, id="ResNet-8"),
    ],
)
def test_each_operation_but_a_view_is_a_launch(model, shape, count):
    assert count_launches(model, np.ones(shape, np.float32)) == count


def test_the_model_that_is_counted_stays_as_it_was(images):
    model = models.ResNet8(4).train()
    means = model.norm.running_mean.clone()
    assert count_launches(model, images) == count_launches(model.eval(), images)
    model.train()
    count_launches(model, images)
    assert model.training
    assert torch.equal(model.norm.running_mean, means)


# Copies


def test_copies_within_main_memory_are_bytes_over_time(monkeypatch):
    made = plant_times(monkeypatch)
    rates = measure_copies(CPU, size_bytes=10_000_000)
    assert list(rates) == list(made) == ["within main memory"]
    assert rates["within main memory"].value == pytest.approx(10_000_000 / 1e9 / 0.001)
    assert rates["within main memory"].unit == "GB/s"


@pytest.mark.parametrize(
    ("kind", "more"), [("cuda", ["to the device, pinned", "back, pinned"]), ("mps", [])]
)
def test_an_accelerator_is_copied_to_and_back(monkeypatch, kind, more):
    made = plant_times(monkeypatch)
    pinned = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.clone()) or pinned[0]
    )
    copied = []
    monkeypatch.setattr(
        torch.Tensor,
        "copy_",
        lambda target, source, non_blocking: copied.append((target, source, non_blocking)),
    )
    rates = measure_copies(FakeDevice(kind), size_bytes=1000)
    assert list(rates) == ["to the device", "back from the device", *more]
    for launch in made.values():
        launch()
    assert all(non_blocking for *_, non_blocking in copied)
    (there, host, _), (to_host, from_there, _) = copied[:2]
    assert to_host is host
    assert from_there is there
    assert len(pinned) == (kind == "cuda")
    for target, source, _ in copied[2:]:
        assert (target is there) != (source is there)
        assert pinned[0] is target or pinned[0] is source
    rate = rates["to the device"]
    assert (rate.low, rate.value, rate.high) == pytest.approx((0.75e-3, 1e-3, 1.5e-3))


def plant_times(monkeypatch) -> dict:
    """Let each call take half a millisecond, one, or two; return the calls by name."""
    made = {}

    def compare_planted(launches, device, *, limit_s):
        made.update(launches)
        times = [[0.5, 1.0, 2.0]]
        return on_device.Comparison(
            list(launches), [np.array(times)] * len(launches), "rounds", on_device.measured_now()
        )

    monkeypatch.setattr(on_device, "compare_on_device", compare_planted)
    return made


def test_a_copy_that_does_not_fit_is_told():
    with pytest.raises(OutOfDeviceMemoryError, match="a copy of 4,611,686,018,427,387,904 bytes"):
        measure_copies_of(2**62)


def measure_copies_of(size_bytes: int) -> None:
    """Measure copies of so many bytes, of which the host has one."""
    with pytest.MonkeyPatch.context() as patch:
        real = torch.zeros
        patch.setattr(
            torch,
            "zeros",
            lambda size, device=None, **options: real(size if device else 1, **options),
        )
        measure_copies(CPU, size_bytes=size_bytes)


# Devices that refuse, and devices that are lost


def failing(at: int, error: Exception):
    """Return a call that raises an error at its n-th call."""
    count = itertools.count(1)

    def launch():
        if next(count) == at:
            raise error

    return launch


@pytest.mark.parametrize("at", [1, 3, 4, 30], ids=lambda at: f"call {at}")
@pytest.mark.parametrize(
    "error", [OutOfDeviceMemoryError("too large"), DeviceLostError("gone")], ids=repr
)
def test_a_comparison_lets_both_through(at, error):
    """Calls 1 to 3 warm up."""
    launch = failing(at, error)

    def run(images):
        launch()
        return images

    with pytest.raises(type(error)) as raised:
        compare(run, lambda images: images, images=rows(2), rounds=10)
    assert raised.value is error


@pytest.mark.parametrize("told_late", [False, True])
@pytest.mark.parametrize("lost_at", [1, 3, 4, 60])
@pytest.mark.parametrize(
    "measure",
    [
        lambda gpu: compare_on_device({"one": gpu.launch}, gpu),
        lambda gpu: measure_launches(gpu.launch, gpu),
        lambda gpu: [estimate_seconds(gpu.launch, gpu, calls=1) for _ in range(60)],
    ],
    ids=["compared", "launches", "estimated"],
)
def test_a_lost_device_ends_a_measurement_with_what_to_do(monkeypatch, measure, lost_at, told_late):
    device = FakeDevice(lost_at=lost_at, told_late=told_late)
    rule_time(device, monkeypatch)
    with pytest.raises(DeviceLostError, match=r"Fake GPU stopped answering .*Restart the kernel"):
        measure(device)


def test_a_device_that_was_lost_before_is_told_too():
    device = FakeDevice(lost_at=1, told_late=True)
    device.launch()
    with pytest.raises(DeviceLostError, match="what was launched before"):
        compare_on_device({"one": device.launch}, device)


def test_a_call_that_does_not_fit_ends_a_comparison():
    device = FakeDevice(largest_batch=3)
    with pytest.raises(OutOfDeviceMemoryError, match="a batch of 4 does not fit"):
        compare_on_device({"a batch of 4": lambda: device.launch(4)}, device)


def test_a_sweep_that_a_lost_device_ends_keeps_its_rounds(tmp_path):
    """The device is lost in the middle, and answers again when the cell runs again."""
    lost, calls = tmp_path / "lost", tmp_path / "calls"
    calls.touch()

    def at(kind):
        def run(images):
            with calls.open("a") as file:
                file.write(".")
            if not lost.exists() and calls.stat().st_size > 120:
                lost.touch()
                raise DeviceLostError("gone")
            return images

        return runtimes.Runner(run, "planted", kind, "", b"", (4,))

    def measure():
        return sweep.measure_batches(
            at, batches=[1, 2], over={"kind": ["a"]}, images=rows(2), with_memory=False, rounds=10
        )

    with pytest.raises(DeviceLostError, match="gone"):
        measure()
    kept = read_rounds(tmp_path)
    assert 0 < len(kept) < 10
    measured = measure()
    assert read_rounds(tmp_path)[: len(kept)] == kept
    assert len(read_rounds(tmp_path)) == 10
    assert [point.setting for point in measured.points] == [
        {BATCH: 1, "kind": "a"}, {BATCH: 2, "kind": "a"},
    ]  # fmt: skip
    before = calls.stat().st_size
    measure()
    assert calls.stat().st_size == before  # all of it is read back


def read_rounds(tmp_path) -> list:
    (file,) = (tmp_path / "cache" / "sweeps").glob("*.journal")
    return [line for line in file.read_text().splitlines() if '"kind": "round"' in line]


def test_a_sweep_lets_too_little_memory_through():
    def at(kind):
        def run(images):
            if len(images) > 3:
                raise OutOfDeviceMemoryError("a batch does not fit")
            return images

        return runtimes.Runner(run, "planted", kind, "", b"", (4,))

    with pytest.raises(OutOfDeviceMemoryError, match="a batch does not fit"):
        sweep.measure_batches(
            at, batches=[1, 4], over={"kind": ["a"]}, images=rows(4), with_memory=False, rounds=2
        )
