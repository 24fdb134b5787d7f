"""Measuring on any device: wait before the clock is read, and say which clock it was.

Three times tell different things: that of launching (the host puts work into the queue), that
between two marks in the device's queue (what the device needed), and that from the call until
its result is there (what a user waits for).
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils.devices import Device, explained
from course_utils.measure.latency import Comparison, compare
from course_utils.measure.load import LoadMeter
from course_utils.measure.measurement import Measurement, Provenance, measured_now
from course_utils.measure.timing_lock import timing_lock
from course_utils.measure.turns import Run, no_garbage_collection

NOTHING = np.zeros((1, 1), np.float32)
LAUNCHES, REPEATS, WARM_UP = 200, 20, 3
# Operations that launch nothing, beside those that PyTorch itself calls views.
NO_KERNEL = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty")


def wait_for(launch: Callable[[], object], device: Device) -> Run:
    """Return a call that ends when the device has done its work, for ``measure.compare``."""

    def run(images: np.ndarray) -> np.ndarray:
        launch()
        device.synchronize()
        return images

    return run


def compare_on_device(
    launches: Mapping[str, Callable[[], object]], device: Device, *, limit_s: float = 10.0
) -> Comparison:
    """Time several calls in turns, each until the device has done its work.

    Args:
        launches: By name; each puts its work into the device's queue.
        device: Where the work is done.
        limit_s: Seconds that it may take.

    Raises:
        OutOfDeviceMemoryError: A call does not fit into the device's memory.
        DeviceLostError: The device stopped answering.
        ValueError: A call raised, or there are none.
    """
    runs = [_explain(name, wait_for(launch, device), device) for name, launch in launches.items()]
    with explained(device, "what was launched before"):
        device.synchronize()  # so that the first is not charged for it
    return compare(*runs, images=NOTHING, names=list(launches), limit_s=limit_s)


def estimate_seconds(launch: Callable[[], object], device: Device, *, calls: int) -> float:
    """Return how long so many calls take: about as long each as one that is waited for now."""
    with explained(device, "a call"):
        device.synchronize()
        start = time.perf_counter()
        launch()
        device.synchronize()
    return calls * (time.perf_counter() - start)


def _explain(name: str, run: Run, device: Device) -> Run:
    def explain(images: np.ndarray) -> np.ndarray:
        with explained(device, name):
            return run(images)

    return explain


@dataclass(frozen=True)
class LaunchTimes:
    """What a call costs by itself, whatever it computes, in microseconds.

    Attributes:
        launch: Until the host can go on; a queue is not waited for.
        device: Between marks in the device's queue before and after it.
        answer: Until the device has done it, waited for after each call.
    """

    launch: Measurement
    device: Measurement
    answer: Measurement


def measure_launches(launch: Callable[[], object], device: Device) -> LaunchTimes:
    """Measure a call three ways; with next to nothing to compute, its cost is overhead.

    Args:
        launch: Puts the work into the queue.
        device: Where it is done.

    Raises:
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    launched, by_events, answered = [], [], []
    with timing_lock(), no_garbage_collection(), explained(device, "a launch"):
        meter = LoadMeter()
        for _ in range(WARM_UP):
            launch()
        for _ in range(REPEATS):
            device.synchronize()
            start = time.perf_counter()
            first = device.record_event()
            for _ in range(LAUNCHES):
                launch()
            last = device.record_event()
            launched.append(1e6 * (time.perf_counter() - start) / LAUNCHES)
            device.synchronize()
            by_events.append(1000 * device.elapsed_ms(first, last) / LAUNCHES)
            start = time.perf_counter()
            for _ in range(LAUNCHES):
                launch()
                device.synchronize()
            answered.append(1e6 * (time.perf_counter() - start) / LAUNCHES)
        origin = measured_now(f"{device}; {meter.describe()}")
    return LaunchTimes(*(_summarize(one, "µs", origin) for one in (launched, by_events, answered)))


def count_launches(model: nn.Module, images: np.ndarray) -> int:
    """Return how many operations an eager call of a model launches.

    Views of a tensor and new tensors without content launch none.

    Args:
        model: On the CPU.
        images: A batch (n, ...) that it takes.
    """
    model = copy.deepcopy(model).eval()

    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            Counter.count += not (func.is_view or func.overloadpacket.__name__ in NO_KERNEL)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Counter():  # type: ignore[no-untyped-call]
        model(torch.from_numpy(images))
    return Counter.count


def measure_peak(run: Callable[[], object], device: Device, held_bytes: int = 0) -> Measurement:
    """Measure how many bytes a call adds on an accelerator at most, to what is held already.

    Args:
        run: The call.
        device: Not the CPU, whose memory is not PyTorch's alone.
        held_bytes: Of weights that are there already and belong to the call.

    Raises:
        ValueError: The device does not tell.
        OutOfDeviceMemoryError: The call does not fit.
    """
    with explained(device, "a call"):
        device.synchronize()
        device.reset_peak()
        before = device.peak_bytes()
        run()
        device.synchronize()
    size = float(device.peak_bytes() - before + held_bytes)
    return Measurement(size, "bytes", size, size, 1, measured_now(f"on {device}"))


def measure_copies(device: Device, size_bytes: int = 2**26) -> dict[str, Measurement]:
    """Measure how fast bytes get to a device and back, in GB/s.

    "pinned" memory is locked in place, so that the device fetches it by itself; other memory is
    first copied by the processor. On the CPU there is no other memory to copy to, so it is a copy
    within main memory.

    Args:
        device: Where to, and from where back.
        size_bytes: How many bytes a copy has.

    Raises:
        OutOfDeviceMemoryError: They do not fit.
    """
    host = torch.zeros(size_bytes, dtype=torch.uint8)
    with explained(device, f"a copy of {size_bytes:,} bytes"):
        there = torch.zeros(size_bytes, dtype=torch.uint8, device=device.place)
        copies: dict[str, tuple[Tensor, Tensor]] = {"within main memory": (there, host)}
        if device.is_queued:
            copies = {"to the device": (there, host), "back from the device": (host, there)}
            if device.kind == "cuda":
                pinned = host.pin_memory()
                copies["to the device, pinned"] = (there, pinned)
                copies["back, pinned"] = (pinned, there)

    def launch(pair: tuple[Tensor, Tensor]) -> Callable[[], object]:
        return lambda: pair[0].copy_(pair[1], non_blocking=True)

    timed = compare_on_device(
        {name: launch(pair) for name, pair in copies.items()}, device, limit_s=3
    )
    return {
        name: _to_rate(timed.times_ms[index], size_bytes, timed.provenance)
        for index, name in enumerate(copies)
    }


def _to_rate(times_ms: np.ndarray, size_bytes: int, origin: Provenance) -> Measurement:
    rates = (size_bytes / 1e6 / times_ms).ravel().tolist()
    return _summarize(rates, "GB/s", origin)


def _summarize(values: list[float], unit: str, origin: Provenance) -> Measurement:
    low, high = map(float, np.percentile(values, [25, 75]))
    return Measurement(statistics.median(values), unit, low, high, len(values), origin)
