"""The ONNX graph with 8-bit arithmetic: what flows in it, and how it is rewritten.

ONNX Runtime's own quantizer writes the graphs; the integers of the weights and the ranges of
the activations are ours.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from torch import nn

from course_utils import calibrate
from course_utils.calibrate import PIXELS, Distribution, Range, check_images
from course_utils.quantize import QuantizedTensor
from course_utils.runtimes.export import export_onnx, open_session, quiet, without_notes

BATCH = 20
OLDEST_OPSET = 13  # the first whose QuantizeLinear takes a scale for each channel
ACTIVATIONS = {"U8S8": QuantType.QUInt8, "S8S8": QuantType.QInt8}
Integers = Literal["U8S8", "S8S8"]


def observe_activations(
    model: nn.Module, images: np.ndarray, *, pixels: Range | None = PIXELS
) -> dict[str, Distribution]:
    """Return how the values of each activation are distributed, by its name in the ONNX graph.

    Args:
        model: Takes the images; fold its batch norms first, since folding removes activations.
        images: A batch (n, ...) float32 to calibrate on.
        pixels: The range that the model's inputs have; None: any will do.

    Raises:
        ValueError: There are no images, or they are of a type, shape or scale that the model
            does not take, or not finite.
    """
    check_images(images, pixels)
    return observe_graph(export_onnx(model, images), images)


def observe_graph(graph: onnx.ModelProto, images: np.ndarray) -> dict[str, Distribution]:
    """Return the distributions of a graph's activations; see ``observe_activations``."""
    extremes = find_extremes(graph, images)
    seen: dict[str, Distribution] = {}

    def add(name: str, values: np.ndarray) -> None:
        counted = calibrate.count(values, extremes[name])
        seen[name] = seen[name] + counted if name in seen else counted

    _watch(graph, images, add)
    return seen


def find_extremes(graph: onnx.ModelProto, images: np.ndarray) -> dict[str, Range]:
    """Return the range from the smallest to the largest value of each activation."""
    extremes: dict[str, Range] = {}

    def widen(name: str, values: np.ndarray) -> None:
        here = calibrate.find_extremes(values)
        known = extremes.get(name, here)
        extremes[name] = Range(min(known.low, here.low), max(known.high, here.high))

    _watch(graph, images, widen)
    return extremes


def _watch(
    graph: onnx.ModelProto, images: np.ndarray, look: Callable[[str, np.ndarray], None]
) -> None:
    """Run the graph and show the values of each of its activations, batch by batch.

    What only a ReLU reads is left out: both are computed, and rounded, as one.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    readers: dict[str, list[str]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    outputs = {output.name for output in graph.graph.output}
    for node in graph.graph.node:
        for name in node.output:
            if name not in outputs and readers.get(name) != ["Relu"]:
                watched.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(watched)
    names = [output.name for output in session.get_outputs()]
    (given,) = (found.name for found in session.get_inputs())
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for name, values in zip(names, session.run(None, {given: batch}), strict=True):
            if values.dtype == np.float32:
                look(name, values)
        look(given, batch)


def quantize_static_graph(
    graph: onnx.ModelProto,
    weights: Mapping[str, QuantizedTensor],
    ranges: Mapping[str, Range],
    integers: Integers = "U8S8",
) -> onnx.ModelProto:
    """Return the graph in QDQ format: rounded weights and activations, biases as int32.

    Args:
        graph: In float32, of opset 13 or later.
        weights: Integers of at most 8 bits by initializer; the others are rounded per channel.
        ranges: Of each activation, by name; see ``observe_activations``.
        integers: Activations as unsigned or as signed bytes; weights are always signed.

    Raises:
        ValueError: The graph's opset is too old, an activation has no range or one that is none,
            or there are no such kernels.
    """
    check_opset(graph)
    if integers not in ACTIVATIONS:
        raise ValueError(f"There are kernels for {', '.join(ACTIVATIONS)}, not for {integers}.")
    for name, limit in ranges.items():
        if not (isinstance(limit, Range) and -math.inf < limit.low <= 0 <= limit.high < math.inf):
            raise ValueError(
                f"The range of {name!r} has to be a calibrate.Range that holds 0, as the methods in"
                f" calibrate return it, not {str(limit)[:60]}."
            )
    overrides = {name: _on_grid(weight) for name, weight in weights.items()}
    fused = {n.input[0]: ranges[n.output[0]] for n in graph.graph.node if _is_fused(n, ranges)}
    limits = {
        name: (np.float32(limit.low), np.float32(limit.high))
        for name, limit in {**fused, **ranges}.items()
    }
    with quiet():
        quantizer = QDQQuantizer(
            save_and_reload_model_with_shape_infer(graph),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=ACTIVATIONS[integers],
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],  # all
            nodes_to_exclude=[],
            op_types_to_quantize=[*QLinearOpsRegistry, *QDQRegistry],
            extra_options={"TensorQuantOverrides": overrides},
        )
        try:
            quantizer.quantize_model()
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"The graph cannot be quantized with the ranges of {sorted(ranges)}; were they"
                f" observed in this model? ONNX Runtime says: {error}"
            ) from None
    return without_notes(quantizer.model.model)


def quantize_dynamic_graph(graph: onnx.ModelProto, *, reduce_range: bool) -> onnx.ModelProto:
    """Return the graph with 8-bit weights, which rounds its activations anew for every input.

    Weights are signed where all of them are matrices, and unsigned where there are convolutions:
    ONNX Runtime's dynamic convolution of signed weights takes several times as long.

    Raises:
        ValueError: The graph's opset is too old.
    """
    check_opset(graph)
    is_signed = all(node.op_type != "Conv" for node in graph.graph.node)
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            graph,
            file,
            per_channel=True,
            reduce_range=reduce_range and is_signed,  # sums of unsigned weights do not overflow
            weight_type=QuantType.QInt8 if is_signed else QuantType.QUInt8,
        )
        return without_notes(onnx.load(file))


def check_opset(graph: onnx.ModelProto) -> None:
    """Raise ``ValueError`` if the graph is written in a version that cannot be quantized."""
    opset = find_opset(graph)
    if opset < OLDEST_OPSET:
        raise ValueError(
            f"This ONNX graph is written in opset {opset}; a scale for each channel needs"
            f" {OLDEST_OPSET} or later. Export it again, or convert it with"
            " onnx.version_converter."
        )


def find_opset(graph: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a graph is written in; 0 if it says none."""
    own = [item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")]
    return max(own, default=0)


def _is_fused(node: onnx.NodeProto, ranges: Mapping[str, Range]) -> bool:
    """Return whether a node is a ReLU whose range serves what it reads too."""
    return node.op_type == "Relu" and node.output[0] in ranges


def _on_grid(weight: QuantizedTensor) -> list[dict[str, object]]:
    """Return what makes ONNX Runtime's quantizer use a weight's own scales."""
    per_channel = {"axis": 0} if weight.scale.ndim else {}
    return [
        {
            "quant_type": QuantType.QInt8,
            "scale": np.array(scale, np.float32),
            "zero_point": np.array(0, np.int8),
            **per_channel,
        }
        for scale in weight.scale.numpy().reshape(-1)
    ]
