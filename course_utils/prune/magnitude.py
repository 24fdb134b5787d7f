"""Unstructured pruning: single weights become zero, wherever they stand.

What goes is what matters least by some score: the magnitude of a weight (Han et al., 2015, arXiv
1506.02626), or how much the loss would change without it, to first order.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from course_utils import calibrate
from course_utils.quantize.weights import find_layers

Scope = Literal["global", "layer"]
BATCH = 100


def prune_weights(
    model: nn.Module,
    sparsity: float,
    *,
    scope: Scope = "global",
    scores: Mapping[str, Tensor] | None = None,
    layers: Iterable[str] | None = None,
) -> nn.Module:
    """Return a copy in which the weights of the smallest score are zero.

    Exactly ``round(sparsity * weights)`` are dropped; of equal scores, those that come first.
    Biases and batch norms stay.

    Args:
        model: With ``nn.Conv2d`` or ``nn.Linear`` layers.
        sparsity: The share of the weights that become zero, in [0, 1].
        scope: "global" compares the weights of all layers with each other; "layer" drops the same
            share of each layer.
        scores: How much each weight matters, in the shape of its layer's weight, by layer; None:
            its magnitude.
        layers: The names of those to prune; None: all.

    Raises:
        ValueError: The sparsity is no share, the scope is unknown, there is no such layer or none
            at all, or the scores do not fit the weights or are not finite.
    """
    check_sparsity(sparsity)
    pruned = copy.deepcopy(model)
    weights = find_weights(pruned, layers)
    scores = _check_scores(weights, scores)
    if scope == "layer":
        kept = {name: keep_highest(score, sparsity) for name, score in scores.items()}
    elif scope == "global":
        together = keep_highest(torch.cat([score.flatten() for score in scores.values()]), sparsity)
        parts = torch.split(together, [score.numel() for score in scores.values()])
        kept = {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}
    else:
        raise ValueError(f"The scope is 'global' or 'layer', not {scope!r}.")
    for name, weight in weights.items():
        weight.data.masked_fill_(~kept[name], 0.0)
    return pruned


def prune_n_of_m(
    model: nn.Module, n: int = 2, m: int = 4, *, layers: Iterable[str] | None = None
) -> nn.Module:
    """Return a copy in which of each ``m`` weights in a row the ``n`` largest are left.

    2 of 4 is the pattern that sparse tensor cores multiply (Mishra et al., 2021, arXiv
    2104.08378). A row is what one output reads: all inputs of a neuron, or of a convolution's
    output channel all rows and columns of the kernel, channel by channel.

    Args:
        model: With ``nn.Conv2d`` or ``nn.Linear`` layers.
        n: How many weights of a group stay.
        m: How many weights make a group.
        layers: The names of those to prune; None: all whose rows are made of whole groups.

    Raises:
        ValueError: It is not 1 <= n <= m, there is no such layer, or the rows of one are not made
            of whole groups.
    """
    if not 1 <= n <= m:
        raise ValueError(f"Of each {m} weights {n} cannot stay: choose 1 <= n <= m.")
    pruned = copy.deepcopy(model)
    weights = find_weights(pruned, layers)
    if layers is None:
        fitting = {name: one for name, one in weights.items() if one[0].numel() % m == 0}
        weights = fitting or weights
    for name, weight in weights.items():
        if weight[0].numel() % m:
            raise ValueError(
                f"A row of {name!r} has {weight[0].numel()} weights, which are no groups of {m}:"
                " leave this layer out."
            )
        groups = weight.data.reshape(-1, m).clone()
        smallest = groups.abs().argsort(dim=1, stable=True)[:, : m - n]
        weight.data.copy_(groups.scatter_(1, smallest, 0.0).view(weight.shape))
    return pruned


def keep_highest(scores: Tensor, sparsity: float) -> Tensor:
    """Return which scores stay when exactly ``round(sparsity * n)`` of the lowest go: bool.

    Args:
        scores: (n,) or of any shape.
        sparsity: In [0, 1].
    """
    dropped = round(sparsity * scores.numel())
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.flatten().argsort(stable=True)[:dropped]] = False
    return kept.view(scores.shape)


def score_first_order(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return ``|weight * gradient of the loss|`` of each weight, by layer.

    To first order that is how much the mean loss over the images changes if the weight becomes
    zero (Molchanov et al., 2017, arXiv 1611.06440, for channels; LeCun et al., 1990, have the term
    of second order). In a trained network gradients cancel out over the images; so the score sums
    the magnitudes over batches of 100.

    Args:
        model: Returns logits; it is not changed.
        images: (n, ...) float32.
        labels: (n,) int64.

    Raises:
        ValueError: There are no images, not as many labels, or the model does not take them.
    """
    scored = copy.deepcopy(model).eval().requires_grad_()
    weights = find_weights(scored)
    scores = {name: torch.zeros_like(weight.data) for name, weight in weights.items()}
    for loss in losses_of_batches(scored, images, labels):
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            scores[name] += (weight.data * gradient).abs()
    return scores


def losses_of_batches(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Yield the mean cross-entropy of each batch of 100, ready to be differentiated.

    Raises:
        ValueError: There are no images, not as many labels, or the model does not take them.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{len(images)} images and {len(labels)} labels: give as many of both.")
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        try:
            loss = F.cross_entropy(model(images[part]), labels[part])
        except RuntimeError as error:
            raise calibrate.refuse_images(images.numpy(), error) from None
        yield loss


def measure_sparsity(model: nn.Module) -> dict[str, float]:
    """Return the share of zeros among the weights of each layer, in [0, 1]."""
    return {
        name: float((weight == 0).float().mean()) for name, weight in find_weights(model).items()
    }


def find_weights(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return the weights of the layers named, or of all that can be pruned, by layer.

    Raises:
        ValueError: There is no such layer, or none at all, or its zeros are held.
    """
    there = find_layers(model)
    names = there if layers is None else [layers] if isinstance(layers, str) else list(layers)
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        what = f"There is no layer {unknown[0]!r}" if unknown else "There is no layer"
        raise ValueError(f"{what} with weights to prune; there are {there}.")
    held = [name for name in names if parametrize.is_parametrized(model.get_submodule(name))]
    if held:
        raise ValueError(
            f"Layer {held[0]!r} holds its zeros through training; call prune.release_zeros first."
        )
    return {name: model.get_submodule(name).weight for name in names}  # type: ignore[misc]


def check_sparsity(sparsity: float) -> None:
    """Raise ``ValueError`` unless this is a share."""
    if not 0 <= sparsity <= 1 or math.isnan(sparsity):
        raise ValueError(
            f"A sparsity is a share between 0 (all weights stay) and 1 (none does), not {sparsity}."
            + " For percent, divide by 100." * (1 < sparsity <= 100)
        )


def _check_scores(
    weights: Mapping[str, Tensor], scores: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return a finite score for each weight."""
    if scores is None:
        scores = {name: weight.detach().abs() for name, weight in weights.items()}
    for name, weight in weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            found = tuple(scores[name].shape) if name in scores else "none"
            raise ValueError(
                f"Layer {name!r} needs scores of shape {tuple(weight.shape)}; there are {found}."
            )
        if not scores[name].isfinite().all():
            raise ValueError(f"Layer {name!r} has weights or scores that are no finite numbers.")
    return {name: scores[name] for name in weights}
