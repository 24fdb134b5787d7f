"""ONNX Runtime's own profile: the time of each operator of the graph that really runs."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from course_utils.runtimes.export import open_session

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class ProfiledCall:
    """One call, as a profiler saw it, in milliseconds.

    Attributes:
        nodes_ms: Time of each node of the graph.
        kinds: The operator of each node.
        runtime_ms: The whole call, by the runtime's own clock.
        call_ms: The same, by our clock from Python.
    """

    nodes_ms: Mapping[str, float]
    kinds: Mapping[str, str]
    runtime_ms: float
    call_ms: float

    def operators_ms(self) -> dict[str, float]:
        """Return the time in each kind of operator."""
        sums: dict[str, float] = defaultdict(float)
        for name, node_ms in self.nodes_ms.items():
            sums[self.kinds[name]] += node_ms
        return sums


def profile_graph(
    graph: onnx.ModelProto,
    images: np.ndarray,
    count: int,
    *,
    threads: int = 1,
    optimise: bool = True,
) -> tuple[onnx.GraphProto, list[ProfiledCall]]:
    """Return the graph that runs, and so many of its calls, profiled after a few that warm up.

    The times hold what the profiler adds to each operator, some microseconds.

    Args:
        graph: With one input.
        images: The input.
        count: How many calls.
        threads: How many threads share one call.
        optimise: Whether operators may be fused and replaced.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised, profile = Path(folder) / "optimised.onnx", Path(folder) / "profile"
        session = open_session(
            graph, threads=threads, optimise=optimise, optimised_file=optimised, profile=profile
        )
        (given,) = session.get_inputs()
        times_ms = time_calls(lambda batch: session.run(None, {given.name: batch}), images, count)
        events = json.loads(Path(session.end_profiling()).read_text())
        running = onnx.load(optimised, load_external_data=False).graph
    calls, nodes_ms, kinds = [], dict[str, float](), dict[str, str]()
    for event in events:  # "..._kernel_time" of each node of a call, then its "model_run"
        name = event["name"].removesuffix("_kernel_time")
        if name != event["name"]:
            nodes_ms[name] = event["dur"] / 1000
            kinds[name] = event["args"]["op_name"]
        elif name == "model_run":
            calls.append((nodes_ms, kinds, event["dur"] / 1000))
            nodes_ms, kinds = {}, {}
    warm = zip(calls[WARM_UP_CALLS:], times_ms, strict=True)
    return running, [ProfiledCall(*call, call_ms) for call, call_ms in warm]


def time_calls(run: Callable[[np.ndarray], object], images: np.ndarray, count: int) -> list[float]:
    """Return the milliseconds of so many calls, after a few that warm up."""
    times_ms = []
    for _ in range(WARM_UP_CALLS + count):
        start = time.perf_counter_ns()
        run(images)
        times_ms.append((time.perf_counter_ns() - start) / 1e6)
    return times_ms[WARM_UP_CALLS:]
