"""Checks of the exercises in lesson 07 on exports: what is wrong with four, and the cure of one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import runtimes
from course_utils.checks.distillation import Case
from course_utils.checks.outcome import Mistake, Outcome, judge
from course_utils.export_clinic import CASES, DARK, GAIN, try_export

# Which case of the clinic a lesson shows under which letter.
SHOWN = {"A": "batch", "B": "median", "C": "smoothing", "D": "brightening"}
CAUSES = {letter: CASES[name].cause for letter, name in SHOWN.items()}
WORDS = [*sorted(CAUSES.values()), "opset too old"]
BATCHES = (1, 2, 7)


def check_causes(attempt: Callable[[], dict[str, str]]) -> Outcome:
    """Check a function that names what is wrong with each of four exports, "A" to "D".

    It tells how many are right; not which, unless a single one is wrong.

    Args:
        attempt: Returns a cause of ``WORDS`` for each letter; case, spaces and hyphens are free.
    """
    name = "Four exports"
    outcome = judge(name, attempt, lambda: CAUSES, [()], _names_all, CAUSE_MISTAKES)
    return replace(outcome, message=f"{name}: all are right.") if outcome.is_solved else outcome


def _letters(written: Any) -> str:
    return "".join(filter(str.isalpha, written.lower())) if isinstance(written, str) else ""


def _read(given: dict[str, str]) -> dict[str, str]:
    return {str(letter).strip().upper(): _letters(cause) for letter, cause in given.items()}


def _wrong_letters(given: dict[str, str]) -> list[str]:
    read = _read(given)
    return [letter for letter, cause in CAUSES.items() if read[letter] != _letters(cause)]


def _names_all(given: Any, right: dict[str, str]) -> bool:
    return set(_read(given)) == set(right) and not _wrong_letters(given)


def _only_wrong(letter: str) -> Callable[..., bool]:
    return lambda given, right: _wrong_letters(given) == [letter]


CAUSE_MISTAKES = [
    Mistake("no dict", lambda given, right: not isinstance(given, dict),
            "It should return a dict.",
            'Return {"A": "...", "B": "...", "C": "...", "D": "..."}, one of the causes for each.'),
    Mistake("other keys", lambda given, right: set(_read(given)) != set(right),
            "The keys of the dict are not the four letters.",
            'The dict needs "A", "B", "C" and "D", and nothing else.'),
    Mistake("other words",
            lambda given, right: not set(_read(given).values()) <= set(map(_letters, WORDS)),
            "At least one of your answers is none of the causes.",
            f"They are: {', '.join(WORDS)}."),
    Mistake("A is wrong", _only_wrong("A"), "Three of four are right. Look at A again.",
            "Two numbers are in the message: what was put in, and what the graph expects."),
    Mistake("B is wrong", _only_wrong("B"), "Three of four are right. Look at B again.",
            "Whose translation is missing? `aten` is the name of PyTorch's own operators."),
    Mistake("C is wrong", _only_wrong("C"), "Three of four are right. Look at C again.",
            "Every batch runs, and every answer is off. What has the network seen before yours?"),
    Mistake("D is wrong", _only_wrong("D"), "Three of four are right. Look at D again.",
            "The error shows the line of the model. What does Python have to know there?"),
    Mistake("two are right", lambda given, right: len(_wrong_letters(given)) == 2,
            "Two of four are right.",
            "Which of them stop the export, and which let it pass? Look at both groups."),
    Mistake("one is right", lambda given, right: len(_wrong_letters(given)) == 3,
            "One of four is right.",
            "For each: does it say what it could not do, or that numbers are not the same?"),
    Mistake("none is right", lambda given, right: len(_wrong_letters(given)) == 4,
            "None of the four is right yet.",
            "Read the first line of each aloud. Which words of the list does it remind you of?"),
]  # fmt: skip


def check_cured(attempt: Callable[[Tensor], Tensor]) -> Outcome:
    """Check a function that brightens each dark image: by its results, and by an export of it.

    Args:
        attempt: Takes images (batch, channels, rows, columns) and returns such.
    """

    def attempt_with_export(images: Tensor) -> Any:
        given = attempt(images)
        return _Answer(given, attempt) if isinstance(given, Tensor) else given

    return judge(
        "A cure that exports",
        attempt_with_export,
        _Task,
        CURE_CASES,
        lambda given, task: isinstance(given, _Answer) and task.is_solved_by(given),
        CURE_MISTAKES,
        must_keep_arguments=True,
    )


def _images(*levels: float) -> Case:
    """Return an image of 2×3 for each level: grey, but for one pixel that is almost white."""
    pixels = torch.tensor(levels).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 3)
    pixels[:, :, 0, 0] = 0.9
    return Case((pixels,))


CURE_CASES = [
    _images(0.05, 0.9, 0.6, 0.0),  # two are dark, all together are not
    _images(0.05, 0.0, 0.3, 0.02),  # all together are dark, one is not
    _images(0.05),
    _images(0.6),
    Case((torch.tensor([0.1, 0.9, 0.05, 0.3]).reshape(2, 2, 1, 1).repeat(1, 1, 2, 2),)),
    Case((torch.full((2, 1, 2, 4), DARK),)),  # exactly at the border
    Case((torch.cat([torch.zeros(1, 1, 4, 5), torch.full((1, 1, 4, 5), 0.19),
                     torch.eye(4, 5).reshape(1, 1, 4, 5)]),)),  # this one is exported too
]  # fmt: skip


@dataclass(frozen=True)
class _Answer:
    """The images that an attempt returned, and the attempt."""

    images: Tensor
    attempt: Callable[[Tensor], Tensor]

    def __str__(self) -> str:
        return str(self.images)

    @cached_property
    def failure(self) -> str:
        """How an export of the attempt fails; nothing if it computes the same.

        The first word is "refused" (then comes the error), "unknown" to ONNX Runtime, "batch" (the
        size of the example is baked in) or "different".
        """
        images = torch.rand(7, 1, 4, 5, generator=torch.Generator().manual_seed(0)).numpy()
        images[::2] *= 0.3
        export = try_export(_Wrapper(self.attempt), images[:3])
        if not export.content:
            return f"refused {export.error}"
        try:
            runner = runtimes.load(export.content)
        except ValueError:
            return "unknown"
        for batch in BATCHES:
            wanted = _brighten(torch.from_numpy(images[:batch])).numpy()
            try:
                got = runner(images[:batch])
            except Exception:  # ONNX Runtime has classes of its own
                return "batch"
            if got.shape != wanted.shape or not np.allclose(got, wanted, atol=1e-5):
                return "different"
        return ""


class _Wrapper(nn.Module):
    """Lets a function be exported."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


@dataclass(frozen=True)
class _Task:
    """Images, and what can be said about an answer to them."""

    images: Tensor

    def __str__(self) -> str:
        return str(_brighten(self.images))

    @property
    def is_exported(self) -> bool:
        return torch.equal(self.images, CURE_CASES[-1][0])

    def is_solved_by(self, given: _Answer) -> bool:
        is_right = _is_near(given.images, _brighten(self.images))
        return is_right and not (self.is_exported and given.failure)


def _brighten(
    images: Tensor,
    dark: float = DARK,
    gain: float = GAIN,
    most: float | None = 1.0,
    level: Callable[[Tensor], Tensor] = lambda images: images.mean(dim=(1, 2, 3), keepdim=True),
) -> Tensor:
    brighter = gain * images if most is None else (gain * images).clamp(max=most)
    return torch.where(level(images) < dark, brighter, images)


def _is_near(given: Tensor, right: Tensor) -> bool:
    return given.shape == right.shape and torch.allclose(given.double(), right.double(), atol=1e-5)


def _brightens(*ways: Callable[[Tensor], Tensor]) -> Callable[..., bool]:
    """Return the question whether the images are what one of these makes of them."""
    return lambda given, task, *_: (
        not _is_near(given.images, _brighten(task.images))
        and any(_is_near(given.images, way(task.images)) for way in ways)
    )


def _fails(word: str) -> Callable[..., bool]:
    return lambda given, task, *_: task.is_exported and given.failure.startswith(word)


CURE_MISTAKES = [
    Mistake("no tensor", lambda given, *_: not isinstance(given, _Answer),
            "It should return a tensor of images.", "What is the type of your result?"),
    Mistake("other shape", lambda given, task, *_: given.images.shape != task.images.shape,
            "The result has another shape than the images.",
            "Each image stays an image. Does something flatten, or leave images out?"),
    Mistake("border", _brightens(lambda images: _brighten(images, dark=DARK + 1e-6)),
            "An image whose mean is exactly at the border is brightened.", "`<` or `<=`?"),
    Mistake("all alike",
            _brightens(lambda images: _brighten(images, level=lambda all_of: all_of.mean()),
                       lambda images: _brighten(images, dark=2), lambda images: images),
            "All images of a batch are treated alike.",
            "`images.mean()` is one number for the whole batch. Over which axes is the mean of"
            " each image?"),
    Mistake("mean over other axes",
            _brightens(lambda images: _brighten(images, level=lambda i: i.mean((2, 3), True)),
                       lambda images: _brighten(images, level=lambda i: i.mean(-1, True)),
                       lambda images: _brighten(images, level=lambda i: i)),
            "Parts of an image are brightened, others are not.",
            "Is your mean one number for each image? `keepdim=True` keeps its axes."),
    Mistake("bright for dark", _brightens(lambda images: torch.where(
                images.mean((1, 2, 3), keepdim=True) < DARK, images, (GAIN * images).clamp(max=1))),
            "You brighten the images that are not dark.",
            "`torch.where(condition, a, b)`: which of the two is taken where it holds?"),
    Mistake("not clamped", _brightens(lambda images: _brighten(images, most=None)),
            "Some pixels are brighter than white.", "What is the largest value of a pixel?"),
    Mistake("cannot be exported", _fails("refused"),
            "It computes the right thing in PyTorch, but it still cannot be exported.",
            "Does Python ask a tensor for its value somewhere, as `if` does? Both ways can be"
            " computed, and each image chooses."),
    Mistake("cannot be run", _fails("unknown"),
            "It exports, but ONNX Runtime cannot run what comes out.",
            "Do you leave PyTorch in between, or mix float32 with float64? Stay in one of them."),
    Mistake("fixed batch", _fails("batch"),
            "It exports, but the graph takes batches of one size only.",
            "A Python loop over images is written down as often as it ran. What works on all of"
            " them at once?"),
    Mistake("exported another", _fails("different"),
            "It exports, but the graph computes something else.",
            "What was different when it was exported: a number that Python kept?"),
]  # fmt: skip
