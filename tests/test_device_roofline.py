"""The roofs of a device by number format: right products, and none that is missing."""

import math

import numpy as np
import pytest
import torch
from fake_device import NO_ANSWER, NO_MEMORY, FakeDevice

from course_utils import device_roofline as module
from course_utils.device_roofline import (
    FORMATS,
    build_convolution,
    build_product,
    measure_device_roofline,
)
from course_utils.devices import Device, DeviceLostError, OutOfDeviceMemoryError
from course_utils.measure import Comparison, latency, measured_now
from course_utils.roofline import UNITS

CPU = Device("cpu", "a processor", "cpu")
SIDE = 32
PRODUCTS = [f"a product of {side}×{side} matrices" for side in (16, SIDE)]
CONVOLUTIONS = [
    f"a 3×3 convolution of {n} × 2 channels of {side}×{side}" for n, side in ((1, 3), (2, 4))
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Multiply small matrices, copy few bytes, and take little time for it."""
    monkeypatch.setattr(module, "SIDES", dict.fromkeys(module.SIDES, (16, SIDE)))
    tiny = ((1, 2, 3), (2, 2, 4))
    monkeypatch.setattr(module, "CONVOLUTIONS", dict.fromkeys(module.CONVOLUTIONS, tiny))
    monkeypatch.setattr(module, "MEMORY_BYTES", 2**20)
    monkeypatch.setattr(module, "ACCELERATOR_BYTES", 2**20)
    monkeypatch.setattr(module, "SECONDS", 30.0)
    monkeypatch.setattr(latency, "ENOUGH_SECONDS", 0.0)  # the rounds suffice


@pytest.fixture
def plant_times(monkeypatch):
    """Return a function that lets calls take planted milliseconds; it returns their names."""

    def plant(*times_ms):
        named, left = [], list(times_ms)

        def compare_planted(launches, device, *, limit_s):
            named.extend(launches)
            times = np.array([[left.pop(0) if len(left) > 1 else left[0]] * 3])
            return Comparison(list(launches), [times], "rounds", measured_now())

        monkeypatch.setattr(module, "compare_on_device", compare_planted)
        return named

    return plant


def refuse(monkeypatch, error: Exception, name: str = "mm", side: int = 0) -> None:
    """Let one of torch's products raise, for all matrices or those of a side."""
    real = getattr(torch, name)

    def multiply(a, b, *given, **options):
        if not side or len(a) == side:
            raise error
        return real(a, b, *given, **options)

    monkeypatch.setattr(torch, name, multiply)


# Products


@pytest.mark.parametrize(("kind", "digits"), [("fp32", 20), ("bf16", 7), ("fp16", 10)])
def test_a_product_in_floats_is_near_that_of_its_matrices(kind, digits):
    product = build_product(kind, SIDE, CPU)
    a, b = (one.double().numpy() for one in product.args)
    found = product()
    assert found.dtype == module.DTYPES[kind]
    assert np.abs(found.double().numpy() - a @ b).max() <= 2.0**-digits * np.abs(a @ b).max() * 2
    assert a.std() == pytest.approx(1, abs=0.1)
    assert not np.allclose(a, b)


def test_a_product_of_bytes_is_exact():
    product = build_product("int8", SIDE, CPU)
    a, b = (one.numpy() for one in product.args)
    assert a.dtype == b.dtype == np.int8
    assert max(np.abs(one.astype(int)).max() for one in (a, b)) <= 64
    assert len(np.unique(a)) > 30
    found = product()
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), a.astype(np.int32) @ b.astype(np.int32))


def test_a_product_of_eight_bit_floats_is_near_that_of_its_matrices():
    product = build_product("fp8", SIDE, CPU)
    a, b = (one.double().numpy() for one in product.args[:2])
    assert {one.dtype for one in product.args[:2]} == {torch.float8_e4m3fn}
    assert product.args[0].is_contiguous()
    assert product.args[1].t().is_contiguous()  # column by column, as GPUs want the second one
    found = product()
    assert found.dtype == torch.bfloat16  # eight bits of mantissa, the first one not stored
    assert np.abs(found.double().numpy() - a @ b).max() <= 2.0**-7 * np.abs(a @ b).max()
    full = build_product("fp32", SIDE, CPU)
    exact = full().double().numpy()  # of the same numbers, before they were rounded to 4 bits
    assert np.corrcoef((a @ b).ravel(), exact.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("kind", "digits"), [("fp32", 20), ("bf16", 7), ("fp16", 10)])
def test_a_convolution_is_near_that_of_its_images(kind, digits):
    work = build_convolution(kind, 2, 5, 7, CPU)
    images, weights = (one.double() for one in work.args)
    assert (images.shape, weights.shape) == ((2, 5, 7, 7), (5, 5, 3, 3))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in work.args)
    found = work()
    assert found.dtype == module.DTYPES[kind]
    windows = torch.nn.functional.unfold(images, 3, padding=1)  # (image, 5 * 9, 49)
    expected = (weights.reshape(5, -1) @ windows).reshape(2, 5, 7, 7)
    assert (found.double() - expected).abs().max() <= 2.0**-digits * expected.abs().max() * 2


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_pytorch_has_no_convolution_of_eight_bits(kind):
    assert build_convolution(kind, 1, 2, 3, CPU) is None


@pytest.mark.parametrize("device", [CPU, FakeDevice("mps"), FakeDevice("xpu")], ids=str)
def test_only_some_gpus_have_tf32(device):
    assert build_product("tf32", SIDE, device) is None
    assert build_convolution("tf32", 1, 2, 3, device) is None


@pytest.mark.parametrize(
    ("capability", "has_it"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_gpus_have_tf32_from_a_generation_on(monkeypatch, capability, has_it):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    assert (build_product("tf32", SIDE, FakeDevice()) is not None) == has_it


@pytest.mark.parametrize(("kind", "switch"), [("tf32", True), ("fp32", False)])
@pytest.mark.parametrize("before", [True, False])
def test_a_gpu_multiplies_floats_with_tf32_or_without_and_is_left_as_it_was(
    monkeypatch, kind, switch, before
):
    switches, seen = (torch.backends.cuda.matmul, torch.backends.cudnn), []

    def look(*_, **__):
        seen.append([one.allow_tf32 for one in switches])

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    monkeypatch.setattr(torch, "mm", look)
    monkeypatch.setattr(module.F, "conv2d", look)
    usual = [one.allow_tf32 for one in switches]
    try:
        for one in switches:
            one.allow_tf32 = before
        build_product(kind, SIDE, FakeDevice())
        build_convolution(kind, 1, 2, 3, FakeDevice())
        assert seen == [[switch] * 2] * 2
        assert [one.allow_tf32 for one in switches] == [before] * 2
    finally:
        for one, allows in zip(switches, usual, strict=True):
            one.allow_tf32 = allows


def test_a_product_is_tried_until_it_is_done():
    device = FakeDevice()
    build_product("fp32", SIDE, device)
    assert device.log == ["synchronize"]


# What is missing


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'"),
        NotImplementedError("The operator 'aten::mm' is not currently implemented for MPS"),
        TypeError("Trying to convert Float8_e4m3fn to the MPS backend but it has no such dtype"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
        torch.AcceleratorError("CUDA error: no kernel image is available for execution"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("device", [CPU, FakeDevice()], ids=str)
def test_a_format_without_a_kernel_is_none(monkeypatch, error, device):
    refuse(monkeypatch, error)
    assert build_product("fp16", SIDE, device) is None


def test_a_format_that_the_device_cannot_even_hold_is_none(monkeypatch):
    real = torch.Tensor.to

    def to(tensor, *given, **options):
        if torch.float8_e4m3fn in given:
            raise TypeError("Trying to convert Float8_e4m3fn to the MPS backend")
        return real(tensor, *given, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert build_product("fp8", SIDE, FakeDevice("mps")) is None


def test_matrices_that_do_not_fit_are_told(monkeypatch):
    refuse(monkeypatch, torch.OutOfMemoryError(NO_MEMORY))
    with pytest.raises(OutOfDeviceMemoryError, match=r"a product of 32×32 matrices in bf16 does"):
        build_product("bf16", SIDE, FakeDevice())


@pytest.mark.parametrize("told_late", [False, True])
def test_a_device_that_is_lost_is_no_missing_kernel(monkeypatch, told_late):
    device = FakeDevice(lost_at=1, told_late=told_late)
    monkeypatch.setattr(torch, "mm", lambda a, b: device.launch())
    with pytest.raises(DeviceLostError, match="stopped answering while it ran a product of 32×32"):
        build_product("bf16", SIDE, device)


# Roofs


def test_the_processor_has_a_roof_for_each_of_its_formats():
    roofs = measure_device_roofline(CPU)
    assert set(roofs.peaks) >= {"fp32", "int8"}
    assert set(roofs.peaks) <= set(FORMATS) - {"tf32"}
    for kind, peak in roofs.peaks.items():
        assert 0 < peak.low <= peak.value <= peak.high < math.inf
        assert peak.unit == UNITS[kind]
        assert peak.note in [f"by {name} in PyTorch" for name in PRODUCTS + CONVOLUTIONS]
        assert peak.provenance.kind == "measured"
    memory = roofs.bandwidths["memory"]
    assert 0 < memory.low <= memory.value <= memory.high < math.inf
    assert (memory.unit, roofs.threads) == ("GB/s", 1)
    assert memory.note == "by copying 0 MiB, counted as read and written"
    assert roofs.ridge("fp32") == roofs.peaks["fp32"].value / memory.value


def test_a_format_whose_kernel_raises_is_left_out(monkeypatch):
    refuse(monkeypatch, RuntimeError("not implemented"), "_int_mm")
    refuse(monkeypatch, RuntimeError("not implemented"), "_scaled_mm")
    assert set(measure_device_roofline(CPU).peaks) == {"fp32", "bf16", "fp16"}
    refuse(monkeypatch, RuntimeError("not implemented"), "mm")
    monkeypatch.setattr(module, "CONVOLUTIONS", {"cpu": ()})
    assert measure_device_roofline(CPU).peaks == {}


@pytest.mark.parametrize(
    ("times_ms", "best", "macs"),
    [
        ([2.0, 0.05, 50.0, 50.0], PRODUCTS[1], 32**3),  # the larger one takes less
        ([0.05, 50.0, 50.0, 50.0], PRODUCTS[0], 16**3),
        ([50.0, 50.0, 0.05, 50.0], CONVOLUTIONS[0], 9 * 2 * 2 * 3 * 3),
        ([50.0, 50.0, 50.0, 0.05], CONVOLUTIONS[1], 9 * 2 * 2 * 4 * 4 * 2),
    ],
)
def test_the_peak_is_that_of_the_best(plant_times, times_ms, best, macs):
    named = plant_times(*times_ms)
    peak = module._measure_peak("fp32", CPU)
    assert named == [f"{name} in fp32" for name in PRODUCTS + CONVOLUTIONS]
    assert peak.value == pytest.approx(2 * macs / 1e6 / 0.05)
    assert peak.note == f"by {best} in PyTorch"


def test_after_a_slow_product_no_larger_one_is_tried(plant_times):
    named = plant_times(module.SLOW_MS + 1)
    assert module._measure_peak("fp32", CPU) is not None
    assert named == [f"{PRODUCTS[0]} in fp32", f"{CONVOLUTIONS[0]} in fp32"]


def test_a_slow_product_gets_the_time_for_a_round(monkeypatch):
    limits = []
    monkeypatch.setattr(module, "estimate_seconds", lambda *_, calls: 3.0 * calls)

    def compare_planted(launches, device, *, limit_s):
        limits.append(limit_s)
        return Comparison(list(launches), [np.full((1, 3), 1e6)], "rounds", measured_now())

    monkeypatch.setattr(module, "compare_on_device", compare_planted)
    module._measure_peak("fp32", CPU)
    assert limits == [module.SECONDS + 3.0 * module.LEAST_CALLS] * 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(NO_MEMORY), RuntimeError("no kernel")])
def test_if_large_matrices_cannot_be_the_small_ones_decide(monkeypatch, plant_times, error):
    plant_times(1.0)
    refuse(monkeypatch, error, side=SIDE)
    peak = module._measure_peak("fp32", CPU)
    assert peak.note == "by a product of 16×16 matrices in PyTorch"


def test_the_bytes_of_a_copy_are_counted_twice(plant_times):
    plant_times(0.25)
    found = module._measure_bandwidth(CPU)
    assert found.value == pytest.approx(2 * 2**19 / 1e6 / 0.25)  # half a MiB, read and written


def test_an_accelerator_is_measured_by_the_same_code(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    device = FakeDevice()
    roofs = measure_device_roofline(device)
    assert "tf32" in roofs.peaks
    assert all(peak.value > 0 for peak in roofs.peaks.values())
    assert device.log.count("synchronize") > 20


@pytest.mark.parametrize("error", [torch.AcceleratorError(NO_ANSWER), DeviceLostError("gone")])
def test_a_lost_device_has_no_roofs(monkeypatch, error):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (7, 5))
    refuse(monkeypatch, error)
    with pytest.raises(DeviceLostError):
        measure_device_roofline(FakeDevice())


def test_memory_that_does_not_suffice_for_the_copy_is_told(monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BYTES", 2**62)
    with pytest.raises(OutOfDeviceMemoryError, match="a copy of 4,611,686,018,427,387,904 bytes"):
        module._measure_bandwidth(CPU)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_at_all_is_refused(threads):
    with pytest.raises(ValueError, match=f"threads={threads} was given"):
        measure_device_roofline(CPU, threads=threads)


def test_a_product_uses_the_threads_that_it_is_given(monkeypatch, plant_times):
    plant_times(1.0)
    seen = set()
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: seen.add(torch.get_num_threads()) or real(a, b))
    assert measure_device_roofline(CPU, threads=2).threads == 2
    assert seen == {2}
    assert torch.get_num_threads() == 1
