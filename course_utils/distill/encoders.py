"""Distil an encoder: its answers, and on the way to them its hidden states and attention.

One variant of what TinyBERT does (Jiao et al., 2020, arXiv 1909.10351): each block of the student
has a block of the teacher to follow, evenly spread; the student's hidden states, projected, shall
be the teacher's, and each of its tokens shall look where the teacher's looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.datasets import TextSplit
from course_utils.distill.answers import Answers, check_answers, digest_weights
from course_utils.distill.targets import check_temperature, distillation_loss
from course_utils.encoder import HIDDEN, Block, Encoder
from course_utils.finetuning import TextRecipe, finetune


@dataclass(frozen=True)
class Inside:
    """What an encoder computes on the way to its logits.

    Attributes:
        hidden: Of the embeddings and after each block, each (batch, length, width).
        attention: Of each block, (batch, heads, length, length), rows sum to 1.
        logits: (batch, classes).
    """

    hidden: list[Tensor]
    attention: list[Tensor]
    logits: Tensor


def look_inside(encoder: Encoder, ids: Tensor) -> Inside:
    """Return hidden states, attention and logits of an encoder.

    Args:
        encoder: Of any number of blocks.
        ids: (batch, length) float32.
    """
    length = ids.shape[1]
    is_hidden = ids.eq(0).float()[:, None, None] * HIDDEN  # (batch, 1, 1, length), for [PAD]
    x = encoder.norm(encoder.tokens(ids.long()) + encoder.positions[:length]).flatten(0, 1)
    states, attention = [x], []
    for block in encoder.blocks:
        assert isinstance(block, Block)
        shares, _ = block.attention.attend(x, is_hidden)
        attention.append(shares)
        x = block(x, is_hidden)
        states.append(x)
    hidden = [state.view(len(ids), length, -1) for state in states]
    weights = ids.ne(0).float()[:, :, None] + 1e-9  # as in ``Encoder.embed``
    pooled = (hidden[-1] * weights).sum(dim=1) / weights.sum(dim=1)
    return Inside(hidden, attention, encoder.head(pooled))


def match_blocks(student_blocks: int, teacher_blocks: int) -> list[int]:
    """Return which block of the teacher each of the student's follows, evenly spread.

    The last follows the last: of a teacher of four blocks, 2 blocks follow the second and the
    fourth, [1, 3].

    Raises:
        ValueError: The student has no blocks, or more than the teacher.
    """
    if not 1 <= student_blocks <= teacher_blocks:
        raise ValueError(
            f"A student of {student_blocks} blocks cannot follow a teacher of {teacher_blocks}: it"
            " needs at least one, and no more than the teacher."
        )
    return [(block + 1) * teacher_blocks // student_blocks - 1 for block in range(student_blocks)]


class Transfer(nn.Module):
    """How far a student's hidden states and attention are from its teacher's.

    Attributes:
        project: From the student's width to the teacher's; learned with the student.
        follows: The teacher's block for each of the student's.
    """

    def __init__(self, student: Encoder, teacher: Encoder) -> None:
        """Start with a projection that changes nothing where the widths are the same.

        Raises:
            ValueError: The student has more blocks than the teacher; or its heads are not as many
                in a block as those of the teacher's block that it follows.
        """
        super().__init__()
        self.follows = match_blocks(len(student.blocks), len(teacher.blocks))
        wanted = [teacher.sizes.heads[block] for block in self.follows]
        if list(student.sizes.heads) != wanted:
            raise ValueError(
                f"The student's blocks have {list(student.sizes.heads)} heads, those that they"
                f" follow {wanted}: attention can only be compared head by head."
            )
        self.project = nn.Linear(student.sizes.width, teacher.sizes.width, bias=False)
        nn.init.eye_(self.project.weight)

    def forward(self, student: Inside, teacher: Inside, ids: Tensor) -> Tensor:
        """Return the mean squared error of hidden states and of attention, without [PAD]: a number.

        The attention's is summed over where a token looks, since its shares sum to 1.
        """
        is_word = ids.ne(0).float()  # (batch, length)
        words = is_word.sum()
        loss = torch.zeros(())
        pairs = [(0, 0), *((mine + 1, theirs + 1) for mine, theirs in enumerate(self.follows))]
        for mine, theirs in pairs:
            apart = (self.project(student.hidden[mine]) - teacher.hidden[theirs]).float()
            loss = loss + (apart.square().mean(dim=2) * is_word).sum() / words
        for mine, theirs in enumerate(self.follows):
            apart = (student.attention[mine] - teacher.attention[theirs]).float()
            by_token = apart.square().sum(dim=3).mean(dim=1)  # (batch, length)
            loss = loss + (by_token * is_word).sum() / words
        return loss


def finetune_student(
    student: nn.Module,
    split: TextSplit,
    recipe: TextRecipe,
    answers: Answers,
    classes: Sequence[str],
    *,
    temperature: float = 2.0,
    hard_share: float = 0.3,
    inside_of: Encoder | None = None,
    inside_weight: float = 1.0,
    **settings: Any,
) -> nn.Module:
    """Return a fine-tuned copy of a student that has learned its teacher's answers.

    Without a teacher, the same student is fine-tuned by ``finetuning.finetune``.

    Args:
        student: Takes token ids and returns logits; an encoder only if ``inside_of`` is given.
        split: Texts that the teacher was asked about.
        recipe: See ``finetuning.finetune``; its label smoothing is not used.
        answers: From ``cache_answers``, in one view.
        classes: The name of each of the student's classes.
        temperature: Of the soft part.
        hard_share: Of the labels, in [0, 1].
        inside_of: The teacher that answered, whose hidden states and attention the student shall
            follow too; it runs in each step. None: answers only.
        inside_weight: Of that part of the loss.
        settings: The rest of ``finetuning.finetune``: precision, state_file, on_step, on_epoch.

    Raises:
        ValueError: The answers are about other texts, of other classes, or of several views; the
            inside is of another teacher, or the student no encoder; or as of ``distillation_loss``,
            ``Transfer`` and ``finetune``.
        training.DivergedError: As of ``finetune``.
    """
    check_temperature(temperature)
    check_answers(answers, torch.from_numpy(split.images))
    if answers.views.count != 1:
        raise ValueError(f"Texts have one view, but the teacher answered {answers.views.count}.")
    logits = answers.for_classes(classes).logits[0].float()  # (n, classes)
    labels = torch.from_numpy(split.labels)
    transfer = None
    if inside_of is not None:
        if digest_weights(inside_of) != answers.about.get("weights"):
            raise ValueError("The answers are of another teacher than `inside_of`: ask that one.")
        if not isinstance(student, Encoder):
            raise ValueError(
                f"A {type(student).__name__} has no attention that could follow the teacher's: let"
                " it learn from the answers alone, inside_of=None."
            )
        transfer = Transfer(student, inside_of)

    def loss_of(learner: nn.Module, ids: Tensor, rows: Tensor) -> Tensor:
        def compare(outputs: Tensor) -> Tensor:
            return distillation_loss(
                outputs.float(), logits[rows], labels[rows], temperature, hard_share
            )

        if transfer is None or inside_of is None:
            return compare(learner(ids))  # not an encoder, or not to be looked into
        assert isinstance(learner, Encoder)
        inside = look_inside(learner, ids)
        with torch.no_grad():
            wanted = look_inside(inside_of, ids)
        apart: Tensor = transfer(inside, wanted, ids)
        return compare(inside.logits) + inside_weight * apart

    aim = (
        f"answers of {answers.about.get('weights')} at temperature {temperature:g}, labels"
        f" {100 * hard_share:g}%" + (f", inside {inside_weight:g}" if inside_of is not None else "")
    )
    return finetune(
        student, split, recipe, loss_of=loss_of, extra=transfer, aim=aim, **settings
    )  # fmt: skip
