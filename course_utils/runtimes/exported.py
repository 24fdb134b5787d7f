"""What the runtimes for small devices share: an exported program, and one image at a time.

``torch.export`` traces a network into a graph of some two hundred basic operators, without
Python: each of these runtimes converts that graph into a file of its own. A file is made for one
image a call, as a device sees them.
"""

import contextlib
import copy
import os
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from course_utils import calibrate, quantize
from course_utils.runtimes.export import quiet
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import check_accepts, check_threads

WIDTHS = (32, 8)
CALIBRATION_IMAGES = 200  # as for ONNX Runtime
ONE_BY_ONE = "one image a call: larger batches run image by image"


def copy_checked(model: nn.Module, images: np.ndarray, bits: int, threads: int) -> nn.Module:
    """Return a copy of the model in evaluation mode, if it can be built as asked for.

    Raises:
        ValueError: The model does not accept these images, or there is no kernel for this width,
            or no such number of threads, or the model brings roundings of its own.
    """
    if bits not in WIDTHS:
        raise ValueError(f"These runtimes have kernels for 32 and for 8 bits, not for {bits!r}.")
    check_threads(threads)
    calibrate.check_images(images, calibrate.PIXELS if bits == 8 else None)
    if quantize.find_roundings(model):
        raise ValueError(
            "This model was trained with its own roundings, which only runtimes.build runs; give"
            " the network as it was before."
        )
    model = copy.deepcopy(model).eval()
    with torch.inference_mode():
        check_accepts(lambda batch: model(torch.from_numpy(batch)).numpy(), images)
    return model


def export_program(
    model: nn.Module, images: np.ndarray, *, any_batch: bool
) -> torch.export.ExportedProgram:
    """Return the model as a graph of basic operators.

    Args:
        model: In evaluation mode.
        images: A batch (n, ...) of the images that it takes; only its shape is used.
        any_batch: Whether the graph is to take any number of images, or just one.

    Raises:
        ValueError: The model cannot be exported.
    """
    example = torch.zeros(2 if any_batch else 1, *images.shape[1:])
    sizes = ({0: torch.export.Dim("batch")},) if any_batch else None
    try:
        with quiet():
            return torch.export.export(model, (example,), dynamic_shapes=sizes)
    except Exception as error:  # the exporter has many classes of its own, and long stories
        raise ValueError(
            f"The model cannot be exported: {type(error).__name__}. Does its forward branch on the"
            " values of tensors?"
        ) from None


def one_by_one(call: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function for batches of any size that calls with one image after the other.

    It can be called from several threads; they wait for each other, since these runtimes keep an
    input and an output for each loaded model.

    Args:
        call: A batch of one image (1, ...) -> its logits (1, classes), newly allocated.
    """
    lock = threading.Lock()

    def run(batch: np.ndarray) -> np.ndarray:
        batch = np.ascontiguousarray(batch)
        with lock:
            if len(batch) == 1:
                return call(batch)
            if len(batch) == 0:
                return call(np.zeros((1, *batch.shape[1:]), np.float32))[:0]
            return np.concatenate([call(batch[index : index + 1]) for index in range(len(batch))])

    return run


def check_computes(runner: Runner, model: nn.Module, images: np.ndarray) -> None:
    """Raise ``ValueError`` if a runner in float32 does not compute what the model computes."""
    given = images[:4]
    with torch.inference_mode():
        expected = model(torch.from_numpy(given)).numpy()
    logits = runner(given)
    tolerance = 1e-3 * float(np.abs(expected).max())
    is_same_shape = logits.shape == expected.shape
    if not is_same_shape or not np.allclose(logits, expected, rtol=1e-3, atol=tolerance):
        raise ValueError(f"What {runner.runtime} made of it does not compute what the model does.")


def tell_layers(int8: int, layers: int, bits: int) -> str:
    """Say how many of the layers with weights run in int8, if that was asked for."""
    if bits == 32:
        return ""
    if int8 == layers:
        return f"all {layers} layers ran in int8"
    return f"only {int8} of {layers} layers ran in int8, the others in fp32"


def join_remarks(*remarks: str) -> str:
    """Return what is to be said, the size of a batch at the end."""
    return "; ".join(filter(None, (*remarks, ONE_BY_ONE)))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Be ``quiet``, and keep off the page also what a library in C++ prints."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with quiet(), _without_widgets():
            yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


@contextlib.contextmanager
def _without_widgets() -> Iterator[None]:
    """Keep ``rich``, with which some libraries tell how far they are, from drawing into a page."""
    try:
        from rich import console
    except ModuleNotFoundError:
        yield
        return
    finds_notebook = console._is_jupyter
    console._is_jupyter = lambda: False
    try:
        yield
    finally:
        console._is_jupyter = finds_notebook
