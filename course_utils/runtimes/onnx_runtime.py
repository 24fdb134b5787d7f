"""ONNX Runtime: the graph optimised as a whole, in float32 or with its integer kernels."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from torch import nn

from course_utils import calibrate, machine, quantize
from course_utils.calibrate import Range
from course_utils.runtimes import onnx_int8
from course_utils.runtimes.export import (
    Level,
    export_onnx,
    find_level,
    open_session,
    pack,
    unpack,
)
from course_utils.runtimes.loading import LoadingCode
from course_utils.runtimes.onnx_roundings import export_rounded, limit_integers
from course_utils.runtimes.runner import Runner

NAME = "ONNX Runtime"
CALIBRATION_IMAGES = 200
REDUCED_BITS = 7
OLDEST_OPSET = 7  # the first that ONNX Runtime promises to run
INT8_OPERATORS = {
    "QLinearConv", "QLinearMatMul", "QGemm",
    "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
}  # fmt: skip
FLOAT_OPERATORS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}

LOADING = LoadingCode(
    imports="import onnxruntime",
    load="""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: images}
    """,
    call="session.run(None, feed)",
    unpack=lambda artefact: {"model.onnx": unpack(artefact).SerializeToString()},
)


def build(
    model: nn.Module,
    images: np.ndarray,
    *,
    arithmetic: Literal["U8S8", "S8S8", "dynamic"] = "U8S8",
    ranges: Mapping[str, Range] | None = None,
    reduce_range: bool | None = None,
    threads: int = 1,
) -> Runner:
    """Return a runner with the kernel that ONNX Runtime has here for the width of the weights.

    Weights of at most 8 bits run in the int8 kernel: *static* quantization in QDQ format, signed
    weights, activations as unsigned (U8S8) or signed bytes (S8S8) whose ranges are set before,
    or *dynamic*, with ranges that are computed for every input. Wider weights have no kernel of
    their own: they are turned back into float32 when the file is loaded.

    Args:
        model: As it is, or from ``quantize.quantize_weights``.
        images: A batch (n, ...) float32 of the images that it takes.
        arithmetic: How activations become bytes, if the weights have at most 8 bits; "dynamic"
            takes weights of 8 bits, and rounds them anew itself.
        ranges: Of each activation, see ``observe_activations``; None: from the smallest to the
            largest value over the first 200 of the images.
        reduce_range: Hold 8-bit weights to 7 bits, so that the kernel's 16-bit sums of two
            products cannot overflow; None: where this machine's kernel would overflow.
        threads: How many threads share one call.

    Raises:
        ValueError: The model does not accept these images, they are unfit to calibrate on, the
            ranges are of another model, or the weights are too narrow for dynamic arithmetic.
    """
    weights = quantize.quantized_weights(model)
    widths = {weight.bits for weight in weights.values()}
    bits = max(widths, default=quantize.FLOAT_BITS)
    rounds_itself = bool(quantize.find_roundings(model))
    if rounds_itself and (ranges is not None or arithmetic != "U8S8" or bits > 8):
        raise ValueError(
            "This model was trained with its own roundings: it runs in U8S8 arithmetic with their"
            " ranges and with weights of at most 8 bits, as quantize.convert_aware makes them."
        )
    is_calibrated_here = bits <= 8 and arithmetic != "dynamic" and ranges is None
    is_calibrated_here &= not rounds_itself
    calibrate.check_images(images, calibrate.PIXELS if is_calibrated_here else None)
    if arithmetic == "dynamic" and bits < 8:
        raise ValueError(f"Dynamic arithmetic rounds weights to 8 bits itself, not to {bits}.")
    remarks, packed = [], weights
    if reduce_range is None:
        reduce_range = machine.int8_sums_overflow()
    if bits == 8 and reduce_range and arithmetic != "dynamic":
        model = quantize.narrow_weights(model, REDUCED_BITS)
        weights = quantize.quantized_weights(model)
        packed = {name: one for name, one in packed.items() if one.bits < 8}  # others: whole bytes
        remarks.append("weights held to 7 bits, so that 16-bit sums cannot overflow")
    largest: Mapping[str, int] = {}
    if rounds_itself:
        rounded = export_rounded(model, images)
        graph, ranges, largest = rounded.graph, rounded.ranges, rounded.largest
        weights = {name: quantize.spread_integers(one) for name, one in weights.items()}
    else:
        graph = export_onnx(model, images)
    if bits > 8:
        remark = f"no {bits}-bit kernel here: its weights ran as fp32" if weights else ""
        return replace(load(pack(graph, packed), threads=threads), kernel="fp32", remark=remark)
    if arithmetic == "dynamic":
        graph, packed = onnx_int8.quantize_dynamic_graph(graph, reduce_range=reduce_range), {}
    else:
        if ranges is None:
            ranges = onnx_int8.find_extremes(graph, images[:CALIBRATION_IMAGES])
        graph = onnx_int8.quantize_static_graph(graph, weights, ranges, arithmetic)
        graph = limit_integers(graph, largest)
    narrow = sorted(width for width in widths if width < 8)
    if len(narrow) == 1:
        remarks.append(f"no {narrow[0]}-bit kernel here: its integers ran in the int8 kernel")
    elif narrow:
        remarks.append(
            f"no kernels here for {narrow[0]} to {narrow[-1]} bits: their integers ran in the int8"
            " kernel"
        )
    runner = load(pack(graph, packed), threads=threads)
    in_int8 = count_layers(runner, INT8_OPERATORS)
    if not in_int8:
        remark = "ONNX Runtime found no int8 kernel for this graph here"
        return replace(runner, kernel="fp32", remark=remark)
    if arithmetic == "dynamic" and reduce_range and "ConvInteger" not in runner.operators:
        remarks.append("weights held to ±64, so that 16-bit sums cannot overflow")
    remarks.append(tell_left_over(runner, in_int8, "ran in int8"))
    return replace(runner, kernel=f"int8 ({arithmetic})", remark="; ".join(filter(None, remarks)))


def count_layers(runner: Runner, operators: set[str]) -> int:
    """Return how many of the operators that run are of the given kinds."""
    return sum(count for name, count in runner.operators.items() if name in operators)


def tell_left_over(runner: Runner, done: int, what: str) -> str:
    """Say how many layers were left in fp32; nothing if none were."""
    left = count_layers(runner, FLOAT_OPERATORS)
    return f"only {done} of {done + left} layers {what}, the others fp32" if left else ""


def load(content: bytes, *, optimise: bool | Level = True, threads: int = 1) -> Runner:
    """Return a runner for an ONNX file, for instance the artefact of another runner.

    Args:
        content: The file, with one input of float32 images and one output of logits.
        optimise: Whether ONNX Runtime may fuse and replace operators, or how far: "none"; "basic"
            takes out what changes nothing and folds constants; "extended" fuses; "all" also lays
            out memory as the kernels like it. A quantized file whose operators are not fused runs
            in fp32 on rounded values: that simulates its integers.
        threads: How many threads share one call.

    Raises:
        ValueError: This is no ONNX file, or one that ONNX Runtime cannot run, because of its
            opset for instance; or there is no such level.
    """
    level = find_level(optimise)
    try:
        unpacked = unpack(content).SerializeToString()
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            session = open_session(
                unpacked, threads=threads, optimise=level, optimised_file=optimised
            )
            nodes = onnx.load(optimised, load_external_data=False).graph.node
    except Exception as error:  # protobuf and ONNX Runtime raise classes of their own
        raise ValueError(_why_not(content, error)) from None
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise ValueError("A model of this course has one input and one output; this one has more.")
    (given,) = session.get_inputs()

    def run(batch: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {given.name: batch})[0]
        return logits

    operators = dict(Counter(node.op_type for node in nodes).most_common())
    kernel = "int8" if INT8_OPERATORS & set(operators) else "fp32"
    return Runner(run, NAME, kernel, "", content, tuple(given.shape[1:]), operators, threads)


def _why_not(content: bytes, error: Exception) -> str:
    """Say why a file cannot be run, and what can be done."""
    try:
        graph = onnx.load_from_string(content)
    except Exception:
        graph = onnx.ModelProto()
    if not graph.ir_version:  # some bytes of other formats can be read, as an empty file
        return f"This is no ONNX file ({len(content)} bytes); is it complete?"
    reason = _shorten(str(error).rsplit(") ", 1)[-1])  # without C++ signatures
    opset = onnx_int8.find_opset(graph)
    advice = ""
    if opset < OLDEST_OPSET or "opset" in reason.lower() or "version" in reason.lower():
        advice = (
            f" It is written in opset {opset}, in version {graph.ir_version} of the format; export"
            " it again with a version that ONNX Runtime supports here."
        )
    return f"ONNX Runtime cannot run this file.{advice} It says: {reason}"


def _shorten(message: str, most: int = 300) -> str:
    """Return the last sentences of a message, as many as there is room for."""
    words = " ".join(message.split())
    if len(words) <= most:
        return words
    sentences = words[-most:].split(". ", 1)
    return sentences[-1] if len(sentences) > 1 else f"… {words[-most:].split(' ', 1)[-1]}"
