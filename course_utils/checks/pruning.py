"""Check of the exercise in lesson 04 on one threshold for the weights of all layers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.aware_training import to_floats
from course_utils.checks.outcome import Mistake, Outcome, judge

Masks = dict[str, Tensor]  # layer -> True where a weight is kept, in the shape of the weights


def check_threshold(attempt: Callable[[dict[str, Tensor], float], Masks]) -> Outcome:
    """Check a function that marks which weights of all layers together are kept.

    Among weights of the same magnitude any choice is right, as long as the number is.

    Args:
        attempt: Takes the weights of each layer, and the share to drop, from 0 to 1; returns the
            mask of each layer.
    """
    return judge(
        "One threshold for all layers",
        attempt,
        _Task,
        CASES,
        lambda given, task: task.is_solved_by(given),
        THRESHOLD_MISTAKES,
        must_keep_arguments=True,
    )


class _Weights(dict[str, Tensor]):
    """Weights by layer that can be compared, so that a changed argument is seen."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, dict)
            and self.keys() == other.keys()
            and all(torch.equal(self[layer], other[layer]) for layer in self)
        )


def _spread(shape: tuple[int, ...], largest: float, stride: int) -> Tensor:
    """Return weights of different magnitudes and both signs, in no order."""
    count = math.prod(shape)
    places = torch.arange(count) * stride % count
    signs = 1 - 2.0 * (places % 5 % 2)
    return (signs * largest * ((places + 1) / count) ** 2).reshape(shape)


CASES: list[tuple[dict[str, Tensor], float]] = [
    (  # sparsity times weights is a whole number; the layers lose very different shares
        _Weights(
            stem=_spread((4, 1, 3, 3), 1.0, 7), middle=_spread((6, 4), 0.15, 5),
            head=_spread((3, 4), 2.0, 7),
        ),
        0.75,
    ),
    (  # 28.8, to be rounded up; one layer loses all
        _Weights(
            first=_spread((3, 2, 2, 2), 0.8, 5), gate=torch.tensor([0.001, -0.002]),
            last=_spread((2, 3), 0.3, 1),
        ),
        0.9,
    ),
    (_Weights(first=_spread((3, 4), 0.8, 5), last=_spread((7,), 0.4, 3)), 0.7),  # 13.3, down
    (  # five of the same magnitude, of which one is to be dropped
        _Weights(
            first=torch.tensor([[0.5, -0.5, 0.25], [1.0, 0.5, -0.25]]),
            last=torch.tensor([-0.5, 0.75, 0.0, 0.25, -1.5, 0.5]),
        ),
        0.4,
    ),
    (  # four zeros, of which two are to be dropped
        _Weights(first=torch.tensor([[0.0, 0.3], [-0.2, 0.0]]), last=torch.tensor([0, 1, -2, 0.0])),
        0.2,
    ),
    *((_Weights(first=torch.tensor([0.5, -0.25, -1.0])), end) for end in (0.0, 1.0)),
]  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """The arguments of a call, and what can be said about an answer to it."""

    weights: dict[str, Tensor]
    sparsity: float

    @cached_property
    def values(self) -> Tensor:  # (total,)
        return torch.cat([weight.flatten() for weight in self.weights.values()])

    @cached_property
    def sizes(self) -> Tensor:
        return self.values.abs()

    @property
    def exact(self) -> float:
        return self.sparsity * len(self.values)

    @property
    def count(self) -> int:  # of the weights to be dropped
        return round(self.exact)

    @property
    def threshold(self) -> Tensor:  # the largest magnitude to be dropped
        return self.sizes.sort().values[self.count - 1]

    def has_shapes(self, given: Mapping[str, Any]) -> bool:
        return all(to_floats(given[name]).shape == w.shape for name, w in self.weights.items())

    def read(self, given: Mapping[str, Any]) -> Tensor:
        """Return all values of the masks, one after the other: (total,)."""
        return torch.cat([to_floats(given[layer]).flatten() for layer in self.weights])

    def are_masks(self, given: Mapping[str, Any]) -> bool:
        values = self.read(given)
        return bool(((values == 0) | (values == 1)).all())

    def is_solved_by(self, given: Any) -> bool:
        return (
            isinstance(given, Mapping)
            and given.keys() == self.weights.keys()
            and self.has_shapes(given)
            and self.are_masks(given)
            and self.drops(given) == self.count
            and self.is_cut(given)
        )

    def drops(self, given: Mapping[str, Any]) -> int:
        return int((self.read(given) == 0).sum())

    def is_cut(self, given: Mapping[str, Any], sign: int = 1) -> bool:
        """Return whether no weight that is dropped is larger (-1: smaller) than one that stays."""
        return _is_cut(self.read(given) == 1, sign * self.sizes)

    def is_by_layer(self, given: Mapping[str, Any]) -> bool:
        """Return whether about the asked share is cut off in every layer on its own."""
        for layer, weight in self.weights.items():
            kept, values = to_floats(given[layer]).flatten() == 1, weight.flatten()
            if abs(float((~kept).sum()) - self.sparsity * len(values)) > 1:
                return False
            if not (_is_cut(kept, values.abs()) or _is_cut(kept, values)):
                return False
        return True

    def is_by_extent(self, given: Mapping[str, Any]) -> bool:
        """Return whether the threshold is a share of the largest weight, the mean or the spread."""
        for measure in (torch.max, torch.mean, torch.std):
            layers = [w.abs().flatten() for w in self.weights.values()]
            cuts = [self.sparsity * measure(sizes).expand(len(sizes)) for sizes in layers]
            for cut in (self.sparsity * measure(self.sizes), torch.cat(cuts)):
                if torch.equal(self.read(given) == 1, self.sizes > cut):
                    return True
        return False

    def counts_signs(self, given: Mapping[str, Any]) -> bool:
        """Return whether the sign counts, in the threshold or where weights meet it."""
        signed, kept = self.values.sort().values[self.count - 1], self.read(given) == 1
        return _is_cut(kept, self.values) or torch.equal(kept, self.sizes > signed)


def _is_cut(kept: Tensor, scores: Tensor) -> bool:
    if kept.all() or not kept.any():
        return True
    return bool(scores[~kept].max() <= scores[kept].min())


THRESHOLD_MISTAKES = [
    Mistake(
        "fails at 0",
        lambda given, task, *case: task.sparsity == 0,
        "At sparsity 0 everything is kept; yours drops something, or fails.",
        "If no weight is to be dropped, which one is the last that is? What is `ordered[-1]`?",
        of_failures=True,
    ),
    Mistake(
        "fails at 1",
        lambda given, task, *case: task.sparsity == 1,
        "At sparsity 1 everything is dropped; yours keeps something, or fails.",
        "If all weights are to be dropped, is there a smallest one among those that stay?",
        of_failures=True,
    ),
    Mistake(
        "no dict",
        lambda given, task, *case: not isinstance(given, Mapping),
        "It should return a dict: from the name of each layer to its mask.",
        "`return masks`, one mask by the name of each layer.",
    ),
    Mistake(
        "other layers",
        lambda given, task, *case: given.keys() != task.weights.keys(),
        "A layer has no mask, or one has that does not exist.",
        "Print the result's keys beside those of `weights`.",
    ),
    Mistake(
        "wrong shape",
        lambda given, task, *case: not task.has_shapes(given),
        "A mask should have the shape of its layer's weights.",
        "Print both shapes, layer by layer. A long flat mask must be cut up and shaped again.",
    ),
    Mistake(
        "no masks",
        lambda given, task, *case: not task.are_masks(given),
        "A mask holds nothing but True (kept) and False (dropped). Are these the weights?",
        "Print one of your masks. Which comparison gives one truth value for each weight?",
    ),
    Mistake(
        "mask inverted",
        lambda given, task, *case: (
            task.drops(given) == len(task.values) - task.count and task.is_cut(given, -1)
        ),
        "The mask is the wrong way round.",
        "The product of weights and mask should hold what stays. What must True mean then?",
    ),
    Mistake(
        "kept for dropped",
        lambda given, task, *case: (
            task.is_cut(given) and abs(task.drops(given) - len(task.values) + task.exact) <= 1
        ),
        "You keep the share that you should drop.",
        "Sparsity is the share of zeros: is a network of sparsity 0.9 nearly full or nearly empty?",
    ),
    Mistake(
        "largest dropped",
        lambda given, task, *case: (
            abs(task.drops(given) - task.exact) <= 1 and task.is_cut(given, -1)
        ),
        "You drop the largest weights and keep the smallest.",
        "Which end of the sorted magnitudes do you take, and does the sort go up or down?",
    ),
    Mistake(
        "ties all dropped",
        lambda given, task, *case: (
            task.drops(given) == (task.sizes <= task.threshold).sum() and task.is_cut(given)
        ),
        "Too many are dropped: all that have the same magnitude as the last one.",
        "Equal magnitudes cannot be told apart by a comparison. What can count them out?",
    ),
    Mistake(
        "ties all kept",
        lambda given, task, *case: (
            (task.sizes == task.threshold).sum() > 1
            and task.drops(given) == (task.sizes < task.threshold).sum()
            and task.is_cut(given)
        ),
        "Too few are dropped: all that have the same magnitude as the last one stay.",
        "With equal magnitudes `<` and `<=` both miss the number. What else picks so many weights?",
    ),
    Mistake(
        "layer by layer",
        lambda given, task, *case: not task.is_cut(given) and task.is_by_layer(given),
        "Every layer loses the same share: each has a threshold of its own.",
        "A layer of large weights may stay nearly whole. Whom does each weight compete with?",
    ),
    Mistake(
        "signs",
        lambda given, task, *case: task.counts_signs(given),
        "The sign counts: large negative weights are taken for small ones.",
        "Which of −3 and 0.1 changes the output more? Look at the threshold *and* the comparison.",
    ),
    Mistake(
        "share of the extent",
        lambda given, task, *case: task.is_by_extent(given),
        "Your threshold is a share of the largest weight, the mean or the standard deviation.",
        "How many weights lie below that? The sparsity is a share of the *number* of weights.",
    ),
    Mistake(
        "other weights",
        lambda given, task, *case: not task.is_cut(given),
        "Not the smallest ones are dropped: somewhere a larger weight goes while a smaller stays.",
        "Does each piece of a long mask go back to the layer, and the place, that it came from?",
    ),
    Mistake(
        "another rounding",
        lambda given, task, *case: (
            task.drops(given) in {math.floor(task.exact), math.ceil(task.exact)}
        ),
        "One too many or too few: the number to drop is not rounded as the task says.",
        "Print sparsity · total and what you drop. `int` cuts off, and a quantile interpolates.",
    ),
    Mistake(
        "off by one",
        lambda given, task, *case: abs(task.drops(given) - task.count) == 1,
        "One too many or too few is dropped.",
        "What happens to the weight at the threshold itself? Python counts from 0.",
    ),
    Mistake(
        "wrong number",
        lambda given, task, *case: True,
        "Smaller weights go before larger ones, but it is not the number that was asked for.",
        "Is the number found for all layers together? Count the False in all your masks.",
    ),
]
