"""An accelerator that is none: it computes on the CPU and logs what it is asked, in order.

Its time is not that of the machine. A launch costs the host ``LAUNCH_S`` and puts ``WORK_S`` of
work into a queue; only a ``synchronize`` lets the clock go on until that work is done. So whoever
stops the clock without waiting finds ``LAUNCH_S``, exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_utils.devices import Device

LAUNCH_S, WORK_S, READ_S = 2.0**-14, 2.0**-10, 2.0**-30  # about 61 µs, 1 ms and 1 ns
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 1.00 GiB."
NO_ANSWER = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later."


@dataclass
class Event:
    """A mark in the queue: when the device comes to it."""

    at_s: float


@dataclass(frozen=True)
class FakeDevice(Device):
    """A device of kind "cuda" whose tensors lie in main memory.

    Attributes:
        largest_batch: More images than this do not fit.
        lost_at: The number of the launch at which it stops answering; 0: it never does.
        told_late: Whether that launch itself still returns, as it does on a real device.
        log: What was asked of it.
        host_s: The time on the host's clock.
        idle_s: When all work in the queue will be done.
    """

    kind: str = "cuda"
    title: str = "Fake GPU"
    place: str = "cpu"
    largest_batch: int = 10**9
    lost_at: int = 0
    told_late: bool = False
    log: list[str] = field(default_factory=list)
    _state: dict[str, float] = field(
        default_factory=lambda: {"host_s": 0.0, "idle_s": 0.0, "launches": 0}
    )

    def __deepcopy__(self, memo: object) -> "FakeDevice":
        """Return itself: a network's copy runs on the same device."""
        return self

    @property
    def host_s(self) -> float:
        return self._state["host_s"]

    @property
    def idle_s(self) -> float:
        return self._state["idle_s"]

    @property
    def is_lost(self) -> bool:
        return 0 < self.lost_at <= self._state["launches"]

    def launch(self, batch: int = 1) -> None:
        """Put work for a batch into the queue."""
        self.log.append("launch")
        was_lost = self.is_lost
        self._state["launches"] += 1
        if was_lost or (self.is_lost and not self.told_late):
            raise torch.AcceleratorError(NO_ANSWER)
        if batch > self.largest_batch:
            raise torch.OutOfMemoryError(NO_MEMORY)
        self._state["host_s"] += LAUNCH_S
        self._state["idle_s"] = max(self.host_s, self.idle_s) + WORK_S

    def synchronize(self) -> None:
        self.log.append("synchronize")
        if self.is_lost:
            raise torch.AcceleratorError(NO_ANSWER)
        self._state["host_s"] = max(self.host_s, self.idle_s)

    def record_event(self) -> Event:
        self.log.append("record_event")
        return Event(max(self.host_s, self.idle_s))

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self.log.append("elapsed")
        if self.host_s < end.at_s:
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return 1000 * (end.at_s - start.at_s)

    def give_back(self) -> None:
        self.log.append("give_back")

    def clock(self) -> float:
        """Read the host's clock."""
        self.log.append("clock")
        self._state["host_s"] += READ_S
        return self.host_s


def rule_time(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all clocks of this process tell the time of a device's host."""
    monkeypatch.setattr(time, "perf_counter", device.clock)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: round(1e9 * device.clock()))


class Launching(nn.Module):
    """A network that launches once in each call, on a device that may refuse."""

    def __init__(self, device: FakeDevice, network: nn.Module) -> None:
        super().__init__()
        self.device, self.network = device, network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.device.launch(len(images))
        return self.network(images)


class FakeGraphs:
    """Stands for ``torch.cuda``'s streams and graphs: a replay computes what was recorded."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = self.log
        main = _Stream("main stream", log)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: _Stream("side stream", log))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: _Logged(log, stream.name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(log))
        monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)


@dataclass
class _Stream:
    name: str
    log: list[str]

    def wait_stream(self, other: "_Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


@dataclass
class _Logged:
    log: list[str]
    name: str

    def __enter__(self) -> None:
        self.log.append(f"begin {self.name}")

    def __exit__(self, *_: object) -> None:
        self.log.append(f"end {self.name}")


class _Graph(TorchDispatchMode):
    """Notes all operations inside of ``with``, and computes them again on the same memory."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __enter__(self) -> "_Graph":
        self.log.append("begin recording")
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.log.append("end recording")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        self.log.append("replay")
        for func, args, kwargs, made in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def rows(count: int) -> np.ndarray:
    """Return images of four pixels, no two alike."""
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4) / 10
