"""How long each layer of a network takes in ONNX Runtime: its points below the roofline.

The runtime's own profile tells the times of the operators that really run, fused and in its own
layout, from the caches that the layers before have filled. An operator is matched to its
layer by the names of weights and outputs that ONNX Runtime keeps when it fuses; a layer for
which that fails is listed, not guessed.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from course_utils import quantize, runtimes
from course_utils.layer_costs import LayerCost, count_costs
from course_utils.measure.load import LoadMeter
from course_utils.measure.measurement import Measurement, Provenance, measured_now
from course_utils.measure.timing_lock import timing_lock
from course_utils.roofline import Kind, Roofline, find_level
from course_utils.runtimes.export import unpack
from course_utils.runtimes.onnx_profile import profile_graph
from course_utils.runtimes.onnx_runtime import FLOAT_OPERATORS, INT8_OPERATORS
from course_utils.tables import Table

RESOLUTION_MS = 0.001  # of the profile
BYTES: dict[Kind, float] = {"fp32": 4, "int8": 1}  # a weight, and an activation


@dataclass(frozen=True)
class LayerTime:
    """One layer as it ran: a point below the roofline.

    Attributes:
        name: Of the layer, e.g. "block1.conv1".
        kind: Of its arithmetic.
        operator: The operator that ran, e.g. "FusedGemm".
        flop: Operations, two a multiply-add.
        bytes_moved: At least: weights, inputs and output, each once; the second input of an
            addition that is fused with it among them.
        latency: Median and quartiles, ms.
    """

    name: str
    kind: Kind
    operator: str
    flop: int
    bytes_moved: int
    latency: Measurement

    @property
    def flop_per_byte(self) -> float:
        """Arithmetic intensity."""
        return self.flop / self.bytes_moved

    @property
    def gflop_per_s(self) -> float:
        """Billions of operations a second, by the median latency."""
        return self.flop / self.latency.value / 1e6


@dataclass(frozen=True)
class LayerTimes:
    """What ran in one call of a network.

    Attributes:
        layers: Those with multiply-adds, in the order in which they ran.
        others_ms: Milliseconds of everything else, by operator, most first.
        unmatched: Layers with multiply-adds for which no operator was found; their time is in
            ``others_ms``.
        overhead_ms: What the profile adds to each operator, found by the ReLU of a single number;
            it is taken off all times.
        working_set_bytes: Of all weights, and of the activations at their peak.
    """

    layers: Sequence[LayerTime]
    others_ms: Mapping[str, float]
    unmatched: Sequence[str]
    overhead_ms: float
    working_set_bytes: int


def measure_layers(
    model: nn.Module, images: np.ndarray, *, threads: int = 1, runs: int = 100
) -> LayerTimes:
    """Time each layer of a network in ONNX Runtime.

    Batch norms are folded first. Weights from ``quantize.quantize_weights`` of at most 8 bits run
    in the int8 kernel, the activations being calibrated on the images; others in float32.

    Args:
        model: Built of what ``layer_costs`` counts.
        images: The batch (n, ...) float32 of every call.
        threads: How many threads share one call.
        runs: How many calls are profiled, 1 or more.

    Raises:
        ValueError: There are no runs or threads, the model does not accept these images, or it
            has a layer that cannot be counted or traced.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    if runs < 1 or threads < 1:
        raise ValueError(f"{runs} runs on {threads} threads measure nothing; give 1 or more.")
    folded = quantize.fold_batch_norms(model)
    costs: dict[Kind, list[LayerCost]] = {}
    working_set_bytes: dict[Kind, int] = {}
    for kind, size in BYTES.items():
        counted = count_costs(folded, images, bytes_per_weight=size, bytes_per_activation=size)
        costs[kind] = [cost for cost in counted.layers if cost.macs]
        working_set_bytes[kind] = counted.weight_bytes + counted.peak_activation_bytes
    exported = unpack(runtimes.build(folded, images, threads=threads).artefact)
    with timing_lock():
        meter = LoadMeter()
        _, nothing_ms = _profile(_chain_of_nothing(), np.ones(1, np.float32), 100, optimise=False)
        running, times_ms = _profile(exported, images, runs, threads=threads)
        origin = measured_now(meter.describe())
    overhead_ms = float(np.median(np.concatenate(list(nothing_ms.values()))))
    layer_of = match_layers(exported.graph, running, {cost.name for cost in costs["fp32"]})
    layers: list[LayerTime] = []
    others_ms: dict[str, float] = defaultdict(float)
    for node in running.node:
        times = np.maximum(times_ms[node.name] - overhead_ms, RESOLUTION_MS)
        kind = "int8" if node.op_type in INT8_OPERATORS else "fp32"
        name = layer_of.get(node.name, "")
        calls = [cost for cost in costs[kind] if cost.name == name]
        earlier = sum(layer.name == name for layer in layers)
        if earlier == len(calls):  # none, or all have their operator already
            others_ms[node.op_type] += float(np.median(times))
            continue
        cost = calls[earlier]
        bytes_moved = cost.bytes_moved + _count_added(running, node) * cost.output_bytes
        latency = _summarize(times, origin)
        layers.append(LayerTime(name, kind, node.op_type, cost.flop, bytes_moved, latency))
    missing = Counter(cost.name for cost in costs["fp32"])
    missing.subtract(layer.name for layer in layers)
    most_first = dict(sorted(others_ms.items(), key=lambda item: -item[1]))
    kinds = [layer.kind for layer in layers]
    held = working_set_bytes["int8" if "int8" in kinds else "fp32"]
    return LayerTimes(layers, most_first, list(missing.elements()), overhead_ms, held)


def sum_by(found: LayerTimes, kind_of: Callable[[str], str]) -> dict[str, float]:
    """Return milliseconds by kind of layer, and by operator for all that is no layer.

    Args:
        found: What ran.
        kind_of: Takes a layer's name and returns what it is to be counted under.
    """
    sums: dict[str, float] = defaultdict(float)
    for layer in found.layers:
        sums[kind_of(layer.name)] += layer.latency.value
    for operator, milliseconds in found.others_ms.items():
        sums[operator] += milliseconds
    return dict(sums)


def tabulate(cases: Mapping[str, LayerTimes], roofline: Roofline) -> Table:
    """Return the layers beside the roof that stands over each of them.

    A network that runs over and over finds its weights and activations in the smallest cache that
    holds them all; that level's bandwidth makes the roof.

    Args:
        cases: What ran, by a name for it.
        roofline: Of the machine on which it ran.
    """
    head = ["", "layer", "operator", "10⁶ operations", "operations / byte", "ms", "10⁹/s reached"]
    rows = [
        [
            case if number == 0 else "",
            layer.name,
            layer.operator,
            f"{layer.flop / 1e6:.3g}",
            f"{layer.flop_per_byte:.1f}",
            f"{layer.latency.value:.3f}",
            f"{layer.gflop_per_s:.3g}",
            f"{roofline.attainable(layer.flop_per_byte, layer.kind, level):.3g}",
            f"{roofline.bound(layer.flop_per_byte, layer.kind, level)} ({level})",
        ]
        for case, found in cases.items()
        for level in [find_level(found.working_set_bytes)]
        for number, layer in enumerate(found.layers)
    ]
    origins = {str(layer.latency.provenance): 0 for one in cases.values() for layer in one.layers}
    counted = "operations and bytes are computed from the shapes"
    return Table([*head, "roof", "bound by"], rows, [*origins, counted])


def match_layers(
    exported: onnx.GraphProto, running: onnx.GraphProto, layers: Collection[str]
) -> dict[str, str]:
    """Return the layer of each operator that multiplies, by the operator's name.

    A weight or a bias is called after its layer in both graphs. Where ONNX Runtime has stored a
    weight in another order, under another name, its operator is called after the output.

    Args:
        exported: The graph that was loaded.
        running: The graph that runs, after all optimisations.
        layers: Names of the layers with weights.
    """

    def find_owner(node: onnx.NodeProto) -> str | None:
        starts = {f"{layer}.{own}": layer for layer in layers for own in ("weight", "bias")}
        found = (starts[start] for name in node.input for start in starts if name.startswith(start))
        return next(found, None)

    outputs = {}
    for node in exported.node:
        layer = find_owner(node) if node.op_type in FLOAT_OPERATORS else None
        if layer is not None:
            outputs[node.output[0]] = layer
        elif node.op_type == "Relu" and node.input[0] in outputs:
            outputs[node.output[0]] = outputs[node.input[0]]
    owners = {}
    for node in running.node:
        if node.op_type in FLOAT_OPERATORS | INT8_OPERATORS:
            named = [node.name.removesuffix("_nchwc"), *node.output]
            layer = find_owner(node) or next(
                (outputs[name] for name in named if name in outputs), None
            )
            if layer is not None:
                owners[node.name] = layer
    return owners


def _profile(
    graph: onnx.ModelProto, images: np.ndarray, runs: int, **options: Any
) -> tuple[onnx.GraphProto, dict[str, np.ndarray]]:
    """Return the graph that runs, and the milliseconds of its operators by name: (runs,)."""
    running, calls = profile_graph(graph, images, runs, **options)
    nodes = [node.name for node in running.node]
    return running, {name: np.array([call.nodes_ms[name] for call in calls]) for name in nodes}


def _chain_of_nothing() -> onnx.ModelProto:
    """Return a graph whose operators take no time to speak of: each is the ReLU of one number."""
    relus = [helper.make_node("Relu", [f"x{n}"], [f"x{n + 1}"], f"relu{n}") for n in range(20)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x0", "x20")]
    graph = helper.make_graph(relus, "nothing", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _count_added(running: onnx.GraphProto, node: onnx.NodeProto) -> int:
    """Return how many activations an operator reads besides its layer's input: 1 or 0."""
    constants = {tensor.name for tensor in running.initializer} | {""}
    return sum(name not in constants for name in node.input) - 1


def _summarize(times_ms: np.ndarray, origin: Provenance) -> Measurement:
    low, median, high = map(float, np.percentile(times_ms, [25, 50, 75]))
    fastest = float(times_ms.min())
    return Measurement(median, "ms", low, high, times_ms.size, origin, fastest=fastest)
