"""PyTorch in eager mode: one Python call and one kernel launch per operation."""

import copy

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from course_utils.runtimes.runner import Runner


def build_eager(model: nn.Module, images: np.ndarray) -> Runner:
    """Return a runner that calls the model itself, in float32 on the CPU.

    The number of threads is PyTorch's own, for the whole process: ``torch.set_num_threads``.

    Args:
        model: Takes float32 images and returns logits; it is copied.
        images: A batch (n, ...) of the images that it takes; only its shape is used.

    Raises:
        ValueError: The model does not accept these images.
    """
    model = copy.deepcopy(model).eval()

    @torch.inference_mode()
    def run(batch: np.ndarray) -> np.ndarray:
        logits: np.ndarray = model(torch.from_numpy(batch)).numpy()
        return logits

    try:
        run(images[:1])
    except RuntimeError as error:
        raise ValueError(
            f"The model does not accept images of shape {images.shape}: {error}"
        ) from None
    artefact = save({name: value.contiguous() for name, value in model.state_dict().items()})
    return Runner(run, "PyTorch eager", "fp32", "", artefact, images.shape[1:])
