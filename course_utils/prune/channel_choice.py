"""Which channels of each group are kept: by a score, and as many as asked for."""

import copy
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from course_utils.prune.groups import ChannelGroup, find_groups
from course_utils.prune.magnitude import losses_of_batches

Keep = float | Mapping[str, int]
Given = TypeVar("Given")


def choose_channels(
    model: nn.Module,
    keep: Keep,
    *,
    round_to: int = 1,
    scores: Mapping[str, Tensor] | None = None,
) -> dict[str, list[int]]:
    """Return which channels of each group are kept, in ascending order.

    Args:
        model: As for ``prune_channels``.
        keep: As for ``prune_channels``; a share of a group is rounded to the nearest count.
        round_to: Round to a multiple of this, at least once and at most what is there: runtimes
            compute channels in blocks, of 8 or 16 on most CPUs.
        scores: As for ``prune_channels``; of equal scores, the first are kept.

    Raises:
        ValueError: The model has no channels to cut, or some that cannot be followed; ``keep`` is
            no share or would leave a layer without channels; there is no such layer; ``round_to``
            is below 1; or the scores do not fit the channels or are not finite.
    """
    groups = find_groups(model)
    if not groups:
        raise ValueError(
            "The model has no channels to cut: those of its input and of its logits have to stay."
        )
    if not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"Round to a multiple of 1 (any count), 8 or 16, not of {round_to}.")
    counts = _count_kept(groups, keep, round_to)
    scores = _check_scores(groups, score_channels(model) if scores is None else scores)
    kept = {}
    for name, count in counts.items():
        order = scores[name].argsort(descending=True, stable=True)
        kept[name] = sorted(order[:count].tolist())
    return kept


def score_channels(model: nn.Module, by: str = "norm") -> dict[str, Tensor]:
    """Return how much each channel matters by its weights alone: (channels,) for each group.

    Args:
        model: As for ``prune_channels``.
        by: "norm": the L2 norm of the filters that write a channel, of several layers that write
            it the sum (Li et al., 2017, arXiv 1608.08710); "group": the L2 norm of all that goes
            with it, that is of these filters, the factors of its batch norms and the weights that
            read it (Fang et al., 2023, arXiv 2301.12900).

    Raises:
        ValueError: There is no such score.
    """
    if by not in ("norm", "group"):
        raise ValueError(f"Channels are scored by 'norm' or 'group', not by {by!r}.")
    scores = {}
    for name, group in find_groups(model).items():
        written = [_norms(model, layer, group.channels) for layer in group.writers]
        written += [_norms(model, layer, group.channels) for layer in group.depthwise]
        if by == "norm":
            scores[name] = torch.stack(written).sum(dim=0)
            continue
        written += [_norms(model, layer, group.channels) for layer in group.norms]
        read = [_norms(model, layer, group.channels, dim=1) for layer in group.readers]
        scores[name] = torch.stack(written + read).norm(dim=0)
    return scores


def _norms(model: nn.Module, layer: str, channels: int, dim: int = 0) -> Tensor:
    """Return the L2 norm of a layer's weights for each channel of an axis: (channels,)."""
    weight = model.get_submodule(layer).weight
    if not isinstance(weight, Tensor):  # a batch norm can be without
        return torch.zeros(channels)
    norms: Tensor = weight.detach().cpu().movedim(dim, 0).reshape(channels, -1).norm(dim=1)
    return norms


@torch.enable_grad()
def score_channels_first_order(
    model: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return how much the loss would change without a channel: (channels,) for each group.

    To first order that is the sum of ``activation * gradient`` over all places where the channel
    is written; of it the magnitude, and the mean over images (Molchanov et al., 2017, arXiv
    1611.06440). Behind a layer without bias it equals the sum of ``weight * gradient`` over the
    filter, behind a batch norm that over its factor and offset (2019, arXiv 1906.10771).

    Args:
        model: Returns logits; it is not changed.
        images: (n, ...) float32.
        labels: (n,) int64.

    Raises:
        ValueError: There are no images, not as many labels, or the model does not take them.
    """
    groups = find_groups(model)
    scored = copy.deepcopy(model).eval().requires_grad_()
    written: dict[str, list[Tensor]] = {}  # by layer, once for each call

    def watch(name: str) -> None:
        def note(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
            written.setdefault(name, []).append(output)
            return output.clone()  # the next layer may write over what it reads

        scored.get_submodule(name).register_forward_hook(note)

    for group in groups.values():
        for name in group.last:
            watch(name)
    scores = {name: torch.zeros(group.channels) for name, group in groups.items()}
    for loss in losses_of_batches(scored, images, labels):
        outputs = [output for calls in written.values() for output in calls]
        count = len(outputs[0])  # the loss is the mean over so many images
        gradients = iter(torch.autograd.grad(count * loss, outputs))
        changes = {
            layer: torch.stack([_sum_places(one, next(gradients)) for one in calls]).sum(dim=0)
            for layer, calls in written.items()
        }
        for name, group in groups.items():
            change = torch.stack([changes[layer] for layer in group.last]).sum(dim=0)
            scores[name] += change.abs().sum(dim=0).cpu()  # of (batch, channels)
        written.clear()
    return {name: score / len(images) for name, score in scores.items()}


def _sum_places(output: Tensor, gradient: Tensor) -> Tensor:
    """Return the sum of ``output * gradient`` over all places: (batch, channels)."""
    product = (output * gradient).detach()
    if product.ndim == 4:
        return product.sum(dim=(2, 3))
    return product.reshape(len(product), -1, product.shape[-1]).sum(dim=1)


def merge_by_group(
    groups: Mapping[str, ChannelGroup], given: Mapping[str, Given], do: str
) -> dict[str, Given]:
    """Return what was given by the names of layers, by group.

    Raises:
        ValueError: Layers of one group were given what differs: they have to ``do`` the same.
    """
    found: dict[str, tuple[str, Given]] = {}
    for layer, value in given.items():
        name = find_group(groups, layer)
        other, before = found.setdefault(name, (layer, value))
        if before != value:
            raise ValueError(
                f"Coupled channels that disagree: {other!r} and {layer!r} have their channels in"
                f" common, so both must {do}; name one of them."
            )
    return {name: value for name, (_, value) in found.items()}


def find_group(groups: Mapping[str, ChannelGroup], layer: str) -> str:
    """Return the name of the group that a layer writes.

    Raises:
        ValueError: There is no such layer, or its channels cannot be cut.
    """
    for name, group in groups.items():
        if layer in group.layers:
            return name
    raise ValueError(
        f"There is no layer {layer!r} whose channels can be cut; there are {list(groups)}, and"
        " those coupled to them. The channels of the input and of the logits stay."
    )


def _count_kept(groups: Mapping[str, ChannelGroup], keep: Keep, round_to: int) -> dict[str, int]:
    """Return how many channels of each group are kept."""
    if not isinstance(keep, Mapping):
        _check_share(groups, keep, round_to)
        wanted = {name: keep * group.channels for name, group in groups.items()}
    else:
        for layer, count in keep.items():
            there = groups[find_group(groups, layer)].channels
            if count not in range(1, there + 1):
                raise ValueError(
                    f"Layer {layer!r} cannot keep {count} channels: it has {there} and needs at"
                    f" least 1, so at most {there - 1} can be cut."
                )
        given = merge_by_group(groups, keep, "keep as many channels")
        wanted = {name: given.get(name, group.channels) for name, group in groups.items()}
    counts = {}
    for name, group in groups.items():
        rounded = round_to * max(1, math.floor(wanted[name] / round_to + 0.5))
        counts[name] = group.channels if wanted[name] == group.channels else rounded
    return {name: min(count, groups[name].channels) for name, count in counts.items()}


def _check_share(groups: Mapping[str, ChannelGroup], keep: float, round_to: int) -> None:
    if not 0 <= keep <= 1:
        raise ValueError(
            f"Keep a share of the channels above 0 and up to 1 (all of them), not {keep}."
            + " For percent, divide by 100." * (1 < keep <= 100)
        )
    narrow = min(groups.values(), key=lambda group: group.channels)
    if keep == 0 or (round_to == 1 and keep * narrow.channels < 0.5):
        least = math.ceil(10_000 * 0.5 / narrow.channels) / 10_000
        raise ValueError(
            f"Keeping {keep:g} would leave layer {narrow.name!r}, which has {narrow.channels}"
            f" channels, without any. Keep {least:g} or more: the largest possible cut is"
            f" {1 - least:.4g}."
        )


def _check_scores(
    groups: Mapping[str, ChannelGroup], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a finite score for each channel."""
    for name, group in groups.items():
        if name not in scores or scores[name].shape != (group.channels,):
            found = tuple(scores[name].shape) if name in scores else "none"
            raise ValueError(
                f"Group {name!r} needs scores of shape ({group.channels},); there are {found}."
            )
        if not scores[name].isfinite().all():
            raise ValueError(f"Group {name!r} has weights or scores that are no finite numbers.")
    return {name: scores[name] for name in groups}
