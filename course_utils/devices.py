"""Devices: what computes on this machine, the processor and whatever accelerator it has.

An accelerator works by itself. A call only puts work into its queue and returns; whoever reads
the clock then has timed the putting. ``Device.synchronize`` waits until the queue is empty. On
the processor it has nothing to wait for, so that the same code measures everywhere.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from course_utils import machine

KINDS = {"cuda": "CUDA", "mps": "Apple's Metal (MPS)", "xpu": "Intel's XPU"}
# What drivers say, in small letters and with spaces for underscores.
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "alloc failed",
    "out of device memory", "invalid buffer size",
)  # fmt: skip
LOST = (
    "device lost", "device-side assert", "launch failure", "illegal memory access", "unavailable",
    "execution failed", "uncorrectable", "device disconnected", "no longer",
)  # fmt: skip
NOT_LOST = ("not supported", "not implemented", "no kernel image", "capturing")  # it only refused
DRIVER_PATIENCE_S = 10.0


class OutOfDeviceMemoryError(MemoryError):
    """A device has too little memory for a call; what to do stands in the message."""


class DeviceLostError(OSError):
    """A device does not answer any more, so nothing more can be computed on it."""


@dataclass(frozen=True)
class Device:
    """Where a network can run.

    Attributes:
        kind: "cpu", or a key of ``KINDS``.
        title: What it calls itself.
        place: PyTorch's name for it.
    """

    kind: str
    title: str
    place: str

    @property
    def is_queued(self) -> bool:
        """Whether calls return before their work is done."""
        return self.kind != "cpu"

    @property
    def has_tf32(self) -> bool:
        """Whether it multiplies tf32: NVIDIA's GPUs from 2020 on do."""
        return self.kind == "cuda" and torch.cuda.get_device_capability(self.place) >= (8, 0)

    def synchronize(self) -> None:
        """Wait until all work that was given to the device is done."""
        if self.is_queued:
            torch.accelerator.synchronize(self.place)

    def record_event(self) -> Any:
        """Return a mark in the device's queue; it gets its time when the device comes to it."""
        if not self.is_queued:
            return time.perf_counter()
        event = torch.Event(self.kind, enable_timing=True)
        event.record()
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two marks, by the device's own clock.

        Only after ``synchronize``: before it the device may not have come to the second mark.
        """
        if not self.is_queued:
            return 1000 * float(end - start)
        return float(start.elapsed_time(end))

    def reset_peak(self) -> None:
        """Forget the most memory that was held."""
        if self.is_queued:
            torch.accelerator.reset_peak_memory_stats(self.place)

    def peak_bytes(self) -> int:
        """Return the most bytes that tensors held on the device since ``reset_peak``.

        Raises:
            ValueError: It is not told: the processor's memory is not PyTorch's alone
                (``measure.measure_memory`` looks at a whole process).
        """
        if not self.is_queued:
            raise ValueError("PyTorch does not tell how much of the main memory its tensors hold.")
        return int(torch.accelerator.max_memory_allocated(self.place))

    def give_back(self) -> None:
        """Give the memory back that PyTorch keeps for later tensors."""
        if self.kind == "mps":
            torch.mps.empty_cache()
        elif self.is_queued:
            torch.accelerator.empty_cache()

    def memory_bytes(self) -> int:
        """Return how many bytes of memory the device has, whether they are free or not."""
        if self.kind == "mps":  # has no memory of its own, but a share of the main memory
            return int(torch.mps.recommended_max_memory())
        if not self.is_queued:
            return int(psutil.virtual_memory().total)
        return int(torch.accelerator.get_memory_info(self.place)[1])

    def describe_clocks(self) -> str:
        """Return clock and power of an NVIDIA GPU just now, as its driver tells them."""
        told = _ask_driver("clocks.sm,power.draw") if self.kind == "cuda" else ""
        parts = [part.strip() for part in told.split(",")]
        if len(parts) != 2:  # nothing, or a story about why not
            return "clock and power not told"
        return f"clock {parts[0]}, power {parts[1]}"

    def __str__(self) -> str:
        return self.title


def find_devices() -> list[Device]:
    """Return the processor, and the first accelerator of each kind that PyTorch sees here."""
    found = [Device("cpu", machine.describe().cpu, "cpu")]
    if torch.cuda.is_available():
        found.append(Device("cuda", torch.cuda.get_device_name(0), "cuda:0"))
    if torch.backends.mps.is_available():
        found.append(Device("mps", f"GPU of {machine.describe().cpu}", "mps:0"))
    if torch.xpu.is_available():
        found.append(Device("xpu", torch.xpu.get_device_name(0), "xpu:0"))
    return found


def get_device(kind: str) -> Device:
    """Return the device of a kind.

    Raises:
        ValueError: There is no such kind, or this machine has no such device.
    """
    found = {device.kind: device for device in find_devices()}
    if kind in found:
        return found[kind]
    if kind not in KINDS:
        raise ValueError(f"There is no device {kind!r}; the kinds are cpu, {', '.join(KINDS)}.")
    raise ValueError(
        f"This machine has no device for {KINDS[kind]}, or this PyTorch ({torch.__version__}) was"
        f" built without it. Here: {', '.join(found)}."
    )


def explain_devices() -> str:
    """Return in words what computes here, and what is not here."""
    found = find_devices()
    missing = [name for kind, name in KINDS.items() if kind not in {one.kind for one in found}]
    lines = [f"{device.kind}: {device.title}" for device in found]
    if missing:
        lines.append(
            f"not here: {', '.join(missing)} (no such device, or PyTorch {torch.__version__} was"
            " built without it)"
        )
    if len(found) == 1:
        lines.append("Whatever this page says of an accelerator is recorded, computed or cited.")
    return "\n".join(lines)


@contextlib.contextmanager
def explained(device: Device, what: str) -> Iterator[None]:
    """Turn what a driver says into an error that tells what to do.

    Args:
        device: On which something runs meanwhile.
        what: That something, in a few words.

    Raises:
        OutOfDeviceMemoryError: The device has too little memory.
        DeviceLostError: The device does not answer any more.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError and AcceleratorError are such errors
        said = str(error).lower().replace("_", " ")
        if isinstance(error, torch.OutOfMemoryError) or any(one in said for one in OUT_OF_MEMORY):
            raise OutOfDeviceMemoryError(
                f"{what} does not fit into the memory of {device}. Take a smaller batch (see"
                " devices.find_largest_batch), or close what else uses the device."
            ) from None
        is_lost = isinstance(error, torch.AcceleratorError) or any(one in said for one in LOST)
        is_lost = is_lost and not any(one in said for one in NOT_LOST)
        if device.is_queued and is_lost:
            raise DeviceLostError(
                f"{device} stopped answering while it ran {what}. What was measured before is"
                f" kept. Restart the kernel and run the cell again. The driver says:"
                f" {str(error).splitlines()[0]}"
            ) from None
        raise


def find_largest_batch(run: Callable[[int], object], most: int, device: Device) -> int:
    """Return the largest batch, up to ``most``, that the device has memory for; 0 if none is.

    Batches are doubled until one does not fit; then the border is found by halving. What was
    allocated for a batch that did not fit is given back before the next.

    Args:
        run: Takes a batch size and runs it; raises ``OutOfDeviceMemoryError`` if it does not fit.
        most: Where to stop.
        device: Where it runs.

    Raises:
        ValueError: ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"Batches are of 1 or more, so most={most} leaves none to try.")

    def fits(batch: int) -> bool:
        with contextlib.suppress(OutOfDeviceMemoryError):
            run(batch)
            return True
        device.give_back()  # not before: the error held what the failed call had allocated
        return False

    fitting, failing, batch = 0, most + 1, 1
    while fitting < failing - 1:
        if fits(batch):
            fitting = batch
        else:
            failing = batch
        is_open = failing > most
        batch = min(2 * batch, most) if is_open else (fitting + failing) // 2
    return fitting


def _ask_driver(fields: str) -> str:
    """Return what NVIDIA's driver says about the first GPU; nothing if it cannot be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        asked = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DRIVER_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()
