"""Structured pruning of an encoder: attention heads, or whole blocks, go.

Many heads can go after training (Michel, Levy & Neubig, 2019, arXiv 1905.10650), and so can blocks,
the upper ones first (Sajjad et al., 2020, arXiv 2004.03844). What is left is a smaller dense
encoder, which every runtime runs faster.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_utils.encoder import Attention, Encoder
from course_utils.prune.magnitude import losses_of_batches


def score_heads(encoder: Encoder, ids: Tensor, labels: Tensor) -> list[Tensor]:
    """Return how much the loss would change without each head, to first order: (heads,) by block.

    That is the magnitude of the derivative by a factor on what the head finds, summed over batches
    of 100, and divided by the norm over the heads of its block, as Michel et al. do.

    Args:
        encoder: Classifies; it is not changed.
        ids: (n, positions) float32.
        labels: (n,) int64.

    Raises:
        ValueError: There are no texts, or not as many labels.
    """
    scored = copy.deepcopy(encoder).eval().requires_grad_()
    weights = [attention.out.weight for attention in _find_attentions(scored)]
    scores = [torch.zeros(heads) for heads in encoder.sizes.heads]
    for loss in losses_of_batches(scored, ids, labels):
        gradients = torch.autograd.grad(loss, weights)
        for score, weight, gradient in zip(scores, weights, gradients, strict=True):
            products = (weight.detach() * gradient).view(len(weight), len(score), -1)
            score += products.sum(dim=(0, 2)).abs()  # the derivative by a factor on each head
    return [score / score.norm().clamp(min=1e-12) for score in scores]


def choose_heads(scores: Sequence[Tensor], count: int) -> list[list[int]]:
    """Return which ``count`` heads to keep, by block: those of the highest score.

    Each block keeps its best head, whatever its score.

    Raises:
        ValueError: There are not so many heads, or fewer than blocks.
    """
    total = sum(len(score) for score in scores)
    if not len(scores) <= count <= total:
        raise ValueError(
            f"Of {total} heads in {len(scores)} blocks {count} cannot be kept: choose"
            f" {len(scores)} to {total}, so that each block has one."
        )
    kept = [[int(score.argmax())] for score in scores]
    ranked = sorted(
        ((float(value), block, head) for block, score in enumerate(scores)
         for head, value in enumerate(score) if head not in kept[block]),
        reverse=True,
    )  # fmt: skip
    for _, block, head in ranked[: count - len(scores)]:
        kept[block].append(head)
    return [sorted(heads) for heads in kept]


def keep_heads(encoder: Encoder, kept: Sequence[Sequence[int]]) -> Encoder:
    """Return a smaller copy that has only these heads; the others' rows and columns are gone.

    Args:
        encoder: Of any number of heads in each block.
        kept: The numbers of the heads to keep, by block.

    Raises:
        ValueError: The numbers are not those of heads, or a block is left with none.
    """
    counts = encoder.sizes.heads
    fits = len(kept) == len(counts) and all(
        heads and len(set(heads)) == len(heads) and set(heads) <= set(range(count))
        for heads, count in zip(kept, counts, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Name at least one head of each of the {len(counts)} blocks, which have {counts}"
            f" heads, counted from 0; {[list(heads) for heads in kept]} does not."
        )
    smaller = copy.deepcopy(encoder)
    smaller.sizes = replace(encoder.sizes, heads=tuple(len(heads) for heads in kept))
    width = encoder.sizes.head_width
    for attention, heads in zip(_find_attentions(smaller), kept, strict=True):
        numbers = torch.arange(attention.heads * width).view(attention.heads, width)
        rows = numbers[sorted(heads)].flatten()
        for layer in (attention.query, attention.key, attention.value):
            _set_(layer, layer.weight[rows], layer.bias[rows])
        _set_(attention.out, attention.out.weight[:, rows], attention.out.bias)
        attention.heads = len(heads)
    return smaller


def keep_blocks(encoder: Encoder, kept: Sequence[int]) -> Encoder:
    """Return a shallower copy that has only these blocks, e.g. ``[0, 1]`` for the lower two.

    Raises:
        ValueError: The numbers are not those of blocks, in rising order, or there are none.
    """
    count = len(encoder.blocks)
    if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(range(count)):
        raise ValueError(f"Name some of the blocks 0 to {count - 1} in this order, not {kept}.")
    smaller = copy.deepcopy(encoder)
    smaller.blocks = nn.ModuleList(smaller.blocks[block] for block in kept)
    sizes = encoder.sizes
    smaller.sizes = replace(
        sizes,
        heads=tuple(sizes.heads[block] for block in kept),
        neurons=tuple(sizes.neurons[block] for block in kept),
    )
    return smaller


def _find_attentions(encoder: Encoder) -> list[Attention]:
    return [module for module in encoder.modules() if isinstance(module, Attention)]


def _set_(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer another weight and bias, and so another size."""
    layer.weight = nn.Parameter(weight.detach().clone(), layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.detach().clone(), layer.bias.requires_grad)
    layer.out_features, layer.in_features = weight.shape
