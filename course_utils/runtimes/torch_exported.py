"""PyTorch's own file for another program: what ``torch.export`` traced, run without the class.

The file (.pt2) holds the graph of basic operators and the weights. Who loads it needs PyTorch, but
none of the code that the network was written in.
"""

import io

import numpy as np
import torch
from torch import nn

from course_utils.runtimes.export import quiet
from course_utils.runtimes.exported import check_computes, copy_checked, export_program
from course_utils.runtimes.loading import LoadingCode
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import use_threads

NAME = "PyTorch, exported"

LOADING = LoadingCode(
    imports="import torch; torch.set_num_threads(1)",
    load="model = torch.export.load('model.pt2').module()",
    call="""
        with torch.inference_mode():
            model(torch.from_numpy(images))
    """,
    unpack=lambda artefact: {"model.pt2": artefact},
)


def build_exported(model: nn.Module, images: np.ndarray, *, threads: int = 1) -> Runner:
    """Return a runner of what ``torch.export`` makes of a model, in float32, for any batch.

    Args:
        model: Takes float32 images and returns logits.
        images: A batch (n, ...) float32 of the images that it takes; only its shape is used.
        threads: How many threads share one call.

    Raises:
        ValueError: The model does not accept these images, or cannot be exported.
    """
    model = copy_checked(model, images, 32, threads)
    program = export_program(model, images, any_batch=True)
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file)
        called = program.module()

    def run(batch: np.ndarray) -> np.ndarray:
        with use_threads(threads), torch.inference_mode():
            logits: np.ndarray = called(torch.from_numpy(batch)).numpy()
        return logits

    runner = Runner(
        run, NAME, "fp32", "a graph of basic operators, called one by one", file.getvalue(),
        images.shape[1:], threads=threads,
    )  # fmt: skip
    check_computes(runner, model, images)
    return runner
