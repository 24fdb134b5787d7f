"""Where the time of one call goes, by the profilers of the runtimes themselves."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent

from course_utils.runtimes import onnx_runtime, torch_compiled, torch_eager
from course_utils.runtimes.export import unpack
from course_utils.runtimes.onnx_profile import (
    WARM_UP_CALLS,
    ProfiledCall,
    profile_graph,
    time_calls,
)
from course_utils.runtimes.runner import Runner

TORCH = (torch_eager.NAME, torch_compiled.NAME)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else PyTorch's profiler writes to stderr
BURST = 10
OUTSIDE = "outside of operators"
T = TypeVar("T")
CALL = "one call"  # how a call is marked in PyTorch's profile


@dataclass(frozen=True)
class CallProfile:
    """The parts of one call, in milliseconds; the operators and ``outside_ms`` add up to it.

    Each is a mean over the middle half of the profiled calls, by their length: unlike medians,
    means add up, and without the longest calls other programs move them little. A profiler slows
    what it looks at: noting that an operator starts and ends takes about a microsecond, much for
    one that computes for two. ``slowdown`` says how much.

    Attributes:
        operators_ms: Time in each kind of operator, without what it calls, most first.
        nodes_ms: Time in each node of the graph, in the order in which they run; empty for
            PyTorch, which has no graph to name them from.
        runtime_ms: A whole call, as the runtime's profiler timed it.
        profiled_call_ms: The same calls, as our clock timed them from Python.
        call_ms: Calls of the runner without the profiler, in turns with the others.
    """

    operators_ms: Mapping[str, float]
    nodes_ms: Mapping[str, float]
    runtime_ms: float
    profiled_call_ms: float
    call_ms: float

    @property
    def outside_ms(self) -> float:
        """What a profiled call takes beside its operators: Python, and the runtime's own steps."""
        return self.profiled_call_ms - sum(self.operators_ms.values())

    @property
    def slowdown(self) -> float:
        """How many times as long a call takes while it is profiled."""
        return self.profiled_call_ms / self.call_ms

    def bars(self, most: int = 8) -> dict[str, float]:
        """Return what a chart shows: the longest operators, the others as one, and the rest."""
        ordered = list(self.operators_ms.items())
        shown = dict(ordered[:most])
        if others := ordered[most:]:
            shown[f"{len(others)} other operators"] = sum(duration for _, duration in others)
        return {**shown, OUTSIDE: self.outside_ms}


def profile_operators(runner: Runner, images: np.ndarray, runs: int = 30) -> dict[str, float]:
    """Return the milliseconds that one call spends in each kind of operator, most first.

    See ``profile_call``, which also tells what a call takes beside them.
    """
    return dict(profile_call(runner, images, runs).operators_ms)


def profile_call(runner: Runner, images: np.ndarray, runs: int = 30) -> CallProfile:
    """Return where the time of one call goes.

    ONNX Runtime is opened a second time, with its profiler, on the runner's file and with as many
    threads; the file is optimised as it is on this machine. PyTorch's profiler watches the runner
    itself.

    Args:
        runner: Of ONNX Runtime or PyTorch, eager or compiled.
        images: The batch (n, ...) that every call gets.
        runs: How many calls are profiled, and as many timed without a profiler: in turns of ten,
            each after three calls that are not counted, so that no profiler's start is.

    Raises:
        ValueError: The runner belongs to another runtime, does not take these images, or there
            is no run.
    """
    profiles = {
        onnx_runtime.NAME: _profile_onnx,
        **dict.fromkeys(TORCH, _profile_torch),
    }
    if runner.runtime not in profiles:
        raise ValueError(
            f"Only runners of {', '.join(profiles)} can be profiled, not one of {runner.runtime}."
        )
    if runs < 1:
        raise ValueError(f"Profile at least one call; runs={runs} was given.")
    plain_ms: list[float] = []
    calls: list[ProfiledCall] = []
    for start in range(0, runs, BURST):
        count = min(BURST, runs - start)
        plain_ms += time_calls(runner, images, count)
        calls += profiles[runner.runtime](runner, images, count)
    middle_ms: list[float] = _middle_half(plain_ms, key=lambda call_ms: call_ms)
    middle = _middle_half(calls, key=lambda call: call.call_ms)
    operators_ms = _means([call.operators_ms() for call in middle])
    return CallProfile(
        operators_ms=dict(sorted(operators_ms.items(), key=lambda item: -item[1])),
        nodes_ms={} if runner.runtime in TORCH else _means([call.nodes_ms for call in middle]),
        runtime_ms=fmean(call.runtime_ms for call in middle),
        profiled_call_ms=fmean(call.call_ms for call in middle),
        call_ms=fmean(middle_ms),
    )


def _profile_onnx(runner: Runner, images: np.ndarray, count: int) -> list[ProfiledCall]:
    return profile_graph(unpack(runner.artefact), images, count, threads=runner.threads)[1]


def _profile_torch(runner: Runner, images: np.ndarray, count: int) -> list[ProfiledCall]:
    """Sum each operator's own time, without what it calls, in each call that PyTorch saw."""
    activities = [torch.profiler.ProfilerActivity.CPU]

    def run(batch: np.ndarray) -> None:
        with torch.profiler.record_function(CALL):
            runner(batch)

    with torch.profiler.profile(activities=activities) as profiler:
        times_ms = time_calls(run, images, count)
    roots = [event for event in profiler.events() if event.name == CALL][WARM_UP_CALLS:]
    calls = []
    for root, call_ms in zip(roots, times_ms, strict=True):
        own_ms: dict[str, float] = defaultdict(float)
        for event in _below(root):
            own_ms[_kind(event.name)] += event.self_cpu_time_total / 1000
        kinds = {kind: kind for kind in own_ms}
        calls.append(ProfiledCall(own_ms, kinds, root.cpu_time_total / 1000, call_ms))
    return calls


def _below(event: FunctionEvent) -> list[FunctionEvent]:
    """Return all that ran inside of this event."""
    return [inner for child in event.cpu_children for inner in (child, *_below(child))]


def _kind(name: str) -> str:
    """Return the name of an operator without the numbers that PyTorch gives to each graph."""
    if name.startswith("## Call CompiledFxGraph"):
        return "compiled graph"
    return name if "::" in name else name.split(":")[0]


def _middle_half(values: Sequence[T], key: Callable[[T], float]) -> list[T]:
    """Leave out the shortest and the longest quarter."""
    quarter = len(values) // 4
    return sorted(values, key=key)[quarter : len(values) - quarter]


def _means(calls: list[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for call in calls for name in call)
    return {name: fmean(call.get(name, 0.0) for call in calls) for name in names}
