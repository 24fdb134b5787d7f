"""Prune while training: what is left learns to do without what is gone."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.prune.holding import find_masks, hold_zeros, release_zeros
from course_utils.prune.magnitude import Scope, check_sparsity, find_weights, keep_highest
from course_utils.training import DivergedError, Recipe, train

RAMP = 0.6  # of the steps: after them the sparsity stays, and what is left recovers
UPDATES = 60  # how often the masks are chosen anew on the ramp


def train_pruned(
    model: nn.Module,
    sparsity: float,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    scope: Scope = "global",
    **settings: Any,
) -> nn.Module:
    """Return a copy that was pruned step by step while it was trained on.

    The sparsity rises fast at first, while there is much to spare, and slowly at the end (see
    ``cubic_sparsity``): gradual pruning (Zhu & Gupta, 2017, arXiv 1710.01878), by magnitude. What
    is zero stays zero. Done several times, to more zeros each time, it is iterative pruning.

    Args:
        model: Trained, dense or pruned already.
        sparsity: The share of weights that are zero in the end, in [0, 1]; no less than now.
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
        recipe: See ``training.train``; a learning rate well below that of the first training.
        scope: As in ``prune_weights``.
        settings: The rest of ``training.train``: device, precision, state_file, on_epoch (its
            model's zeros are held), on_step, compiled.

    Raises:
        ValueError: As of ``prune_weights`` and ``training.train``; a state file of another sparsity
            or scope is refused.
        training.DivergedError: The loss is no longer a number; its ``model`` is pruned as far as
            the last good epoch went.
    """
    check_sparsity(sparsity)
    if scope not in ("global", "layer"):
        raise ValueError(f"The scope is 'global' or 'layer', not {scope!r}.")
    weights = torch.cat([weight.flatten() for weight in find_weights(model).values()])
    initial = float((weights == 0).float().mean())
    if round(initial * len(weights)) > round(sparsity * len(weights)):
        raise ValueError(
            f"The model has {initial:.2%} zeros already, and zeros stay: ask for no fewer, or start"
            " from a denser one."
        )
    chosen = -1

    def prune(done: float, held: nn.Module) -> None:
        nonlocal chosen
        update = min(int(done / RAMP * UPDATES), UPDATES)
        if update > chosen:
            chosen = update
            choose_masks_(held, cubic_sparsity(update / UPDATES, sparsity, initial), scope)

    aim = f"{sparsity:.2%} zeros, {scope}"
    return _train_held(model, images, labels, recipe, before_step=prune, aim=aim, **settings)


def train_held(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, **settings: Any
) -> nn.Module:
    """Return a copy that was trained on while its zeros stayed zero: fine-tuning after pruning.

    Args:
        model: Pruned.
        images: See ``train_pruned``.
        labels: See ``train_pruned``.
        recipe: See ``train_pruned``.
        settings: See ``train_pruned``.

    Raises:
        ValueError: As of ``training.train``.
        training.DivergedError: As of ``train_pruned``.
    """
    return _train_held(model, images, labels, recipe, aim="zeros held", **settings)


def cubic_sparsity(done: float, final: float, initial: float = 0.0) -> float:
    """Return the sparsity on the ramp: ``final + (initial - final) * (1 - done)**3``.

    Args:
        done: How much of the ramp is behind, in [0, 1].
        final: The sparsity at its end.
        initial: The sparsity at its start.
    """
    sparsity: float = final + (initial - final) * (1 - done) ** 3
    return sparsity


def rewind_weights(pruned: nn.Module, earlier: nn.Module) -> nn.Module:
    """Return a copy of the earlier model that is zero wherever the pruned one is.

    Trained again from there with its zeros held, that is a *lottery ticket* (Frankle & Carbin,
    2019, arXiv 1803.03635): the earlier model is the network before its training, or after a
    little of it.

    Args:
        pruned: Of the same architecture.
        earlier: The weights to go back to.

    Raises:
        ValueError: The two have not the same layers and shapes.
    """
    rewound = copy.deepcopy(earlier)
    kept = {name: weight != 0 for name, weight in find_weights(pruned).items()}
    weights = find_weights(rewound)
    shapes = [{name: one.shape for name, one in some.items()} for some in (kept, weights)]
    if shapes[0] != shapes[1]:
        raise ValueError("The pruned and the earlier model have not the same layers and shapes.")
    for name, weight in weights.items():
        weight.data *= kept[name]
    return rewound


@torch.no_grad()
def choose_masks_(model: nn.Module, sparsity: float, scope: Scope) -> None:
    """Mask the smallest weights of a model whose zeros are held; those masked before stay so.

    Args:
        model: From ``hold_zeros``; its masks change.
        sparsity: In [0, 1].
        scope: As in ``prune_weights``.
    """
    masks = find_masks(model)
    weights = {name: model.get_submodule(name).weight for name in masks}  # with their zeros
    scores = {
        name: torch.where(masks[name].mask > 0, one.abs(), -1.0)  # type: ignore[operator]
        for name, one in weights.items()
    }
    if scope == "layer":
        kept = [keep_highest(score, sparsity) for score in scores.values()]
    else:
        together = keep_highest(torch.cat([one.flatten() for one in scores.values()]), sparsity)
        kept = list(torch.split(together, [one.numel() for one in scores.values()]))
    for mask, keep in zip(masks.values(), kept, strict=True):
        mask.mask.mul_(keep.view_as(mask.mask))


def _train_held(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, **settings: Any
) -> nn.Module:
    """Train with the zeros held; let them go, also of what is left when training diverges."""
    try:
        return release_zeros(train(hold_zeros(model), images, labels, recipe, **settings))
    except DivergedError as error:
        error.model = release_zeros(error.model)
        raise
