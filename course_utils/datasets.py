"""The data of the course. Everything is in the repository; nothing is ever downloaded."""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from course_utils import verified


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """Return the first ``count`` images (the splits are stored in random order).

        Raises:
            ValueError: ``count`` is not between 1 and the size of the split.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"This split has {len(self)} images; {count} cannot be taken from it.")
        return Split(self.images[:count], self.labels[:count])


class Dataset:
    """Three disjoint splits of one dataset, each read when it is first used.

    Attributes:
        name: As published.
        classes: Name of each label.
    """

    def __init__(self, name: str, folder: str, classes: tuple[str, ...]) -> None:
        """Take the splits from the files below ``data/<folder>``."""
        self.name = name
        self.classes = classes
        self._folder = folder

    @cached_property
    def train(self) -> Split:
        """A balanced subset of the published training images, for fine-tuning."""
        return self._read("train")

    @cached_property
    def calibration(self) -> Split:
        """Images that only set ranges; never trained or tested on in a lesson."""
        return self._read("calibration")

    @cached_property
    def test(self) -> Split:
        """All published test images."""
        return self._read("test")

    def _read(self, part: str) -> Split:
        with np.load(io.BytesIO(verified.read(f"{self._folder}/{part}.npz"))) as stored:
            images = np.divide(stored["images"][:, None], 255, dtype=np.float32)
            return Split(images, stored["labels"].astype(np.int64))


FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def load_fashion() -> Dataset:
    """Return Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017, arXiv 1708.07747).

    28x28 grey images of ten kinds of clothing: 12,000 for training, 1,000 for calibration
    and the published 10,000 for testing. A split that is missing or damaged raises
    ``course_utils.verified.DamagedFileError`` when it is first used.
    """
    return Dataset("Fashion-MNIST", "fashion", FASHION_CLASSES)
