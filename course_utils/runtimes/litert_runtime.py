"""LiteRT, once TensorFlow Lite: the runtime of Android, one flat file that is read where it lies.

``litert-torch`` converts, ``ai-edge-quantizer`` rounds, and XNNPACK computes, the library of
kernels that ExecuTorch uses too.
"""

import copy
from collections import Counter
from typing import Any

import numpy as np
import torch
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

NAME = "LiteRT"
LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
DELEGATE = "DELEGATE"  # stands for all operators that were given to XNNPACK

LOADING = LoadingCode(
    imports="from ai_edge_litert.interpreter import Interpreter",
    load="""
        interpreter = Interpreter("model.tflite", num_threads=1)
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()[0]["index"]
    """,
    call="""
        for image in images:
            interpreter.set_tensor(given, image[None])
            interpreter.invoke()
    """,
    unpack=lambda artefact: {"model.tflite": artefact},
)


def build_litert(
    model: nn.Module, images: np.ndarray, *, bits: int = 32, threads: int = 1
) -> Runner:
    """Return a runner of LiteRT for one image a call, in float32 or with int8 kernels.

    int8: weights by channel, symmetric; activations from the smallest to the largest value over the
    first 200 of the images. The quantizer would rather take a moving average of the extremes,
    which clips the largest logits. Images go in and logits come out as float32.

    Args:
        model: Takes float32 images and returns logits.
        images: A batch (n, ...) float32 of the images that it takes.
        bits: 32, or 8 for weights and activations.
        threads: How many threads share one call. Where there are several, those that wait do so
            awake for some milliseconds, which disturbs what else is timed.

    Raises:
        MissingRuntimeError: LiteRT or its converter is not installed.
        ValueError: The model does not accept these images, they are unfit to calibrate on, or the
            model cannot be exported.
    """
    model = copy_checked(model, images, bits, threads)
    with needed_for(NAME), silent():
        import ai_edge_litert.interpreter  # noqa: F401 - to be named if it is this that is missing
        import ai_edge_quantizer  # noqa: F401 - likewise
        import litert_torch
    export_program(model, images, any_batch=False)  # so that this is what is told if it fails
    try:
        with silent():
            converted = litert_torch.convert(model, (torch.zeros(1, *images.shape[1:]),))
            artefact = bytes(converted.model_content())
    except Exception as error:  # the converter has many classes of its own, and long stories
        raise ValueError(f"LiteRT cannot convert this model: {type(error).__name__}.") from None
    if bits == 8:
        artefact = _quantize(artefact, images[:CALIBRATION_IMAGES])
    runner = load_litert(artefact, threads=threads)
    if bits == 32:
        check_computes(runner, model, images)
    return runner


def load_litert(artefact: bytes, *, threads: int = 1) -> Runner:
    """Return a runner for a .tflite file, for instance the artefact of another runner.

    Args:
        artefact: The file, for one float32 image, and one output of logits.
        threads: How many threads share one call.

    Raises:
        MissingRuntimeError: LiteRT is not installed.
        ValueError: LiteRT cannot run this file.
    """
    with needed_for(NAME), silent():
        from ai_edge_litert.interpreter import Interpreter
    try:
        with silent():
            interpreter = Interpreter(model_content=artefact, num_threads=threads)
            before = Counter(one["op_name"] for one in interpreter._get_ops_details())
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[-300:]
        raise ValueError(
            f"LiteRT cannot run these {len(artefact):,} bytes; are they a complete .tflite file?"
            f" It says: {reason}"
        ) from None
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
        logits: np.ndarray = interpreter.get_tensor(found["index"])
        return logits

    operations = interpreter._get_ops_details()
    layers = [one for one in operations if one["op_name"] in LAYERS]
    int8 = sum(_is_int8(one) for one in layers)
    is_rounded = any(np.int8 in one["operand_types"] for one in operations)
    remarks = [tell_layers(int8, len(layers), 8 if is_rounded else 32)]
    parts = sum(one["op_name"] == DELEGATE for one in operations)
    if parts != 1:
        remarks.append(f"XNNPACK took the graph in {parts} parts")
    kernel = ("int8" if int8 else "fp32") + (" (XNNPACK)" if parts else "")
    shape = tuple(int(size) for size in given["shape"][1:])
    return Runner(
        one_by_one(call), NAME, kernel, join_remarks(*remarks), artefact, shape,
        dict(before.most_common()), threads,
    )  # fmt: skip


def _is_int8(operation: dict[str, Any]) -> bool:
    """Return whether a layer reads its weights and what it multiplies by them as signed bytes."""
    given, weights, *_ = operation["operand_types"]
    return bool(given == weights == np.int8)


def _quantize(artefact: bytes, images: np.ndarray) -> bytes:
    with needed_for(NAME), silent():
        from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils
    from ai_edge_litert.interpreter import Interpreter

    rules = recipe.static_wi8_ai8()
    for end in ("INPUT", "OUTPUT"):  # they stay float32
        rules.append({**copy.deepcopy(rules[0]), "operation": end, "algorithm_key": "no_quantize"})
        rules[-1]["op_config"] = {}
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(rules)
    with silent():
        signatures = Interpreter(model_content=artefact).get_signature_list()
        ((signature, ends),) = signatures.items()
        (name,) = ends["inputs"]
        observer = calibrator.Calibrator(
            artefact, num_threads=1, qsv_update_func=qsv_utils.min_max_update
        )
        observer.calibrate({signature: [{name: image[None]} for image in images]}, manager)
        made = quantizer.Quantizer(artefact, rules).quantize(observer.get_model_qsvs())
    return bytes(made.quantized_model)
