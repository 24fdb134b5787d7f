"""The data of the course. Everything is in the repository; nothing is ever downloaded."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import numpy as np

from course_utils import verified
from course_utils.wordpiece import WordPiece


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
    """

    images: np.ndarray
    labels: np.ndarray

    unit: ClassVar[str] = "images"  # what they are, in words

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
            pixels = stored["columns"].transpose(0, 2, 1)  # (n, height, width), uint8
            images = np.divide(pixels[:, None], 255, dtype=np.float32, order="C")
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


GLOSS_CLASSES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event",
    "noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object",
    "noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process",
    "noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time",
    "verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition",
    "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion",
    "verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl",
)  # fmt: skip
GLOSS_LENGTH = 32  # tokens
GLOSS_COUNTS = {"test": 8000, "validation": 4000}  # the rest is for training


@dataclass(frozen=True)
class TextSplit(Split):
    """Texts as token ids, and their labels.

    The ids stand where an image classifier has its images, as float32, which holds whole numbers
    up to 16 million exactly: so whatever takes a split or a batch of images takes texts too.

    Attributes:
        images: (n, GLOSS_LENGTH) float32, whole numbers.
        labels: (n,) int64.
        texts: The n texts themselves.
    """

    texts: tuple[str, ...]

    unit: ClassVar[str] = "texts"

    def first(self, count: int) -> "TextSplit":
        """Return the first ``count`` texts (the splits are stored in random order).

        Raises:
            ValueError: ``count`` is not between 1 and the size of the split.
        """
        part = super().first(count)
        return TextSplit(part.images, part.labels, self.texts[:count])


class Glosses(Dataset):
    """Definitions of WordNet in three disjoint splits, each encoded when it is first used.

    Attributes:
        name: As published, and how many pieces the tokenizer knows.
        classes: Name of each label.
        tokenizer: What reads the texts.
    """

    def __init__(self, tokenizer: WordPiece) -> None:
        """Take the tokenizer of the encoder that shall read the definitions."""
        pieces = f"{len(tokenizer.pieces):,} pieces"
        super().__init__(f"WordNet 3.0 glosses, {pieces}", "glosses", GLOSS_CLASSES)
        self.tokenizer = tokenizer

    @cached_property
    def train(self) -> TextSplit:
        """The definitions that are in neither of the others."""
        return self._read("train")

    @cached_property
    def validation(self) -> TextSplit:
        """4,000 definitions to choose settings by."""
        return self._read("validation")

    @property
    def calibration(self) -> TextSplit:
        """The validation split: neither trained nor tested on."""
        return self.validation

    @cached_property
    def test(self) -> TextSplit:
        """8,000 definitions that nothing was trained or chosen on."""
        return self._read("test")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids of any texts, (n, GLOSS_LENGTH) float32; longer ones lose their end.

        Raises:
            ValueError: This is one text, not a list of texts.
        """
        if isinstance(texts, str):
            raise ValueError(f"A list of texts is needed: write encode([{texts[:20]!r}]).")
        rows = [self.tokenizer.encode(text, GLOSS_LENGTH) for text in texts]
        return np.array(rows, np.float32).reshape(-1, GLOSS_LENGTH)

    def _read(self, part: str) -> TextSplit:
        texts, labels = read_glosses()[part]
        return TextSplit(self.encode(texts), np.array(labels, np.int64), tuple(texts))


def load_glosses(tokenizer: WordPiece | None = None) -> Glosses:
    """Return the definitions of WordNet 3.0 (Fellbaum, 1998), to be classified by their kind.

    "a tool for cutting bread" is a noun.artifact: the classes are the 45 files in which WordNet's
    lexicographers worked. 8,000 definitions are for testing, 4,000 for validation; no definition
    stands in two splits. The token ids are float32, so that everything in the course that takes
    batches of images takes them: see ``TextSplit``. A damaged file raises
    ``course_utils.verified.DamagedFileError`` when it is first used.

    Args:
        tokenizer: Of another encoder than the course's own.
    """
    return Glosses(tokenizer or load_vocabulary())


@cache
def load_vocabulary() -> WordPiece:
    """Return the tokenizer of the course's own encoder."""
    return WordPiece(verified.read("encoder/vocab.txt").decode().splitlines())


@cache
def read_glosses() -> dict[str, tuple[list[str], list[int]]]:
    """Return texts and labels of "test", "validation" and "train".

    The order is that of the texts' sha256: random, but the same everywhere and for ever.
    """
    content = verified.read("glosses/glosses.txt").decode()
    rows = [line.split("\t") for line in content.splitlines()]
    rows.sort(key=lambda row: hashlib.sha256(row[1].encode()).digest())
    parts, start = {}, 0
    for part, count in {**GLOSS_COUNTS, "train": len(rows)}.items():
        chosen = rows[start : start + count]
        parts[part] = [text for _, text in chosen], [int(label) for label, _ in chosen]
        start += count
    return parts
