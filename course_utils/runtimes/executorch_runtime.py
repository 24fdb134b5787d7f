"""ExecuTorch: PyTorch's own runtime for phones and smaller devices.

The exported program is *lowered*: what XNNPACK can compute becomes a blob for it, the rest stays
an operator of ExecuTorch's portable, slow library. int8 comes from torchao's pt2e flow, which puts
roundings into the exported graph.
"""

import dataclasses
import threading
from typing import Any

import numpy as np
import torch
from torch import fx, nn

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

NAME = "ExecuTorch"
BATCH = 50  # images at once while ranges are observed
SMALLEST_STEP = 2**-12  # XNNPACK's rule: a scale below it is not computed with
LAYERS = ("convolution", "linear", "addmm", "mm")
BOOKKEEPING = {"getitem", "alloc", "executorch_call_delegate"}
FROM_BYTES = {"dequantize_per_tensor", "dequantize_per_channel"}
ROUNDINGS = FROM_BYTES | {"quantize_per_tensor"}

LOADING = LoadingCode(
    # executorch.runtime, the public name of this, would import all that exports as well.
    imports="import torch; from executorch.extension.pybindings import _C",
    load="""
        _C._unsafe_reset_threadpool(1)
        program = _C._load_program("model.pte")
        method = program.load_method("forward")
    """,
    call="""
        for image in images:
            method([torch.from_numpy(image[None])])
    """,
    unpack=lambda artefact: {"model.pte": artefact},
)


def build_executorch(
    model: nn.Module, images: np.ndarray, *, bits: int = 32, threads: int = 1
) -> Runner:
    """Return a runner of ExecuTorch for one image a call, in float32 or with int8 kernels.

    int8: weights by channel, symmetric; activations from the smallest to the largest value over the
    first 200 of the images.

    Args:
        model: Takes float32 images and returns logits.
        images: A batch (n, ...) float32 of the images that it takes.
        bits: 32, or 8 for weights and activations.
        threads: How many threads share one call. Where there are several, those that wait do so
            awake for some milliseconds, which disturbs what else is timed. A process has one
            number for all: a runner with another one loads its model anew when it is called.

    Raises:
        MissingRuntimeError: ExecuTorch is not installed.
        ValueError: The model does not accept these images, they are unfit to calibrate on, or the
            model cannot be exported.
    """
    model = copy_checked(model, images, bits, threads)
    with needed_for(NAME), silent():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    if bits == 8:
        rounded = _quantize(export_program(model, images, any_batch=True), images)
        program = export_program(rounded, images, any_batch=False)
    else:
        program = export_program(model, images, any_batch=False)
    try:
        with silent():
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            made = lowered.to_executorch()
    except Exception as error:  # the compiler has many classes of its own, and long stories
        raise ValueError(f"ExecuTorch cannot compile this model: {type(error).__name__}.") from None
    inside, outside = _find_operators(made.exported_program().graph_module)
    layers = [node for node in (*inside, *outside) if _name(node) in LAYERS]
    int8 = sum(_is_int8(node) for node in layers if node in inside)
    remarks = [tell_layers(int8, len(layers), bits)]
    if outside:
        slow = ", ".join(sorted({_name(node) for node in outside}))
        remarks.append(f"not in XNNPACK: {slow}")
    kernel = ("int8" if int8 else "fp32") + (" (XNNPACK)" if inside else "")
    runner = load_executorch(bytes(made.buffer), threads=threads)
    runner = dataclasses.replace(runner, kernel=kernel, remark=join_remarks(*remarks))
    if bits == 32:
        check_computes(runner, model, images)
    return runner


def load_executorch(artefact: bytes, *, threads: int = 1) -> Runner:
    """Return a runner for a .pte file, for instance the artefact of another runner.

    The file does not tell which of its layers run in int8, so the runner does not either.

    Args:
        artefact: The file, with a method "forward" from one float32 image to logits.
        threads: How many threads share one call.

    Raises:
        MissingRuntimeError: ExecuTorch is not installed.
        ValueError: ExecuTorch cannot run this file.
    """
    with needed_for(NAME), silent():
        from executorch.runtime import Runtime

        runtime = Runtime.get()

    class Loaded:
        """The model as loaded for the pool of threads that there is."""

        def __init__(self) -> None:
            self.pool = _POOL.use(threads)
            # The program reads from the bytes, and the method from the program, as long as they
            # run: without a reference to each the memory would be given to something else.
            self.program = runtime.load_program(artefact)
            self.method = self.program.load_method("forward")

    try:
        with _POOL.lock, silent():
            loaded = Loaded()
        (given,) = (loaded.method.metadata.input_tensor_meta(0),)
    except Exception as error:
        reason = " ".join(str(error).split())[-300:]
        raise ValueError(
            f"ExecuTorch cannot run these {len(artefact):,} bytes; are they a complete .pte file?"
            f" It says: {reason}"
        ) from None

    def call(image: np.ndarray) -> np.ndarray:
        nonlocal loaded
        with _POOL.lock:
            if loaded.pool != _POOL.number:  # its threads are gone
                with silent():
                    loaded = Loaded()
            (logits,) = loaded.method.execute([torch.from_numpy(image)])
        found: np.ndarray = logits.numpy()
        return found

    shape = tuple(given.sizes()[1:])
    return Runner(
        one_by_one(call), NAME, "not known", join_remarks(), artefact, shape, threads=threads
    )


class _Pool:
    """The one pool of threads of a process: a model holds on to the pool that it was loaded with.

    Attributes:
        threads: How many it has; 0 before the first is made.
        number: Which pool of this process it is.
        lock: Held by whoever makes a pool or computes with it.
    """

    def __init__(self) -> None:
        self.threads, self.number, self.lock = 0, 0, threading.Lock()

    def use(self, threads: int) -> int:
        """Make a pool of so many threads, unless it is the present one; return its number."""
        from executorch.extension.pybindings import portable_lib

        if threads != self.threads:
            portable_lib._unsafe_reset_threadpool(threads)
            self.threads = threads
            self.number += 1
        return self.number


_POOL = _Pool()


def _quantize(program: torch.export.ExportedProgram, images: np.ndarray) -> nn.Module:
    """Return the program with roundings around its operators, as XNNPACK computes them."""
    with needed_for(NAME), silent():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e import MinMaxObserver
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    extremes = MinMaxObserver.with_args(eps=SMALLEST_STEP)
    config = get_symmetric_quantization_config(is_per_channel=True)
    activations = {
        end: dataclasses.replace(getattr(config, end), observer_or_fake_quant_ctr=extremes)
        for end in ("input_activation", "output_activation")
    }
    quantizer = XNNPACKQuantizer().set_global(dataclasses.replace(config, **activations))
    with silent(), torch.no_grad():
        prepared = prepare_pt2e(program.module(), quantizer)
        calibration = images[:CALIBRATION_IMAGES]
        for start in range(0, len(calibration), BATCH):
            prepared(torch.from_numpy(calibration[start : start + BATCH]))
        converted: nn.Module = convert_pt2e(prepared)
    return converted


def _find_operators(graph: fx.GraphModule) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the operators that XNNPACK computes, and those that it does not."""
    programs: list[Any] = [getattr(part, "original_module", None) for part in graph.children()]
    blobs = [program.graph_module for program in programs if program is not None]
    return [node for blob in blobs for node in _operators(blob)], _operators(graph)


def _operators(graph: fx.GraphModule) -> list[fx.Node]:
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [node for node in calls if _name(node) not in BOOKKEEPING | ROUNDINGS]


def _name(node: fx.Node) -> str:
    """Return the name of a node's operator without its namespace and variant: "convolution"."""
    schema = getattr(node.target, "_schema", None)  # a function of Python's own has none
    return str(schema.name if schema else getattr(node.target, "__name__", "")).split("::")[-1]


def _is_int8(node: fx.Node) -> bool:
    """Return whether a layer's input and weights are signed bytes that were turned to floats.

    XNNPACK takes such a layer and the roundings around it as one, and computes it in integers.
    """
    return sum(_name(source) in FROM_BYTES for source in node.all_input_nodes) >= 2
