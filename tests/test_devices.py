"""Devices: what is here, what a driver's words mean, and how much fits."""

import gc
import math
import os
import subprocess
import time
import weakref
from pathlib import Path

import pytest
import torch
from fake_device import NO_ANSWER, NO_MEMORY, FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from course_utils import devices, fingerprint, machine
from course_utils.devices import (
    Device,
    DeviceLostError,
    OutOfDeviceMemoryError,
    explain_devices,
    explained,
    find_devices,
    find_largest_batch,
    get_device,
)

CPU = Device("cpu", "a processor", "cpu")
GPU = Device("cuda", "a GPU", "cpu")
MAC = Device("mps", "a Mac's GPU", "cpu")


@pytest.fixture
def plant(monkeypatch):
    """Return a function that lets PyTorch see accelerators of these kinds, and no others."""

    def plant(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"CUDA device {index}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in kinds)
        monkeypatch.setattr(torch.xpu, "get_device_name", lambda index: f"XPU device {index}")

    return plant


@pytest.fixture
def accelerator(monkeypatch):
    """Let ``torch.accelerator`` and ``torch.mps`` note what is asked of them; return the notes."""
    notes = []

    def note(answer=None, name=""):
        def call(*given):
            notes.append((name, *given))
            return answer

        return call

    answers = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 123,
        "empty_cache": None,
        "get_memory_info": (456, 789),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.accelerator, name, note(answer, name))
    answers = {"empty_cache": None, "recommended_max_memory": 1000}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.mps, name, note(answer, f"mps {name}"))
    return notes


# What is here


@pytest.mark.parametrize(
    "kinds", [(), ("cuda",), ("mps",), ("xpu",), ("cuda", "xpu"), ("cuda", "mps", "xpu")]
)
def test_the_processor_is_first_and_then_each_accelerator_that_pytorch_sees(plant, kinds):
    plant(*kinds)
    own = f"GPU of {machine.describe().cpu}"
    titles = {"cuda": "CUDA device 0", "mps": own, "xpu": "XPU device 0"}
    found = find_devices()
    assert [device.kind for device in found] == ["cpu", *kinds]
    assert found[0].title == machine.describe().cpu
    assert [device.place for device in found[1:]] == [f"{kind}:0" for kind in kinds]
    assert all(torch.device(device.place).type == device.kind for device in found)
    assert [device.is_queued for device in found] == [False] + [True] * len(kinds)
    for device in found[1:]:
        assert device.title == titles[device.kind]
        assert get_device(device.kind) == device
        assert str(device) == device.title


@pytest.mark.parametrize("kind", ["tpu", "", "CUDA"])
def test_a_kind_that_does_not_exist_is_named_with_those_that_do(kind):
    with pytest.raises(ValueError, match=f"no device {kind!r}; the kinds are cpu, cuda, mps, xpu"):
        get_device(kind)


@pytest.mark.parametrize(("kind", "name"), devices.KINDS.items())
def test_a_device_that_is_missing_is_named_with_what_is_here(plant, kind, name):
    others = [other for other in devices.KINDS if other != kind]
    plant(*others)
    with pytest.raises(ValueError, match="This machine has no device for") as error:
        get_device(kind)
    assert name in str(error.value)
    assert torch.__version__ in str(error.value)
    assert str(error.value).endswith(f"Here: cpu, {', '.join(others)}.")


def test_words_without_an_accelerator_say_that_its_numbers_are_not_measured(plant):
    plant()
    first, missing, told = explain_devices().splitlines()
    assert first == f"cpu: {machine.describe().cpu}"
    assert missing.startswith("not here: CUDA, Apple's Metal (MPS), Intel's XPU (")
    assert "recorded, computed or cited" in told


def test_words_name_what_is_here_and_what_is_not(plant):
    plant("cuda")
    first, second, missing = explain_devices().splitlines()
    assert (first[:4], second) == ("cpu:", "cuda: CUDA device 0")
    assert missing.startswith("not here: Apple's Metal (MPS), Intel's XPU (")
    plant(*devices.KINDS)
    assert "not here" not in explain_devices()


def test_a_device_is_a_part_of_what_a_measurement_depends_on(plant):
    """A lab's function refers to devices, and the key of its cache is made of all it refers to."""
    plant("cuda", "xpu")
    keys = {fingerprint.of(device) for device in find_devices()}
    assert len(keys) == 3
    assert keys == {fingerprint.of(device) for device in find_devices()}


# Waiting, marks and memory


def test_the_processor_has_nothing_to_wait_for(accelerator):
    CPU.synchronize()
    CPU.reset_peak()
    CPU.give_back()
    assert accelerator == []
    with pytest.raises(ValueError, match="PyTorch does not tell"):
        CPU.peak_bytes()
    assert CPU.memory_bytes() > 0
    assert accelerator == []


def test_marks_on_the_processor_are_its_clock():
    first = CPU.record_event()
    time.sleep(0.002)
    last = CPU.record_event()
    assert CPU.elapsed_ms(first, last) == pytest.approx(1000 * (last - first))
    assert CPU.elapsed_ms(first, last) >= 2


def test_an_accelerator_is_waited_for_and_asked_by_its_place(accelerator):
    GPU.synchronize()
    GPU.reset_peak()
    assert GPU.peak_bytes() == 123
    GPU.give_back()
    assert GPU.memory_bytes() == 789
    asked = ["synchronize", "reset_peak_memory_stats", "max_memory_allocated"]
    assert accelerator == [
        *((name, GPU.place) for name in asked),
        ("empty_cache",),
        ("get_memory_info", GPU.place),
    ]


def test_a_mac_tells_its_memory_in_its_own_way(accelerator):
    MAC.give_back()
    assert MAC.memory_bytes() == 1000
    assert {name for name, *_ in accelerator} == {"mps empty_cache", "mps recommended_max_memory"}


def test_all_memory_counts_whether_it_is_free_or_not(accelerator):
    assert GPU.memory_bytes() == 789
    assert MAC.memory_bytes() == 1000
    assert "empty_cache" not in {name for name, *_ in accelerator}  # what is kept is left alone
    measured_gib = machine.describe().memory_gib
    if measured_gib:  # Windows does not tell it in this way
        assert CPU.memory_bytes() / 2**30 == pytest.approx(measured_gib, abs=0.1)


def test_marks_in_a_queue_are_its_events(monkeypatch):
    made = []

    class Event:
        def __init__(self, kind, enable_timing):
            made.append((kind, enable_timing))
            self.records = 0

        def record(self):
            self.records += 1

        def elapsed_time(self, other):
            return 7 if self is first and other is last else math.nan

    monkeypatch.setattr(torch, "Event", Event)
    first, last = GPU.record_event(), GPU.record_event()
    assert made == [("cuda", True)] * 2
    assert (first.records, last.records) == (1, 1)
    assert GPU.elapsed_ms(first, last) == 7


# Clock and power


@pytest.fixture
def plant_driver(tmp_path, monkeypatch):
    """Return a function that puts a script in the place of NVIDIA's program."""

    def plant_driver(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return plant_driver


def test_clock_and_power_are_asked_of_the_driver(plant_driver, tmp_path):
    plant_driver(f'echo "$*" > {tmp_path}/asked\necho "1980 MHz, 123.45 W"')
    assert GPU.describe_clocks() == "clock 1980 MHz, power 123.45 W"
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--query-gpu=clocks.sm,power.draw", "--format=csv,noheader", "--id=0"]


@pytest.mark.parametrize(
    "script",
    [
        "echo 'NVIDIA-SMI has failed because it could not talk to the driver'",
        "echo '1980 MHz, 123.45 W'; exit 9",
        "exit 0",
        "echo a, b, c",
        r"printf '\377\376'",
    ],
)
def test_a_driver_that_tells_something_else_tells_nothing(plant_driver, script):
    plant_driver(script)
    assert GPU.describe_clocks() == "clock and power not told"


def test_a_driver_that_does_not_answer_is_left_alone(plant_driver, monkeypatch):
    sleep = "/bin/sleep" if Path("/bin/sleep").exists() else "/usr/bin/sleep"
    plant_driver(f"exec {sleep} 60")
    monkeypatch.setattr(devices, "DRIVER_PATIENCE_S", 0.05)
    assert GPU.describe_clocks() == "clock and power not told"


def test_a_driver_that_cannot_be_started_tells_nothing(plant_driver, tmp_path):
    plant_driver("")
    (tmp_path / "nvidia-smi").write_bytes(b"#!/no/such/shell\n")
    assert GPU.describe_clocks() == "clock and power not told"


def test_without_the_program_or_the_gpu_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GPU.describe_clocks() == "clock and power not told"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was asked"))
    monkeypatch.setenv("PATH", os.defpath)
    for device in (CPU, MAC):
        assert device.describe_clocks() == "clock and power not told"


# What a driver's words mean

FULL = [
    torch.OutOfMemoryError(NO_MEMORY),
    torch.OutOfMemoryError("no words that anyone knows"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: 9.07 GB)."),
    RuntimeError("Invalid buffer size: 19.45 GB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]
LOST = [
    torch.AcceleratorError(NO_ANSWER),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("words that nobody has heard"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"),
]
OTHERS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x4 and 5x3)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
    NotImplementedError("The operator 'aten::_int_mm' is not currently implemented for MPS"),
    ValueError("out of memory, but not a driver's word"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("device", [CPU, GPU, MAC], ids=str)
@pytest.mark.parametrize("said", FULL, ids=repr)
def test_too_little_memory_is_told_with_what_to_do(device, said):
    with pytest.raises(OutOfDeviceMemoryError) as error, explained(device, "a large batch"):
        raise said
    assert str(error.value).startswith(f"a large batch does not fit into the memory of {device}.")
    assert "Take a smaller batch" in str(error.value)
    assert error.value.__suppress_context__
    assert not isinstance(error.value, RuntimeError)  # which is taken for a refused image


@pytest.mark.parametrize("device", [GPU, MAC], ids=str)
@pytest.mark.parametrize("said", LOST, ids=repr)
def test_a_device_that_is_lost_is_told_with_what_to_do(device, said):
    with pytest.raises(DeviceLostError) as error, explained(device, "a batch"):
        raise said
    assert str(error.value).startswith(f"{device} stopped answering while it ran a batch.")
    assert "Restart the kernel" in str(error.value)
    assert str(error.value).endswith(str(said).splitlines()[0])
    assert error.value.__suppress_context__


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize("said", OTHERS, ids=repr)
def test_other_errors_stay_as_they_are(device, said):
    with pytest.raises(type(said)) as error, explained(device, "a batch"):
        raise said
    assert error.value is said


@pytest.mark.parametrize("said", LOST, ids=repr)
def test_the_processor_is_never_lost(said):
    with pytest.raises(RuntimeError) as error, explained(CPU, "a batch"):
        raise said
    assert error.value is said


def test_what_the_real_allocator_says_is_understood():
    with (
        pytest.raises(OutOfDeviceMemoryError, match="a large tensor does not fit"),
        explained(CPU, "a large tensor"),
    ):
        torch.empty(2**60)


def test_what_is_explained_once_is_not_explained_again():
    with (
        pytest.raises(OutOfDeviceMemoryError, match="the inner one does not fit"),
        explained(GPU, "the outer one"),
        explained(GPU, "the inner one"),
    ):
        raise torch.OutOfMemoryError(NO_MEMORY)


# How much fits


def search(border: int, most: int) -> tuple[int, list[int]]:
    """Return what was found, and the batches that were tried, if up to ``border`` fit."""
    device, tried = FakeDevice(largest_batch=border), []

    def run(batch):
        tried.append(batch)
        with explained(device, "a batch"):
            device.launch(batch)

    return find_largest_batch(run, most, device), tried


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_border_is_found_wherever_it_lies(border, most):
    found, tried = search(border, most)
    assert found == min(border, most)
    assert all(1 <= batch <= most for batch in tried)
    assert len(tried) == len(set(tried))
    assert len(tried) <= 2 * math.ceil(math.log2(most + 1)) + 1


@pytest.mark.parametrize(
    ("border", "most", "expected"),
    [
        (0, 1, [1]),
        (0, 100, [1]),
        (1, 100, [1, 2]),
        (100, 1, [1]),
        (5, 100, [1, 2, 4, 8, 6, 5]),
        (100, 6, [1, 2, 4, 6]),
    ],
)
def test_batches_are_doubled_and_then_halved(border, most, expected):
    assert search(border, most)[1] == expected


@pytest.mark.parametrize("most", [0, -1])
def test_no_batch_at_all_is_refused(most):
    with pytest.raises(ValueError, match=f"most={most} leaves none to try"):
        find_largest_batch(lambda batch: None, most, CPU)


def test_what_a_failed_batch_had_allocated_is_gone_when_memory_is_given_back():
    class Watch(FakeDevice):
        def give_back(self):
            self.log.append([one() is None for one in allocated])

    device, allocated = Watch(largest_batch=2), []

    def run(batch):
        tensor = torch.empty(batch)
        allocated.append(weakref.ref(tensor))
        with explained(device, "a batch"):
            device.launch(batch)

    gc.disable()  # nobody collects cycles while the search goes on
    try:
        assert find_largest_batch(run, 100, device) == 2
    finally:
        gc.enable()
    given_back = [entry for entry in device.log if isinstance(entry, list)]
    assert given_back == [[True] * 3, [True] * 4]  # of batches 1, 2, 4; then 3


@pytest.mark.parametrize("error", [DeviceLostError("gone"), ValueError("wrong images")])
def test_other_errors_end_the_search(error):
    def run(batch):
        raise error

    with pytest.raises(type(error)) as raised:
        find_largest_batch(run, 100, CPU)
    assert raised.value is error
