"""Networks that do not export, or export wrongly: the error, and the cure.

Each case wraps a network in a few lines that work in PyTorch. ``torch.onnx.export`` follows a model
with tensors that have shapes but no values, and writes down the operations. What depends on
values, what Python remembers and what is a plain number stops it, or is there as a constant.
``export_check`` tells a right export from a wrong one.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.runtimes.export import quiet, without_notes
from course_utils.runtimes.onnx_int8 import find_opset

DARK, GAIN = 0.25, 1.5  # of pixels from 0 to 1
WINDOW = 3  # of the median, pixels
MOST_LETTERS = 160  # of an error's message


class Wrapped(nn.Module):
    """A network, with something before or behind it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def answer(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.body(images)
        return logits


class Brightening(Wrapped):
    """Brightens dark pictures first: by an ``if`` on what is in them."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        if images.mean() < DARK:
            images = (GAIN * images).clamp(max=1)
        return self.answer(images)


class BrighteningEach(Wrapped):
    """The cure: both are computed, and each image chooses."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        is_dark = images.mean(dim=(1, 2, 3), keepdim=True) < DARK
        brighter = (GAIN * images).clamp(max=1)
        return self.answer(torch.where(is_dark, brighter, images))


class Smoothing(Wrapped):
    """Mixes its answer with the one before, as for the frames of a film: remembered in Python."""

    previous: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits = self.answer(images)
        if self.previous is not None:
            logits = (logits + self.previous) / 2
        self.previous = logits[-1:].detach()
        return logits


class Plain(Wrapped):
    """The cure: the network remembers nothing; who calls it may mix its answers."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.answer(images)


class MedianFilter(Wrapped):
    """Takes specks of noise away first: each pixel becomes the median of its neighbourhood."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.answer(neighbours(images).median(dim=0).values)


class MedianBySorting(Wrapped):
    """The cure: the same from an operator that ONNX has, the middle of the sorted."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.answer(neighbours(images).sort(dim=0).values[WINDOW**2 // 2])


class FixedBatch(Wrapped):
    """Uses the size of the batch as a number of Python's: the graph holds that of the example."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.answer(images).reshape(int(images.shape[0]), -1)


def neighbours(images: Tensor) -> Tensor:
    """Return what lies around each pixel, zeros beyond the edge: (9, *images.shape)."""
    rows, columns = images.shape[-2:]
    padded = F.pad(images, [WINDOW // 2] * 4)
    shifts = [(row, column) for row in range(WINDOW) for column in range(WINDOW)]
    return torch.stack([padded[..., r : r + rows, c : c + columns] for r, c in shifts])


@dataclass(frozen=True)
class Case:
    """A model that does not export well.

    Attributes:
        cause: In a few words.
        sick: Wraps a network.
        cured: Wraps it so that it computes what was meant, and exports.
    """

    cause: str
    sick: Callable[[nn.Module], nn.Module]
    cured: Callable[[nn.Module], nn.Module]


CASES: Mapping[str, Case] = {
    "brightening": Case("branches on values", Brightening, BrighteningEach),
    "smoothing": Case("remembers in Python", Smoothing, Plain),
    "median": Case("operator not in ONNX", MedianFilter, MedianBySorting),
    "batch": Case("size is a plain number", FixedBatch, Plain),
}


@dataclass(frozen=True)
class Export:
    """What came of an export.

    Attributes:
        content: The ONNX file; empty if there is none.
        error: Why there is none, in two lines: the error, and the line of the model.
    """

    content: bytes
    error: str = ""

    def __repr__(self) -> str:
        return self.error or f"exported: {len(self.content):,} bytes, opset {self.opset}"

    @property
    def opset(self) -> int:
        """In which version of ONNX's operators the file is written."""
        return find_opset(onnx.load_from_string(self.content))


def try_export(model: nn.Module, images: np.ndarray, opset: int | None = None) -> Export:
    """Run a model on an example, as one does, and export it as it then is.

    Args:
        model: It is not changed.
        images: The example (n, ...), float32; the graph is to take any number of images.
        opset: To write the file in; None: the exporter's own choice.

    Raises:
        ValueError: The exporter wrote the file in another opset than was asked for.
    """
    model, example = copy.deepcopy(model).eval(), torch.from_numpy(images)
    try:
        with quiet(), torch.no_grad():
            model(example)
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
            )
            assert program is not None  # it is None only if it is written into a file
    except Exception as error:  # the exporter has many classes of its own, and long stories
        return Export(b"", tell_error(error))
    export = Export(without_notes(program.model_proto).SerializeToString())
    if opset is not None and export.opset != opset:
        raise ValueError(
            f"Opset {opset} was asked for, and the exporter wrote opset {export.opset}, with no"
            " more than a warning; ask for one that it knows."
        )
    return export


def tell_error(error: BaseException) -> str:
    """Return an exporter's story in two lines: what went wrong first, and where in the model."""
    while error.__cause__ is not None:  # the first error is the last that is told
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    asked = [code for place, code in pairwise(lines) if place.endswith(", in forward")]
    where = f"\n  at: {asked[-1]}" if asked else ""
    return f"{type(error).__name__}: {shorten(lines[0] if lines else 'no message')}{where}"


def shorten(message: str) -> str:
    """Return the first sentence, or as much of it as a line holds."""
    words = " ".join(message.split()).split(". ")[0]
    return words if len(words) <= MOST_LETTERS else f"{words[: MOST_LETTERS - 1]}…"
