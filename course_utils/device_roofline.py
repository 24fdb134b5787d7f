"""The roofs of any device, by number format: matrix products, convolutions, copies of its memory.

``roofline.measure_roofline`` asks ONNX Runtime, which runs the lessons' networks on the processor.
Here it is PyTorch, on the processor or an accelerator alike, and more formats. A format without
instructions of its own can still be computed, by turning each number into another format and
back; what that costs is measured, not guessed.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.devices import Device, OutOfDeviceMemoryError, explained
from course_utils.layer_costs import FLOP_PER_MAC
from course_utils.measure.measurement import Measurement
from course_utils.measure.on_device import compare_on_device, estimate_seconds
from course_utils.roofline import MEMORY_BYTES, UNITS, Kind, Roofline
from course_utils.runtimes.torch_device import compute_with_tf32
from course_utils.runtimes.torch_eager import check_threads, use_threads

FORMATS: tuple[Kind, ...] = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
SIDES = {"cpu": (256, 512), "cuda": (2048, 4096, 8192), "mps": (1024, 2048), "xpu": (2048, 4096)}
# Images, channels and side of 3×3 convolutions: a library can have better kernels for these.
CONVOLUTIONS = {
    "cpu": ((1, 128, 28), (8, 128, 14)), "cuda": ((128, 256, 28),), "mps": ((32, 128, 28),),
    "xpu": ((64, 256, 28),),
}  # fmt: skip
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
    what = f"a product of {side}×{side} matrices in {kind}"
    return _try(partial(_prepare, kind, side, device), kind, device, what)


def build_convolution(
    kind: Kind, images: int, channels: int, side: int, device: Device
) -> Callable[[], Tensor] | None:
    """Return a padded 3×3 convolution in a format; None if the device cannot do it.

    Args:
        kind: The format of images and weights; not int8 or fp8, for which PyTorch has none.
        images: How many.
        channels: Of the input, and of the output.
        side: Height and width of the images.
        device: Where to compute.

    Raises:
        OutOfDeviceMemoryError: The images do not fit.
        DeviceLostError: The device stopped answering.
    """
    if kind in ("int8", "fp8"):
        return None

    def prepare() -> Callable[[], Tensor]:
        random, dtype = torch.Generator().manual_seed(0), DTYPES.get(kind, torch.float32)
        shapes = (images, channels, side, side), (channels, channels, 3, 3)
        given, weights = (
            torch.randn(shape, generator=random)
            .to(device.place, dtype)
            .contiguous(memory_format=torch.channels_last)
            for shape in shapes
        )
        convolve = partial(F.conv2d, given, weights, padding=1)
        if device.kind == "cuda" and dtype == torch.float32:
            return partial(compute_with_tf32, kind == "tf32", convolve)
        return convolve

    return _try(prepare, kind, device, f"a convolution of {channels} channels in {kind}")


def _try(
    prepare: Callable[[], Callable[[], Tensor]], kind: Kind, device: Device, what: str
) -> Callable[[], Tensor] | None:
    """Return what was prepared, if it runs; None if the device has no kernel for it."""
    if kind == "tf32" and not device.has_tf32:
        return None
    try:
        with explained(device, what), torch.inference_mode():
            work = prepare()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a format is a prototype
                work()
                device.synchronize()
    except (RuntimeError, NotImplementedError, TypeError):  # what is explained is none of them
        return None
    return work


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
        return partial(compute_with_tf32, kind == "tf32", partial(torch.mm, a, b))
    return partial(torch.mm, a.to(DTYPES[kind]), b.to(DTYPES[kind]))


def measure_device_roofline(device: Device, *, threads: int = 1) -> Roofline:
    """Measure the roofs of a device in each format that it has, and that of its memory.

    A peak is the highest median rate of some matrix products and, but for int8 and fp8, 3×3
    convolutions. A processor can have a quicker convolution than product: the libraries differ.

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
    """Return the highest median rate over the products and convolutions."""
    tried = [
        *_measure_all(kind, device, _list_products(kind, device)),
        *_measure_all(kind, device, _list_convolutions(kind, device)),
    ]
    return max(tried, key=lambda found: found.value, default=None)


Candidate = tuple[str, float, Callable[[], Callable[[], Tensor] | None]]


def _list_products(kind: Kind, device: Device) -> list[Candidate]:
    """Return names, multiply-adds and builders, the smallest first."""
    return [
        (
            f"a product of {side}×{side} matrices",
            side**3,
            partial(build_product, kind, side, device),
        )
        for side in SIDES[device.kind]
    ]


def _list_convolutions(kind: Kind, device: Device) -> list[Candidate]:
    return [
        (
            f"a 3×3 convolution of {images} × {channels} channels of {side}×{side}",
            9 * images * (channels * side) ** 2,
            partial(build_convolution, kind, images, channels, side, device),
        )
        for images, channels, side in CONVOLUTIONS[device.kind]
    ]


def _measure_all(kind: Kind, device: Device, candidates: list[Candidate]) -> Iterator[Measurement]:
    """Yield the rate of each, until one is slow, does not fit, or has no kernel."""
    for name, macs, build in candidates:
        try:
            launch = build()
            if launch is None:
                return
            limit_s = SECONDS + estimate_seconds(launch, device, calls=LEAST_CALLS)
            timed = compare_on_device({f"{name} in {kind}": launch}, device, limit_s=limit_s)
        except OutOfDeviceMemoryError:  # then the smaller ones decide
            return
        rates = FLOP_PER_MAC * macs / 1e6 / timed.times_ms[0].ravel()  # billions a second
        low, median, high = map(float, np.percentile(rates, [25, 50, 75]))
        note = f"by {name} in PyTorch"
        yield Measurement(
            median, UNITS[kind], low, high, rates.size, timed.provenance, note=note
        )  # fmt: skip
        if np.median(timed.times_ms[0]) > SLOW_MS:
            return


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
