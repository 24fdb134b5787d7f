"""OpenVINO: Intel's runtime, which compiles the graph for the processor when it is loaded.

Its int8 comes from NNCF, which puts roundings into the graph, with ranges from calibration images.
"""

import functools
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from course_utils.runtimes.available import needed_for
from course_utils.runtimes.exported import (
    CALIBRATION_IMAGES,
    check_computes,
    copy_checked,
    export_program,
    join_remarks,
    one_by_one,
    silent,
    tell_layers,
)
from course_utils.runtimes.loading import LoadingCode
from course_utils.runtimes.runner import Runner

NAME = "OpenVINO"
END_OF_GRAPH = b"</net>\n"
LAYERS = ("Convolution", "FullyConnected", "MatMul")
NO_WORK = {"Const", "Input", "Output", "Reshape"}

# Left alone it computes fp32 networks in bf16 where the processor can, and moves the calling
# thread to a core of its choice.
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}


def _unpack(artefact: bytes) -> Mapping[str, bytes]:
    """Return the two files that ship, the graph and its numbers, from what joins them."""
    graph, end, numbers = artefact.partition(END_OF_GRAPH)
    return {"model.xml": graph + end, "model.bin": numbers}


LOADING = LoadingCode(
    imports="""
        import sys
        sys.modules["openvino_telemetry"] = None
        import openvino
    """,
    load=f"""
        core = openvino.Core()
        network = core.read_model("model.xml")
        network.reshape([1, *images.shape[1:]])
        settings = {SETTINGS | {"INFERENCE_NUM_THREADS": 1}!r}
        request = core.compile_model(network, "CPU", settings).create_infer_request()
    """,
    call="""
        for image in images:
            request.get_input_tensor().data[:] = image
            request.infer()
    """,
    unpack=_unpack,
)


def build_openvino(
    model: nn.Module, images: np.ndarray, *, bits: int = 32, threads: int = 1
) -> Runner:
    """Return a runner of OpenVINO for one image a call, in float32 or with its int8 kernels.

    int8: weights by channel, symmetric; activations from the smallest to the largest value over the
    first 200 of the images, after a ReLU without a sign. NNCF would rather take mean extremes,
    which clip the largest logits, and mend biases quickly, which moved many answers of a ResNet-8.

    The artefact is the graph (.xml) and its numbers (.bin), one after the other.

    Args:
        model: Takes float32 images and returns logits.
        images: A batch (n, ...) float32 of the images that it takes.
        bits: 32, or 8 for weights and activations.
        threads: How many threads share one call; they sleep while they wait.

    Raises:
        MissingRuntimeError: OpenVINO or, for 8 bits, NNCF is not installed.
        ValueError: The model does not accept these images, they are unfit to calibrate on, or the
            model cannot be exported.
    """
    model = copy_checked(model, images, bits, threads)
    openvino = _import_openvino()
    _open_core()  # before NNCF opens some of its own
    program = export_program(model, images, any_batch=True)
    with silent():
        graph = openvino.convert_model(program)
    if bits == 8:
        graph = _quantize(graph, images[:CALIBRATION_IMAGES])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        artefact = path.read_bytes() + path.with_suffix(".bin").read_bytes()
    runner = load_openvino(artefact, images.shape[1:], threads=threads)
    if bits == 32:
        check_computes(runner, model, images)
    return runner


def load_openvino(artefact: bytes, image_shape: tuple[int, ...], *, threads: int = 1) -> Runner:
    """Return a runner for the artefact of another one.

    Args:
        artefact: The graph and its numbers, one after the other.
        image_shape: Of one image.
        threads: How many threads share one call.

    Raises:
        MissingRuntimeError: OpenVINO is not installed.
        ValueError: OpenVINO cannot run this.
    """
    core = _open_core()
    try:
        graph = core.read_model(*_unpack(artefact).values())
        graph.reshape([1, *image_shape])
        settings = SETTINGS | {"INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(graph, "CPU", settings)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        raise ValueError(
            f"OpenVINO cannot run these {len(artefact):,} bytes; are they complete, and for images"
            f" of shape {image_shape}? It says: {reason}"
        ) from None
    request = compiled.create_infer_request()
    given, found = request.get_input_tensor(), request.get_output_tensor()

    def call(image: np.ndarray) -> np.ndarray:
        given.data[:] = image  # quicker than giving it to `infer`
        request.infer()
        logits: np.ndarray = found.data.copy()
        return logits

    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    kinds = [(_text(fact["layerType"]), _text(fact["primitiveType"])) for fact in facts]
    layers = [kernel for kind, kernel in kinds if kind in LAYERS]
    int8 = sum(kernel.lower().endswith("i8") for kernel in layers)  # "brgconv_avx512_I8"
    is_rounded = any(operation.get_type_name() == "FakeQuantize" for operation in graph.get_ops())
    remark = join_remarks(tell_layers(int8, len(layers), 8 if is_rounded else 32))
    operators = dict(Counter(kind for kind, _ in kinds if kind not in NO_WORK).most_common())
    kernel = "int8" if int8 else "fp32"
    return Runner(one_by_one(call), NAME, kernel, remark, artefact, image_shape, operators, threads)


def _quantize(graph: Any, images: np.ndarray) -> Any:
    with needed_for(NAME), silent():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    settings = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        disable_bias_correction=True,
    )
    with silent():
        return nncf.quantize(
            graph,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=settings,
        )


def _import_openvino() -> Any:
    """Import OpenVINO, and let neither it nor NNCF report their use to their makers."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    with needed_for(NAME), silent():
        import openvino
    return openvino


@functools.cache
def _open_core() -> Any:
    """Return the one ``Core`` of this process, which stays open.

    Each Core gives the thread another stack for signals. When two are closed in the order in which
    they were opened, the thread is left with one that is gone, and the next Ctrl-C is a crash.
    """
    return _import_openvino().Core()


def _text(fact: Any) -> str:
    return str(fact.astype(str))
