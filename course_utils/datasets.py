"""The data of the course. Everything is in the repository; nothing is ever downloaded."""

import io
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one dataset.

    Attributes:
        train: A balanced subset of the published training images, for fine-tuning.
        calibration: Images that only set ranges; never trained or tested on in a lesson.
        test: All published test images.
        classes: Name of each label.
    """

    name: str
    train: Split
    calibration: Split
    test: Split
    classes: tuple[str, ...]

    @property
    def example(self) -> np.ndarray:
        """One test image as a batch, (1, 1, height, width): what a latency is measured on."""
        return self.test.images[:1]


FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def load_fashion() -> Dataset:
    """Return Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017, arXiv 1708.07747).

    28x28 grey images of ten kinds of clothing: 12,000 for training, 1,000 for calibration
    and the published 10,000 for testing.

    Raises:
        course_utils.verified.DamagedFileError: A data file is missing or damaged.
    """
    splits = {}
    for part in ("train", "calibration", "test"):
        with np.load(io.BytesIO(verified.read(f"fashion/{part}.npz"))) as stored:
            images = stored["images"][:, None].astype(np.float32) / 255
            splits[part] = Split(images, stored["labels"].astype(np.int64))
    return Dataset("Fashion-MNIST", classes=FASHION_CLASSES, **splits)
