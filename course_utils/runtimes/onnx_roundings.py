"""The ONNX graph of a network that rounds its activations itself: where, and to what.

An exporter names the tensors of its graph as it likes. To find the rounded ones again, each
rounding is exported as a multiplication by a factor, whose name stays; then that is taken out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from course_utils.calibrate import Range
from course_utils.quantize import find_roundings
from course_utils.quantize.folding import trace
from course_utils.runtimes.export import export_onnx

BYTE = 255  # the largest unsigned integer of eight bits
MOVES_VALUES = {"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class RoundedGraph:
    """A graph in float32 and the roundings that belong into it.

    Attributes:
        graph: Of the network as if it did not round its activations.
        ranges: Of each rounded activation, moved ones too: what 256 of its steps cover.
        largest: The largest integer, counted from 0, of each activation of fewer than 8 bits.
    """

    graph: onnx.ModelProto
    ranges: dict[str, Range]
    largest: dict[str, int]


class _Mark(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        # An exporter takes out multiplications by 1, and keeps equal numbers only once.
        self.factor = nn.Parameter(torch.tensor(1 + (number + 1) / 1024), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def export_rounded(model: nn.Module, images: np.ndarray) -> RoundedGraph:
    """Return the graph of a network from ``quantize.convert_aware``.

    Args:
        model: Rounds its activations.
        images: A batch (n, ...) of the images that it takes; only its shape is used.

    Raises:
        ValueError: The model does not accept these images, or cannot be exported.
    """
    marked = trace(model)
    roundings = find_roundings(marked)
    for number, name in enumerate(roundings):
        marked.set_submodule(name, _Mark(number))
    graph = onnx.ModelProto()
    graph.CopyFrom(export_onnx(marked, images))  # the exporter keeps its own for the next model
    ranges, largest = {}, {}
    for name, rounding in roundings.items():
        tensor = _take_out_(graph, f"{name}.factor")
        step = float(rounding.positive_step)
        ranges[tensor] = Range(rounding.low * step, (rounding.low + BYTE) * step)
        if rounding.bits < 8:
            largest[tensor] = rounding.high - rounding.low
    for node in graph.graph.node:
        if node.op_type in MOVES_VALUES and node.input[0] in ranges:
            (given, *_), (moved, *_) = node.input, node.output
            ranges.setdefault(moved, ranges[given])
            if given in largest:
                largest.setdefault(moved, largest[given])
    return RoundedGraph(graph, ranges, largest)


def limit_integers(graph: onnx.ModelProto, largest: Mapping[str, int]) -> onnx.ModelProto:
    """Return a quantized graph in which some activations' integers end below 255.

    Where no kernel computes with four bits, a byte holds them: what would not fit into four is
    cut off, as it would be there.

    Args:
        graph: In QDQ format, activations as unsigned bytes.
        largest: The largest integer by name of the activation.
    """
    limited = onnx.ModelProto()
    limited.CopyFrom(graph)
    nodes = []
    for node in limited.graph.node:
        nodes.append(node)
        if node.op_type != "QuantizeLinear" or node.input[0] not in largest:
            continue
        rounded = node.output[0]
        node.output[0] = f"{rounded}_byte"
        limit = f"{rounded}_largest"
        value = np.array(largest[node.input[0]], np.uint8)
        limited.graph.initializer.append(numpy_helper.from_array(value, limit))
        nodes.append(onnx.helper.make_node("Min", [f"{rounded}_byte", limit], [rounded]))
    del limited.graph.node[:]
    limited.graph.node.extend(nodes)
    return limited


def _take_out_(graph: onnx.ModelProto, factor: str) -> str:
    """Take the multiplication by a factor out of the graph; return the name of what it multiplied.

    Where that was the graph's output, what is multiplied takes over the output's name.
    """
    nodes = graph.graph.node
    mark = next(node for node in nodes if node.op_type == "Mul" and factor in node.input)
    nodes.remove(mark)
    stored = next(one for one in graph.graph.initializer if one.name == factor)
    graph.graph.initializer.remove(stored)
    (tensor,) = (name for name in mark.input if name != factor)
    (product,) = mark.output
    is_output = product in {output.name for output in graph.graph.output}
    old: str
    new: str
    old, new = (tensor, product) if is_output else (product, tensor)
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    return new
