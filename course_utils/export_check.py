"""Is an export right? Compared with its model on many images, and in batches of several sizes."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from course_utils.datasets import Split
from course_utils.export_clinic import shorten
from course_utils.runtimes.runner import Runner

PART = 100  # images at once
BATCHES = (1, 2, 7)
TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class ExportCheck:
    """How an export compares with the model that it was made of, on many images.

    Attributes:
        images: How many were compared, in batches of the largest size that runs.
        difference: The largest of the logits; NaN if it could not be run.
        largest_logit: Of the model.
        same_class: Which share of the images got the same class, 0 to 1.
        batches: What came of each size of batch: the largest difference, or why it did not run.
        tolerance: The largest difference that is right, as a share of the largest logit.
    """

    images: int
    difference: float
    largest_logit: float
    same_class: float
    batches: Mapping[int, float | str]
    tolerance: float

    @property
    def is_right(self) -> bool:
        """Whether the export computes what the model computes, for every size of batch."""
        found = [self.difference, *self.batches.values()]
        most = self.tolerance * self.largest_logit
        return all(isinstance(one, float) and one <= most for one in found)

    def __repr__(self) -> str:
        lines = [
            f"{'✔ right' if self.is_right else '✘ wrong'}: {self.same_class:.1%} of"
            f" {self.images:,} images get the same class; logits differ by at most"
            f" {self.difference:.2g}, the largest is {self.largest_logit:.3g}"
        ]
        for batch, found in self.batches.items():
            told = found if isinstance(found, str) else f"at most {found:.2g} apart"
            lines.append(f"  batch of {batch}: {told}")
        return "\n".join(lines)


def check_export(
    model: nn.Module,
    runner: Runner,
    split: Split,
    *,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
) -> ExportCheck:
    """Compare an export with its model on all images of a split, and on batches of some sizes.

    Args:
        model: What the export is to compute.
        runner: The export, e.g. ``runtimes.load(export.content)``.
        split: Real images: one random input tells little.
        batches: How many images are put in at once.
        tolerance: The largest difference of logits that is right, as a share of the largest; of
            an int8 file it is larger than of one in fp32.

    Raises:
        ValueError: There are fewer images than in a batch.
    """
    images = split.images
    if len(images) < max(batches, default=1):
        raise ValueError(f"{len(images)} images cannot make batches of {list(batches)}.")
    with torch.inference_mode():
        model = copy.deepcopy(model).eval()
        parts = np.array_split(images, math.ceil(len(images) / PART))
        wanted = torch.cat([model(torch.from_numpy(part)) for part in parts]).numpy()
    found: dict[int, float | str] = {}
    for batch in batches:
        try:
            found[batch] = float(np.abs(runner(images[:batch]) - wanted[:batch]).max())
        except Exception as error:  # runtimes have classes of their own
            found[batch] = f"does not run: {shorten(str(error).rsplit(' : ', 1)[-1])}"
    size = max((batch for batch in found if isinstance(found[batch], float)), default=0)
    count, difference, same = 0, math.nan, 0.0
    if size:
        count = len(images) // size * size
        calls = np.split(images[:count], count // size)
        logits = np.concatenate([runner(call) for call in calls])
        difference = float(np.abs(logits - wanted[:count]).max())
        same = float(np.mean(logits.argmax(1) == wanted[:count].argmax(1)))
    largest = float(np.abs(wanted).max())
    return ExportCheck(count, difference, largest, same, found, tolerance)
