"""Check of the exercise in lesson 05 on the loss of a student that has a teacher."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.checks.outcome import Mistake, Outcome, judge
from course_utils.distill import distillation_loss


def check_loss(attempt: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> Outcome:
    """Check a function that returns the loss of a student, and the gradient of that loss.

    Args:
        attempt: Takes the student's and the teacher's logits (batch, classes), the labels
            (batch,), the temperature and the share of the labels; returns a scalar tensor.
    """

    def attempt_with_gradient(student: Tensor, *others: Any) -> Any:
        given = attempt(student.requires_grad_(), *others)
        return _Answer(given, student) if isinstance(given, Tensor) else given

    return judge(
        "The distillation loss",
        attempt_with_gradient,
        _Task,
        CASES,
        lambda given, task: task.is_solved_by(given),
        LOSS_MISTAKES,
        must_keep_arguments=True,
    )


class Case(tuple[Any, ...]):
    """Arguments of a call that can be compared, so that a changed tensor or array is seen."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and all(
            torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))
            for mine, theirs in zip(self, other, strict=True)
        )


_FEW = torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 1.5]])
CASES = [
    Case((  # no two ways to go wrong give the same number
        torch.tensor([[2.5, 1.0, -0.5, -2.0], [0.5, 1.25, 2.0, -1.0], [-1.5, 0.25, 1.0, 0.75]]),
        torch.tensor([[4.0, 3.0, -1.0, -3.0], [-2.0, 2.5, 1.5, 0.0], [-4.0, 1.75, 0.5, 3.25]]),
        torch.tensor([0, 2, 1]), 2.5, 0.25,
    )),
    Case((
        torch.tensor([[1.5, -0.5], [0.25, 0.75], [-1.0, 2.0], [3.0, 1.0], [0.5, 0.0]]),
        torch.tensor([[3.0, -2.0], [1.25, 0.5], [-3.0, 4.0], [2.0, 2.5], [-0.5, 1.5]]),
        torch.tensor([0, 1, 1, 0, 1]), 0.5, 0.75,
    )),
    *(Case((_FEW, 2 * _FEW.flip(0), torch.tensor([1, 2]), 4.0, end)) for end in (0.0, 1.0)),
    Case((  # most probabilities are rounded to 0
        torch.tensor([[-1000.0, 1000.0, 0.0], [500.0, -250.0, 1000.0]]),
        torch.tensor([[1000.0, 0.0, -1000.0], [750.0, -500.0, -1000.0]]),
        torch.tensor([0, 1]), 2.0, 0.5,
    )),
]  # fmt: skip


@dataclass(frozen=True)
class _Answer:
    """The tensor that an attempt returned, and the student's logits that it was given."""

    loss: Tensor
    student: Tensor

    def __str__(self) -> str:
        return str(self.loss)

    @cached_property
    def gradient(self) -> Tensor | None:
        try:
            return torch.autograd.grad(self.loss, self.student, allow_unused=True)[0]
        except RuntimeError:  # there is none, or the attempt has used it up
            return None


@dataclass(frozen=True)
class _Task:
    """The arguments of a call, and what can be said about an answer to it."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    temperature: float
    hard_share: float

    def __str__(self) -> str:
        return f"{self.right.loss.item():.6g}"

    @cached_property
    def right(self) -> _Answer:
        leaf = self.student.clone().requires_grad_()
        others = self.teacher, self.labels, self.temperature, self.hard_share
        return _Answer(distillation_loss(leaf, *others), leaf)

    @property
    def wanted(self) -> Tensor:  # (batch, classes)
        return _say(self.teacher, self.temperature)

    @property
    def answered(self) -> Tensor:  # (batch, classes)
        return _say(self.student, self.temperature)

    @property
    def soft(self) -> Tensor:
        return _diverge(self.wanted, self.answered)

    @property
    def hard(self) -> Tensor:
        return self.grade(self.student)

    def diverge_at(self, teachers: float, students: float, axis: int = 1) -> Tensor:
        """Return the divergence at other temperatures, or with a softmax along another axis."""
        return _diverge(_say(self.teacher, teachers, axis), _say(self.student, students, axis))

    def grade(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.double(), self.labels)

    def mix(self, soft: Tensor, hard: Tensor, power: int = 2) -> Tensor:
        """Return the loss of other parts, or with another power of the temperature."""
        weighted = self.temperature**power * (1 - self.hard_share) * soft
        return weighted + self.hard_share * hard

    def is_solved_by(self, given: Any) -> bool:
        return isinstance(given, _Answer) and self.has_value(given) and self.has_gradient(given)

    def has_value(self, given: _Answer) -> bool:
        return given.loss.shape == () and _is_close(given.loss, self.right.loss)

    def has_gradient(self, given: _Answer) -> bool:
        mine, right = given.gradient, self.right.gradient
        if mine is None or right is None:
            return False
        return torch.allclose(mine, right, rtol=1e-3, atol=1e-5)


def _is_close(given: Tensor, right: Tensor) -> bool:
    return math.isclose(given.item(), right.item(), rel_tol=1e-4, abs_tol=1e-6)


def _say(logits: Tensor, temperature: float, axis: int = 1) -> Tensor:
    return (logits.double() / temperature).log_softmax(axis)


def _diverge(wanted: Tensor, answered: Tensor) -> Tensor:
    """Return the divergence of rows of log-probabilities in nats, mean over the batch."""
    return (wanted.exp() * (wanted - answered)).sum() / len(wanted)


Part = Callable[[_Task], Tensor]


def _is(*losses: Part) -> Callable[..., bool]:
    """Return the question whether the result is what one of these computes."""
    return lambda given, task, *_: any(_is_close(given.loss, loss(task)) for loss in losses)


def _has_soft(*parts: Part) -> Callable[..., bool]:
    """Return the question whether one of these is the soft part, with T**2, T or without."""
    mixed = [
        lambda t, part=part, power=power: t.mix(part(t), t.hard, power)
        for part in parts
        for power in (2, 1, 0)
    ]
    return _is(*mixed)


def _has_hard(*parts: Part) -> Callable[..., bool]:
    """Return the question whether one of these is the hard part."""
    return _is(*(lambda t, part=part: t.mix(t.soft, part(t)) for part in parts))


LOSS_MISTAKES = [
    Mistake("leaves PyTorch",
            lambda given, *_: isinstance(given, RuntimeError) and "numpy" in str(given),
            "You turn the student's logits into a NumPy array: no gradient comes back from there.",
            "PyTorch has a softmax and a logarithm of its own.", of_failures=True),
    Mistake("works in place",
            lambda given, *_: isinstance(given, RuntimeError) and "in-place" in str(given),
            "You change the student's logits themselves.",
            "`/=` writes into its left side; what does `/` do?", of_failures=True),
    Mistake("no tensor", lambda given, *_: not isinstance(given, _Answer),
            "It should return a tensor; from anything else no gradient reaches the student.",
            "Is there an `item()`, a `float()` or a second thing behind `return`?"),
    Mistake("no scalar", lambda given, *_: given.loss.shape != (),
            "It should return a single number, of shape ().",
            "Print the shape. Over which axis is a sum missing, over which one a mean?"),
    Mistake("large logits", lambda given, task, *_: task.student.max() > 100,
            "With logits of size 1000 it goes wrong: softmax rounds most probabilities to 0.",
            "The logarithm of 0 is -inf. What does softmax and logarithm in one step?"),
    Mistake("not finite", lambda given, *_: not given.loss.isfinite(),
            "It is infinite or no number, though the logits are small.",
            "Do you take the logarithm of a number below 0? `F.kl_div` takes one of its target."),
    Mistake("labels ignored",
            _is(lambda t: t.mix(t.soft, 0 * t.hard), lambda t: t.mix(t.soft, t.soft),
                lambda t: t.temperature**2 * t.soft, lambda t: t.soft),
            "This is the soft part alone: the labels change nothing.",
            "Who tells the student the truth where the teacher is wrong?"),
    Mistake("teacher ignored", _is(lambda t: t.hard, lambda t: t.hard_share * t.hard),
            "This is the hard part alone: the teacher changes nothing.",
            "Print the soft part by itself. Is it 0, or lost on the way to `return`?"),
    Mistake("shares swapped",
            _is(*(lambda t, p=p: t.hard_share * t.temperature**p * t.soft
                  + (1 - t.hard_share) * t.hard for p in (2, 1, 0))),
            "The shares of the two parts are exchanged.",
            "Which part has to vanish at `hard_share=0`?"),
    Mistake("share forgotten",
            _is(lambda t: t.temperature**2 * t.soft + t.hard,
                lambda t: t.temperature**2 * t.soft + t.hard_share * t.hard,
                lambda t: t.mix(t.soft, t.hard) + (1 - t.hard_share) * t.hard),
            "A part counts in full that should count by its share.",
            "How much do the two shares make together?"),
    Mistake("no T**2", _is(lambda t: t.mix(t.soft, t.hard, 0)),
            "The soft part is not scaled: the higher the temperature, the less it counts.",
            "Compare the task's formula with yours. What becomes of the soft part as T grows?"),
    Mistake("another power of T",
            _is(*(lambda t, p=p: t.mix(t.soft, t.hard, p) for p in (1, 3, 4, -1, -2))),
            "The soft part is scaled by another power of the temperature.",
            "Once T divides the logits, and once the answers draw nearer: how often is that T?"),
    Mistake("T**2 on the labels", _is(lambda t: t.temperature**2 * t.mix(t.soft, t.hard, 0)),
            "The hard part is scaled by the temperature as well.",
            "Which of the two parts has been softened? Look at the brackets."),
    Mistake("wrong way round", _has_soft(lambda t: _diverge(t.answered, t.wanted)),
            "The divergence is the wrong way round: the student's probabilities weigh it.",
            "Whose answers are the truth here? Look up which argument of `F.kl_div` is which."),
    Mistake("wrong sign", _has_soft(lambda t: -t.soft),
            "The soft part has the wrong sign: the student would flee from its teacher.",
            "A divergence is never negative. What is subtracted from what?"),
    Mistake("cross-entropy for divergence",
            _has_soft(lambda t: -(t.wanted.exp() * t.answered).sum(1).mean()),
            "This is the cross-entropy with soft targets: the right gradient, another value.",
            "What should the soft part be when both say the same? What is yours then?"),
    Mistake("labels for the teacher",
            _has_soft(lambda t: F.nll_loss(t.answered, t.labels)),
            "The soft part compares the student with the labels; the teacher is not asked.",
            "From whom does the student hear which wrong classes are likely?"),
    Mistake("hard part softened",
            _has_hard(lambda t: t.grade(t.student / t.temperature),
                      lambda t: t.temperature**2 * t.grade(t.student / t.temperature)),
            "The hard part is computed with softened logits.",
            "What temperature has a label? Have you kept the student's own logits?"),
    Mistake("teacher graded", _has_hard(lambda t: t.grade(t.teacher)),
            "The hard part compares the teacher with the labels.",
            "Who is to learn here?"),
    Mistake("softmax twice",
            _has_hard(lambda t: t.grade(t.student.softmax(1)),
                      lambda t: t.grade(t.answered.exp())),
            "The hard part takes the softmax of a softmax.",
            "Does `F.cross_entropy` want logits or probabilities?"),
    Mistake("summed over the batch",
            _is(*(lambda t, p=p, a=a, b=b: t.mix(len(t.labels)**a * t.soft,
                                                 len(t.labels)**b * t.hard, p)
                  for p in (2, 1, 0) for a, b in ((1, 0), (1, 1), (0, 1)))),
            "A part is the sum over the batch: twice the images, twice the loss.",
            "What would that do to the size of a step? A reduction of PyTorch's has a say here."),
    Mistake("mean over classes too", _has_soft(lambda t: t.soft / t.student.shape[1]),
            "The soft part is divided by the number of classes as well.",
            "`reduction=\"mean\"` counts all elements. Over what is the mean wanted?"),
    Mistake("not softened",
            _has_soft(lambda t: t.diverge_at(1, 1), lambda t: t.diverge_at(1, t.temperature),
                      lambda t: t.diverge_at(t.temperature, 1)),
            "The soft part has logits in it that were not divided by the temperature.",
            "Teacher and student are compared at the same temperature. At which are yours?"),
    Mistake("multiplied by T",
            _has_soft(lambda t: t.diverge_at(1 / t.temperature, 1 / t.temperature)),
            "You multiply the logits by the temperature.",
            "Are your probabilities more alike at a high temperature, or less?"),
    Mistake("probabilities for logarithms",
            _has_soft(lambda t: _diverge(t.wanted, t.answered.exp()),
                      lambda t: _diverge(t.wanted.exp(), t.answered.exp()),
                      lambda t: _diverge(t.wanted.exp(), t.answered)),
            "In the soft part a probability stands where its logarithm should.",
            "Which argument of `F.kl_div` wants logarithms, and what does `log_target` change?"),
    Mistake("bits", _has_soft(lambda t: t.soft / math.log(2)),
            "The soft part is in bits.", "The task asks for nats: which logarithm is that?"),
    Mistake("softmax over the batch",
            _has_soft(lambda t: t.diverge_at(t.temperature, t.temperature, axis=0)),
            "The softmax of the soft part runs over the images of the batch.",
            "Which sums of your probabilities are 1? Which ones should be?"),
    Mistake("gradient lost", lambda given, *_: not given.loss.requires_grad,
            "No gradient comes back from your result: the student would never change.",
            "What is between the student's logits and the result: `no_grad`, `detach`, `.data`?"),
    Mistake("gradient wrong", lambda given, task, *_: task.has_value(given),
            "The value is right, but not the gradient by the student's logits.",
            "Is a part of it cut off by `detach`, or is `backward` called in the function itself?"),
]  # fmt: skip
