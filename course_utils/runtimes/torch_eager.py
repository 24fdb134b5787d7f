"""PyTorch in eager mode: one Python call and one kernel launch per operation."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from course_utils import calibrate
from course_utils.runtimes.runner import Runner

NAME = "PyTorch eager"


def build_eager(
    model: nn.Module,
    images: np.ndarray,
    *,
    records_gradients: bool = False,
    channels_last: bool = False,
    threads: int = 1,
) -> Runner:
    """Return a runner that calls the model itself, in float32 on the CPU.

    Args:
        model: Takes float32 images and returns logits; it is copied.
        images: A batch (n, ...) of the images that it takes; only its shape is used.
        records_gradients: Leave out ``torch.inference_mode``, as one easily does: every call
            then notes what a backward pass would need.
        channels_last: Keep the channels of a pixel side by side in memory, (n, height, width,
            channels), as the kernels for convolutions want them. The input is turned in each call.
        threads: How many threads share one call. PyTorch has one number for all; it is set for
            the call and set back, which takes a microsecond.

    Raises:
        ValueError: The model does not accept these images, or has no convolution whose channels
            could be last.
    """
    check_threads(threads)
    model = copy.deepcopy(model).eval()
    layout = torch.contiguous_format
    if channels_last:
        if not any(parameter.ndim == 4 for parameter in model.parameters()):
            raise ValueError(
                "This model has no convolution, so there are no channels to keep last; leave out"
                " channels_last."
            )
        layout = torch.channels_last
        model = model.to(memory_format=layout)  # type: ignore[call-overload]

    def run(batch: np.ndarray) -> np.ndarray:
        gradients = torch.enable_grad() if records_gradients else torch.inference_mode()
        with use_threads(threads), gradients:
            given = torch.from_numpy(batch).contiguous(memory_format=layout)
            logits: np.ndarray = model(given).detach().numpy()
        return logits

    check_accepts(run, images)
    remarks = ["records gradients"] * records_gradients + ["channels last"] * channels_last
    return Runner(
        run, NAME, "fp32", "; ".join(remarks), pack_weights(model), images.shape[1:],
        threads=threads,
    )  # fmt: skip


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Let PyTorch's operations use so many threads meanwhile, in the calling thread."""
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_threads(threads: int) -> None:
    """Raise a ValueError if this is no number of threads."""
    if threads < 1:
        raise ValueError(f"A call needs at least one thread; threads={threads} was given.")


def check_accepts(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> None:
    """Raise a ValueError if the model behind ``run`` does not accept these images."""
    try:
        run(images[:1])
    except RuntimeError as error:
        raise calibrate.refuse_images(images, error) from None


def pack_weights(model: nn.Module) -> bytes:
    """Return the weights as a .safetensors file."""
    return save({name: value.contiguous() for name, value in model.state_dict().items()})
