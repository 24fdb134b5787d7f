"""What a student learns from: a teacher's softened answers, mixed with the labels.

A softmax at a temperature above 1 raises the small probabilities: which wrong classes the teacher
finds likely is what a label does not tell (Hinton, Vinyals & Dean, 2015, arXiv 1503.02531).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(logits / temperature)``, of the same shape; rows sum to 1.

    Args:
        logits: (..., classes) float32.
        temperature: Above 0; 1 leaves the network's own probabilities.

    Raises:
        ValueError: The temperature is not a finite number above 0.
    """
    check_temperature(temperature)
    return (logits / temperature).softmax(dim=-1)


def measure_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each row in bits: (...,), from 0 to log2(classes).

    Args:
        probabilities: (..., classes), rows sum to 1.
    """
    bits: Tensor = torch.special.entr(probabilities).sum(dim=-1) / math.log(2)  # entr(0) is 0
    return bits


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return ``T**2 * KL(teacher || student)`` at a temperature T, in nats, mean over the batch.

    The gradient of the divergence by the student's logits shrinks as 1 / T**2 when T grows: one T
    from the division of the logits, one from probabilities that come closer to each other. The
    factor T**2 undoes that, so that the share of the hard labels means the same at every T.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes).
        temperature: Above 0.

    Raises:
        ValueError: The shapes differ, or the temperature is not a finite number above 0.
    """
    check_temperature(temperature)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"The student's logits are of shape {tuple(student_logits.shape)}, the teacher's of"
            f" {tuple(teacher_logits.shape)}: both need the same texts or images, and"
            " the same classes."
        )
    wanted = (teacher_logits / temperature).log_softmax(dim=1)
    answered = (student_logits / temperature).log_softmax(dim=1)
    divergence = F.kl_div(answered, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    hard_share: float = 0.1,
) -> Tensor:
    """Return ``(1 - hard_share) * soft_loss + hard_share * cross-entropy`` with the labels.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes).
        labels: (batch,) int64.
        temperature: Of the soft part; the hard one has 1.
        hard_share: In [0, 1]: 0 learns from the teacher alone, 1 from the labels alone.

    Raises:
        ValueError: As of ``soft_loss``; or the share is none.
    """
    if not 0 <= hard_share <= 1:
        raise ValueError(f"The share of the hard labels is a number from 0 to 1, not {hard_share}.")
    soft = soft_loss(student_logits, teacher_logits, temperature)
    return (1 - hard_share) * soft + hard_share * F.cross_entropy(student_logits, labels)


def align_classes(
    logits: Tensor, teacher_classes: Sequence[str], student_classes: Sequence[str]
) -> Tensor:
    """Return a teacher's logits in the order of the student's classes.

    Args:
        logits: (..., classes) of the teacher.
        teacher_classes: The name of each of its classes.
        student_classes: The name of each of the student's.

    Raises:
        ValueError: One knows classes that the other does not; they are named. Or two classes of
            one have the same name.
    """
    if len(teacher_classes) != logits.shape[-1]:
        raise ValueError(
            f"{len(teacher_classes)} classes are named, but the teacher returns {logits.shape[-1]}"
            " logits."
        )
    for who, names in (("teacher", teacher_classes), ("student", student_classes)):
        if len(set(names)) < len(names):
            raise ValueError(f"Two classes of the {who} have the same name: {', '.join(names)}.")
    only = {
        "teacher": [name for name in teacher_classes if name not in student_classes],
        "student": [name for name in student_classes if name not in teacher_classes],
    }
    if only["teacher"] or only["student"]:
        told = "; ".join(f"only the {who} knows {', '.join(names)}" for who, names in only.items()
                         if names)  # fmt: skip
        raise ValueError(
            f"Teacher and student do not have the same classes: {told}. A student can only learn"
            " answers to its own question: choose a teacher of these classes."
        )
    if tuple(teacher_classes) == tuple(student_classes):
        return logits
    return logits[..., [list(teacher_classes).index(name) for name in student_classes]]


def check_temperature(temperature: float) -> None:
    """Raise ``ValueError`` unless it is a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"A temperature is a finite number above 0, not {temperature}.")
