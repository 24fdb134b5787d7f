"""ONNX Runtime: the graph optimised as a whole, in float32 or with its int8 kernels."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from course_utils import machine, quantize
from course_utils.quantize import QuantizedTensor
from course_utils.runtimes.export import export_onnx, pack, quiet, unpack, without_notes
from course_utils.runtimes.runner import Runner

NAME = "ONNX Runtime"
CALIBRATION_IMAGES = 200
REDUCED_BITS = 7
INT8_OPERATORS = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger"}


def build(
    model: nn.Module, images: np.ndarray, *, reduce_range: bool | None = None, threads: int = 1
) -> Runner:
    """Return a runner with the kernel that ONNX Runtime has here for the width of the weights.

    Weights of at most 8 bits run in the int8 kernel: static quantization in QDQ format, signed
    weights, activations as unsigned bytes whose ranges are set with the images. Wider weights
    have no kernel of their own: they are turned back into float32 when the file is loaded.

    Args:
        model: As it is, or from ``quantize.quantize_weights``.
        images: A batch (n, ...) float32 of the images that it takes, to calibrate on.
        reduce_range: Hold 8-bit weights to 7 bits, so that the kernel's 16-bit sums of two
            products cannot overflow; None: where this machine's kernel would overflow.
        threads: How many threads share one call.

    Raises:
        ValueError: The model does not accept these images, or they are unfit to calibrate on.
    """
    _check_calibration(images)
    weights = quantize.quantized_weights(model)
    bits = max((weight.bits for weight in weights.values()), default=quantize.FLOAT_BITS)
    remark, packed = "", weights
    if reduce_range is None:
        reduce_range = machine.int8_sums_overflow()
    if bits == 8 and reduce_range:
        model = quantize.narrow_weights(model, REDUCED_BITS)
        weights, packed = quantize.quantized_weights(model), {}  # they ship as whole bytes
        remark = "weights held to 7 bits, so that 16-bit sums cannot overflow"
    graph = export_onnx(model, images)
    if bits <= 8:
        graph = _quantize_graph(graph, weights, images)
        kernel = "int8 (U8S8)"
        if bits < 8:
            remark = f"no {bits}-bit kernel here: its integers ran in the int8 kernel"
    else:
        kernel = "fp32"
        if weights:
            remark = f"no {bits}-bit kernel here: its weights ran as fp32"
    artefact = pack(graph, packed)
    session = open_session(unpack(artefact), threads=threads)
    if bits <= 8 and not INT8_OPERATORS & set(_operators(artefact)):
        kernel, remark = "fp32", "ONNX Runtime found no int8 kernel for this graph here"

    def run(batch: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {"images": batch})[0]
        return logits

    return Runner(run, NAME, kernel, remark, artefact, images.shape[1:])


def open_session(
    graph: onnx.ModelProto, *, threads: int = 1, optimised_file: Path | None = None
) -> onnxruntime.InferenceSession:
    """Return a session whose threads sleep while they wait, so that they disturb no timing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised_file is not None:
        options.optimized_model_filepath = str(optimised_file)
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def count_operators(runner: Runner) -> dict[str, int]:
    """Return how often each operator stands in the graph that ONNX Runtime really runs.

    The graph is read back after all of the runtime's optimisations on this machine.

    Raises:
        ValueError: The runner belongs to another runtime.
    """
    if runner.runtime != NAME:
        raise ValueError(f"Only a runner of {NAME} can tell its operators, not {runner.runtime}.")
    return _operators(runner.artefact)


def _operators(artefact: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(unpack(artefact), optimised_file=optimised)
        nodes = onnx.load(optimised).graph.node
    return dict(Counter(node.op_type for node in nodes).most_common())


class _CalibrationImages(CalibrationDataReader):  # type: ignore[misc]  # an untyped base
    """Feeds images to ONNX Runtime's calibration, in batches."""

    def __init__(self, images: np.ndarray, batch: int = 10) -> None:
        self._batches: Iterator[np.ndarray] = iter(
            images[start : start + batch] for start in range(0, len(images), batch)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _quantize_graph(
    graph: onnx.ModelProto, weights: dict[str, QuantizedTensor], images: np.ndarray
) -> onnx.ModelProto:
    """Return the graph in QDQ format, its weights on exactly the given grids."""
    overrides = {}
    for name, weight in weights.items():
        scales = weight.scale.numpy().reshape(-1)
        per_channel = {"axis": 0} if weight.scale.ndim else {}
        overrides[name] = [
            {
                "quant_type": QuantType.QInt8,
                "scale": np.array(scale, np.float32),
                "zero_point": np.array(0, np.int8),
                **per_channel,
            }
            for scale in scales
        ]
    untouched = onnx.ModelProto()  # quantize_static moves the weights of what it is given
    untouched.CopyFrom(graph)
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantized = Path(folder) / "quantized.onnx"
        quantize_static(
            untouched,
            quantized,
            _CalibrationImages(images[:CALIBRATION_IMAGES]),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"TensorQuantOverrides": overrides},
        )
        return without_notes(onnx.load(quantized))


def _check_calibration(images: np.ndarray) -> None:
    if images.dtype != np.float32 or images.ndim < 2 or len(images) == 0:
        raise ValueError(
            "Calibration takes a batch of float32 images, (n, ...) with n of 1 or more; it was"
            f" given {images.dtype} of shape {images.shape}."
        )
    if not np.isfinite(images).all():
        raise ValueError("The calibration images hold NaN or infinite values.")
