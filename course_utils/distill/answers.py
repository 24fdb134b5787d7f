"""A teacher's answers, computed once and kept: its students then train as fast as without it.

The images are augmented in a few fixed ways (views), and the teacher answers each: a student
sees the same view that the teacher saw, as it must (Beyer et al., 2022, arXiv 2106.05237).
Answers are kept as float16, 20 bytes for ten classes, beside where they are from.
"""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm import tqdm

from course_utils import fingerprint, machine, verified
from course_utils.distill.targets import align_classes
from course_utils.folders import cache_folder
from course_utils.mixed_precision import autocast
from course_utils.models import read_metadata
from course_utils.training import Recipe, augment, describe_architecture

BATCH = 500
LARGEST = 65504.0  # of float16


@dataclass(frozen=True)
class Views:
    """How inputs are varied before the teacher answers them.

    Attributes:
        count: How many views there are of each image. Students go through them, a view an epoch,
            and begin again.
        flip: Whether half of the images are mirrored.
        shift_pixels: Along each axis, at most.
        erase_pixels: Side of a square that is blanked out; 0 for none.
    """

    count: int = 1
    flip: bool = False
    shift_pixels: int = 0
    erase_pixels: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"At least one view is needed, not {self.count}.")

    def draw(self, images: Tensor, view: int) -> Tensor:
        """Return all images as they are in a view: the same each time.

        Args:
            images: (n, 1, height, width) in [0, 1]; where nothing is to be varied, of any shape.
            view: From 0 to ``count`` - 1.
        """
        if not (self.flip or self.shift_pixels or self.erase_pixels):
            return images
        settings = {name: value for name, value in asdict(self).items() if name != "count"}
        recipe = Recipe(epochs=1, **settings)
        generator = torch.Generator().manual_seed(view)
        parts = [augment(part, recipe, generator) for part in torch.split(images, 10 * BATCH)]
        return torch.cat(parts)


@dataclass(frozen=True)
class Answers:
    """What a teacher says about the images of a split.

    Attributes:
        logits: (views, n, classes) float16.
        views: How the images were varied.
        classes: The name of each class.
        about: Where they are from: the teacher, its digest, that of the images, machine, date.
    """

    logits: Tensor
    views: Views
    classes: tuple[str, ...]
    about: dict[str, str]

    def for_classes(self, classes: Sequence[str]) -> "Answers":
        """Return them in the order of a student's classes; see ``align_classes``."""
        logits = align_classes(self.logits, self.classes, classes)
        return Answers(logits, self.views, tuple(classes), self.about)


def cache_answers(
    teacher: nn.Module,
    images: Tensor,
    classes: Sequence[str],
    views: Views | None = None,
    *,
    file: Path | None = None,
    precision: str = "fp32",
) -> Answers:
    """Return what a teacher says about images, from a file if it has been asked before.

    After each view the file is written anew, all of it or nothing: what was broken off goes on.

    Args:
        teacher: Takes float32 inputs, (n, ...), and returns logits (n, classes). A copy of it is
            asked, in evaluation mode.
        images: (n, 1, height, width) float32 in [0, 1], or (n, positions) token ids.
        classes: The name of each of the teacher's classes.
        views: How to vary them; None: not at all, one view.
        file: Where the answers are kept; None: in the course's cache folder, under a name made of
            the digests of teacher and images.
        precision: In which the teacher's layers compute; a key of ``mixed_precision.PRECISIONS``.

    Raises:
        ValueError: The file holds the answers of another teacher, to other images, in other views
            or precision, or is damaged; or the answers are no finite numbers.
    """
    views = views or Views()
    teacher = copy.deepcopy(teacher).eval()
    about = describe_question(teacher, images, classes, views, precision)
    if file is None:
        file = cache_folder() / "answers" / f"{fingerprint.of(about)}.safetensors"
    found: list[Tensor] = []
    noted = {"made_on": str(machine.describe()), "date": date.today().isoformat()}
    if file.exists():
        cure = f"Remove {file}, or name another file, to ask the teacher anew."
        found, noted = read_answers(file.read_bytes(), str(file), about, cure)
    missing = range(len(found), views.count)
    for view in tqdm(missing, desc="asking the teacher", unit="view", disable=not missing):
        found.append(_ask(teacher, views.draw(images, view), precision))
        if found[0].shape[1] != len(classes):
            raise ValueError(
                f"The teacher returns {found[0].shape[1]} logits, but {len(classes)} classes are"
                " named."
            )
        _write(file, found, {**about, **noted})
    return Answers(torch.stack(found), views, tuple(classes), {**about, **noted})


def load_answers(name: str, teacher: nn.Module, images: Tensor) -> Answers:
    """Return answers that the course ships.

    Args:
        name: Of the file in ``data/answers``, without its ending.
        teacher: Who must have given them.
        images: That they must be about.

    Raises:
        ValueError: They are of another teacher, or about other images.
        course_utils.verified.DamagedFileError: The file is missing or damaged.
    """
    content = verified.read(f"answers/{name}.safetensors")
    noted = read_metadata(content)
    views, classes = Views(**json.loads(noted["views"])), json.loads(noted["classes"])
    about = describe_question(teacher, images, classes, views, noted["precision"])
    cure = "They are of this course and stay: ask your own teacher by distill.cache_answers."
    logits, noted = read_answers(content, f"data/answers/{name}.safetensors", about, cure)
    return Answers(torch.stack(logits), views, tuple(classes), {**about, **noted})


def describe_question(
    teacher: nn.Module, images: Tensor, classes: Sequence[str], views: Views, precision: str
) -> dict[str, str]:
    """Return who was asked what: all that answers depend on, in words and digests."""
    return {
        "teacher": describe_architecture(teacher),
        "weights": digest_weights(teacher),
        "images": f"{len(images):,} ({fingerprint.of(images)})",
        "views": json.dumps(asdict(views)),
        "classes": json.dumps(list(classes)),
        "precision": precision,
    }


def digest_weights(model: nn.Module) -> str:
    """Return a digest of a model's weights and statistics, by which answers know their teacher."""
    return fingerprint.of(dict(model.named_parameters()), dict(model.named_buffers()))


def check_answers(answers: Answers, images: Tensor) -> None:
    """Raise ``ValueError`` unless the answers are about these images, in this order, in all views.

    Args:
        answers: From ``cache_answers``.
        images: What a student is to learn from, of any shape (n, ...).
    """
    asked = f"{len(images):,} ({fingerprint.of(images)})"
    if answers.about["images"] != asked:
        raise ValueError(
            "The teacher was asked about other images: its answers are about"
            f" {answers.about['images']}, but these are {asked}. Ask it about these:"
            " distill.cache_answers(teacher, images, classes)."
        )
    if len(answers.logits) != answers.views.count:
        raise ValueError(
            f"There are answers to {len(answers.logits)} of {answers.views.count} views: ask the"
            " teacher about all of them."
        )


@torch.inference_mode()
def _ask(teacher: nn.Module, images: Tensor, precision: str) -> Tensor:
    """Return a teacher's logits as float16, (n, classes)."""
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in training
    with autocast(precision):
        logits = torch.cat([teacher(batch).float() for batch in torch.split(images, BATCH)])
    if not logits.isfinite().all():
        raise ValueError("The teacher's answers are no finite numbers: its weights or images hold"
                         " NaN or infinity.")  # fmt: skip
    return logits.clamp(-LARGEST, LARGEST).half()


def read_answers(
    content: bytes, source: str, about: Mapping[str, str], cure: str
) -> tuple[list[Tensor], dict[str, str]]:
    """Return the views in a file, if it is one of this teacher and these images; and its notes.

    Args:
        content: Of the file.
        source: Its name, for errors.
        about: From ``describe_question``.
        cure: What to do about a file that does not fit.

    Raises:
        ValueError: It is no such file, of another question, or damaged.
    """
    try:
        noted = read_metadata(content)
        stored = load(content)
        logits = [stored[f"view{view}"] for view in range(len(stored))]
    except Exception as error:  # safetensors has classes of its own
        raise ValueError(f"{source} holds no teacher's answers ({error!s:.80}). {cure}") from None
    for what, wanted in about.items():
        if noted.get(what) != wanted:
            raise ValueError(
                f"{source} holds answers of another kind ({what}): {noted.get(what)}, wanted:"
                f" {wanted}. {cure}"
            )
    if noted.get("digest") != fingerprint.of(logits):
        raise ValueError(
            f"{source} is damaged: its answers are not those that were written. {cure}"
        )
    return logits, {name: noted[name] for name in ("made_on", "date") if name in noted}


def _write(file: Path, logits: list[Tensor], about: dict[str, str]) -> None:
    """Write all views that there are, or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"view{view}": one for view, one in enumerate(logits)}
    part = file.with_suffix(".part")
    part.write_bytes(save(tensors, {**about, "digest": fingerprint.of(logits)}))
    os.replace(part, file)


def follow_views(images: Tensor, views: Views) -> Callable[[int, Tensor], Tensor]:
    """Return ``draw(epoch, rows)`` for ``training.train``: the view of an epoch, its rows.

    Args:
        images: (n, 1, height, width) float32 in [0, 1].
        views: How they are varied; epoch 1 has view 0.
    """
    drawn: tuple[int, Tensor] | None = None

    def draw(epoch: int, rows: Tensor) -> Tensor:
        nonlocal drawn
        view = (epoch - 1) % views.count
        if drawn is None or drawn[0] != view:
            drawn = view, views.draw(images, view)
        return drawn[1][rows]

    return draw
