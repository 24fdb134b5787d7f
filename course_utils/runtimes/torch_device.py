"""PyTorch on any device, in any of its floating-point formats: eager, or as a recorded graph."""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import machine
from course_utils.devices import Device, explained
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import (
    check_accepts,
    check_threads,
    pack_weights,
    use_threads,
)

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
WARM_UP_CALLS = 3  # before a graph is recorded, as PyTorch asks for


def build_on_device(
    model: nn.Module,
    images: np.ndarray,
    device: Device,
    *,
    precision: str = "fp32",
    keeps_images: bool = False,
    with_graph: bool = False,
    threads: int = 1,
) -> Runner:
    """Return a runner that computes on a device, weights and activations in one format.

    A call copies its images to the device, computes, and copies the logits back; the last copy
    waits for the result, so that whoever times the call times all of it.

    Args:
        model: Takes float32 images and returns logits; it is copied.
        images: A batch (n, ...) of the images that it takes.
        device: Where to compute.
        precision: A key of ``DTYPES``. "tf32" needs an NVIDIA GPU of 2020 or later.
        keeps_images: Leave this very batch on the device: a call with the same array copies
            nothing there. What remains is what the network itself costs.
        with_graph: Record all launches of this batch once, and replay them as one (CUDA graphs);
            a call takes batches of this size only. Not on the CPU.
        threads: How many threads of the CPU share a call.

    Raises:
        ValueError: The model does not accept these images, or the device has no such format, or
            cannot record graphs.
        OutOfDeviceMemoryError: Model and batch do not fit.
        DeviceLostError: The device stopped answering.
    """
    check_threads(threads)
    if precision not in DTYPES:
        raise ValueError(f"Formats of PyTorch on devices are {list(DTYPES)}, not {precision!r}.")
    if precision == "tf32" and not device.has_tf32:
        raise ValueError(f"tf32 is a format of NVIDIA's GPUs from 2020 on; {device} lacks it.")
    if with_graph and device.kind != "cuda":
        raise ValueError(f"CUDA graphs need an NVIDIA GPU; this is {device}.")
    dtype, layout = DTYPES[precision], torch.contiguous_format
    if images.ndim == 4:
        layout = torch.channels_last
    with explained(device, f"a network in {precision}"):
        moved = copy.deepcopy(model).eval().to(device.place, dtype)
        moved = moved.to(memory_format=layout)  # type: ignore[call-overload]
    compute: Callable[[Tensor], Tensor] = moved
    if precision in ("tf32", "fp32") and device.kind == "cuda":
        compute = functools.partial(compute_with_tf32, precision == "tf32", moved)
    kept: tuple[np.ndarray, Tensor] | None = None

    def send(batch: np.ndarray) -> Tensor:
        given = torch.from_numpy(batch).to(device.place, dtype)
        return given.contiguous(memory_format=layout)

    def explain(batch: np.ndarray) -> AbstractContextManager[None]:
        return explained(device, f"a network in {precision} with a batch of {len(batch)}")

    def run(batch: np.ndarray) -> np.ndarray:
        with explain(batch), use_threads(threads), torch.inference_mode():
            given = kept[1] if kept and batch is kept[0] else send(batch)
            logits: np.ndarray = compute(given).float().cpu().numpy()
        return logits

    check_accepts(run, images)
    try:
        with explain(images), torch.inference_mode():
            if with_graph:
                compute = _record_graph(compute, send(images))
            if keeps_images:
                kept = images, send(images)
    except RuntimeError as error:
        raise ValueError(
            f"This network cannot be recorded as a graph: {str(error).splitlines()[0]}"
        ) from None
    remarks = ["images kept on the device"] * keeps_images + ["replayed as one"] * with_graph
    is_slow = device.kind == "cpu" and not _has_instructions(precision)
    remarks += [f"no {precision} instructions here: turned into fp32 and back"] * is_slow
    return Runner(
        run, f"PyTorch on {device.kind}", precision, "; ".join(remarks), pack_weights(moved),
        images.shape[1:], threads=threads,
    )  # fmt: skip


def _has_instructions(precision: str) -> bool:
    here = machine.describe()
    has = {"bf16": here.bf16_instructions, "fp16": here.fp16_instructions}
    return has.get(precision, True)


def compute_with_tf32(is_on: bool, work: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Compute fp32 with or without tf32, which PyTorch switches for all at once."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = is_on
    try:
        return work(*given)
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


def _record_graph(compute: Callable[[Tensor], Tensor], given: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what replays all launches of one call, on the same memory each time."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are chosen and memory is found before recording
        for _ in range(WARM_UP_CALLS):
            compute(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = compute(given)

    def replay(batch: Tensor) -> Tensor:
        if batch.shape != given.shape:
            raise RuntimeError(
                f"a graph recorded for {tuple(given.shape)} takes no batch of {tuple(batch.shape)}"
            )
        given.copy_(batch)
        graph.replay()
        return answers

    return replay
