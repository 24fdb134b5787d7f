"""Train a student: with its teacher's answers, or alone, in the same steps on the same images."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from course_utils.distill.answers import Answers, Views, check_answers, follow_views
from course_utils.distill.targets import check_temperature, distillation_loss
from course_utils.training import Recipe, train


def train_student(
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    answers: Answers,
    classes: Sequence[str],
    *,
    temperature: float = 4.0,
    hard_share: float = 0.1,
    **settings: Any,
) -> nn.Module:
    """Return a trained copy of the student that has learned its teacher's answers.

    Each epoch shows one of the views that the teacher has answered, in random order; the loss is
    ``distillation_loss`` (Hinton et al., 2015, arXiv 1503.02531).

    Args:
        student: Takes the images and returns logits; another architecture than the teacher's
            serves as well.
        images: (n, 1, height, width) float32 in [0, 1]: those that the teacher was asked about.
        labels: (n,) int64.
        recipe: See ``training.train``; its augmentation is that of the views, whatever it says,
            and its label smoothing is not used.
        answers: From ``cache_answers``.
        classes: The name of each of the student's classes: ``dataset.classes``.
        temperature: Of the soft part.
        hard_share: Of the labels, in [0, 1].
        settings: The rest of ``training.train``: precision, state_file, on_epoch, on_step.

    Raises:
        ValueError: Teacher and student have other classes; they are named. The answers are about
            other images, by number or by digest; or as of ``distillation_loss`` and ``train``.
        training.DivergedError: As of ``training.train``.
    """
    check_temperature(temperature)
    check_answers(answers, images)
    logits = answers.for_classes(classes).logits.float()  # (views, n, classes)

    def loss_of(outputs: Tensor, epoch: int, rows: Tensor, batch: Tensor) -> Tensor:
        wanted = logits[(epoch - 1) % len(logits), rows]
        return distillation_loss(outputs, wanted, labels[rows], temperature, hard_share)

    aim = (
        f"answers of {answers.about.get('weights')} at temperature {temperature:g}, labels"
        f" {100 * hard_share:g}%, {answers.views}"
    )
    draw = follow_views(images, answers.views)
    teach: dict[str, Any] = {"draw": draw, "loss_of": loss_of, "aim": aim}
    return train(student, images, labels, recipe, **teach, **settings)


def train_alone(
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    views: Views,
    **settings: Any,
) -> nn.Module:
    """Return a trained copy of the same student without a teacher: the control.

    It sees the same views in the same order, and takes as many steps; only the loss is another,
    the cross-entropy with the labels, smoothed as the recipe says.

    Args:
        student: See ``train_student``.
        images: See ``train_student``.
        labels: See ``train_student``.
        recipe: See ``train_student``.
        views: Those of the answers that it is compared with.
        settings: See ``train_student``.

    Raises:
        ValueError: As of ``training.train``.
        training.DivergedError: As of ``training.train``.
    """
    draw = follow_views(images, views)
    return train(student, images, labels, recipe, draw=draw, aim=f"alone, {views}", **settings)
