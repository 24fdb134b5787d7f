"""The roofs of any device, by number format: square matrix products, and copies of its memory.

``roofline.measure_roofline`` asks ONNX Runtime, which runs the lessons' networks on the processor.
Here it is PyTorch, on the processor or an accelerator alike, and more formats. A format without
instructions of its own can still be computed, by turning each number into another format and
back; what that costs is measured, not guessed.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from course_utils.devices import Device, OutOfDeviceMemoryError, explained
from course_utils.layer_costs import FLOP_PER_MAC
from course_utils.measure.measurement import Measurement
from course_utils.measure.on_device import compare_on_device, estimate_seconds
from course_utils.roofline import MEMORY_BYTES, UNITS, Kind, Roofline
from course_utils.runtimes.torch_eager import check_threads, use_threads

FORMATS: tuple[Kind, ...] = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
SIDES = {"cpu": (256, 512), "cuda": (2048, 4096, 8192), "mps": (1024, 2048), "xpu": (2048, 4096)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ACCELERATOR_BYTES = 2**30  # copied there; the caches of the largest hold a tenth of it
SECONDS, LEAST_CALLS = 0.7, 8  # for a product; what is slow gets longer, for warm-up and a round
SLOW_MS = 100.0  # a product that takes longer is not tried with larger matrices


def build_product(kind: Kind, side: int, device: Device) -> Callable[[], Tensor] | None:
    """Return a product of two square matrices in a format; None if the device cannot do it.

    Sums are held in 32 bits by all of them. fp8 is e4m3 with one scale for each matrix.

    Args:
        kind: The format of both matrices; "tf32" is stored as fp32 and multiplied with 10 bits of
            mantissa, on GPUs that can.
        side: Rows and columns.
        device: Where to multiply.

    Raises:
        OutOfDeviceMemoryError: The matrices do not fit.
        DeviceLostError: The device stopped answering.
    """
    if kind == "tf32" and not _has_tf32(device):
        return None
    try:
        with explained(device, f"a product of {side}×{side} matrices in {kind}"):
            product = _prepare(kind, side, device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a format is a prototype
                product()
                device.synchronize()
    except (RuntimeError, NotImplementedError, TypeError):  # what is explained is none of them
        return None  # no kernel for it
    return product


def _prepare(kind: Kind, side: int, device: Device) -> Callable[[], Tensor]:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=random).to(device.place) for _ in range(2))
    if kind == "int8":
        a, b = ((16 * one).clamp(-64, 64).to(torch.int8) for one in (a, b))
        return partial(torch._int_mm, a, b)
    if kind == "fp8":
        scale = torch.ones((), device=device.place)
        a, b = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t().contiguous().t()
        return partial(torch._scaled_mm, a, b, scale, scale, out_dtype=torch.bfloat16)
    if kind in ("tf32", "fp32") and device.kind == "cuda":
        return partial(_multiply_floats, a, b, kind == "tf32")
    return partial(torch.mm, a.to(DTYPES[kind]), b.to(DTYPES[kind]))


def _has_tf32(device: Device) -> bool:
    return device.kind == "cuda" and torch.cuda.get_device_capability(device.place) >= (8, 0)


def _multiply_floats(a: Tensor, b: Tensor, with_tf32: bool) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = with_tf32
    try:
        return a @ b
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure_device_roofline(device: Device, *, threads: int = 1) -> Roofline:
    """Measure the roofs of a device: the best product in each format it has, and its memory.

    Args:
        device: Which one.
        threads: How many threads of the processor share a product; no matter elsewhere.

    Raises:
        ValueError: There is no such number of threads.
        OutOfDeviceMemoryError: The device has no room for the copy.
        DeviceLostError: The device stopped answering.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    check_threads(threads)
    with use_threads(threads):
        peaks = {}
        for kind in FORMATS:
            best = _measure_peak(kind, device)
            if best is not None:
                peaks[kind] = best
        bandwidth = _measure_bandwidth(device)
    return Roofline(peaks, {"memory": bandwidth}, threads)


def _measure_peak(kind: Kind, device: Device) -> Measurement | None:
    """Return the highest median rate over the sides of the matrices."""
    best: Measurement | None = None
    for side in SIDES[device.kind]:
        try:
            product = build_product(kind, side, device)
            if product is None:
                break
            limit_s = SECONDS + estimate_seconds(product, device, calls=LEAST_CALLS)
            name = f"a product of {side}×{side} matrices in {kind}"
            timed = compare_on_device({name: product}, device, limit_s=limit_s)
        except OutOfDeviceMemoryError:  # then the smaller ones decide
            break
        work = FLOP_PER_MAC * side**3 / 1e6  # over milliseconds: billions a second
        rates = work / timed.times_ms[0].ravel()
        low, median, high = map(float, np.percentile(rates, [25, 50, 75]))
        note = f"by a product of {side}×{side} matrices in PyTorch"
        found = Measurement(
            median, UNITS[kind], low, high, rates.size, timed.provenance, note=note
        )  # fmt: skip
        if best is None or found.value > best.value:
            best = found
        if np.median(timed.times_ms[0]) > SLOW_MS:
            break
    return best


def _measure_bandwidth(device: Device) -> Measurement:
    """Return the rate of copying the device's memory within itself: bytes read and written."""
    size_bytes = ACCELERATOR_BYTES if device.is_queued else MEMORY_BYTES
    with explained(device, f"a copy of {size_bytes:,} bytes"):
        source = torch.ones(size_bytes // 8, device=device.place)
        target = torch.empty_like(source)
    timed = compare_on_device({"copy": lambda: target.copy_(source)}, device, limit_s=1.5)
    rates = 2 * source.nbytes / 1e6 / timed.times_ms[0].ravel()
    low, median, high = map(float, np.percentile(rates, [25, 50, 75]))
    note = f"by copying {source.nbytes / 2**20:.0f} MiB, counted as read and written"
    return Measurement(median, "GB/s", low, high, rates.size, timed.provenance, note=note)
