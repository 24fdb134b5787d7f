"""Structured pruning: whole channels and neurons go, and the network is really smaller.

Which channels go is decided by a score, in each group of coupled channels (see ``groups``); then
they are cut out of all layers that write, scale or read them.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from course_utils.prune.channel_choice import (
    Keep,
    choose_channels,
    find_group,
    merge_by_group,
    score_channels,
    score_channels_first_order,
)
from course_utils.prune.groups import ChannelGroup, find_groups

__all__ = [
    "choose_channels", "cut_channels", "fit_shapes", "mask_channels", "prune_channels",
    "score_channels", "score_channels_first_order",
]  # fmt: skip


def prune_channels(
    model: nn.Module,
    keep: Keep,
    *,
    round_to: int = 1,
    scores: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a smaller copy, of the same class, that has only the channels of the highest scores.

    Args:
        model: Convolutions, linear layers and what ``find_groups`` knows besides.
        keep: The share of each group's channels to keep, in (0, 1]; or how many, by the name of a
            group or of a layer in it, where groups that are not named stay whole.
        round_to: See ``choose_channels``.
        scores: How much each channel matters, by group; None: ``score_channels``.

    Raises:
        ValueError: As ``choose_channels`` and ``find_groups``.
    """
    return cut_channels(model, choose_channels(model, keep, round_to=round_to, scores=scores))


def cut_channels(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a smaller copy, of the same class, that has only these channels.

    In evaluation mode it computes what ``mask_channels`` does. Layers lose filters, the batch
    norms behind them the statistics, and the layers that read them the inputs.

    Args:
        model: As for ``prune_channels``.
        kept: Indices of channels, by the name of a group or of a layer in it; groups that are not
            named stay whole.

    Raises:
        ValueError: There is no such layer, it has no such channel, one is named twice or none at
            all, or layers whose channels are coupled disagree.
    """
    groups = find_groups(model)
    cut = copy.deepcopy(model)
    for name, channels in _spread_kept(groups, kept).items():
        group, index = groups[name], torch.tensor(channels)
        for layer in map(cut.get_submodule, group.layers):
            _cut_outputs_(layer, index)
        for layer_name, per_channel in group.readers.items():
            places = index[:, None] * per_channel + torch.arange(per_channel)
            _cut_inputs_(cut.get_submodule(layer_name), places.flatten())
    return cut


@torch.no_grad()
def mask_channels(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of the same shapes whose other channels are zero wherever they are written.

    Args:
        model: As for ``prune_channels``.
        kept: As for ``cut_channels``.

    Raises:
        ValueError: As ``cut_channels``.
    """
    groups = find_groups(model)
    masked = copy.deepcopy(model)
    for name, channels in _spread_kept(groups, kept).items():
        dropped = torch.ones(groups[name].channels, dtype=torch.bool)
        dropped[channels] = False
        for layer in map(masked.get_submodule, groups[name].layers):
            for part in ("weight", "bias", "running_mean"):
                tensor = getattr(layer, part, None)
                if tensor is not None:
                    tensor[dropped] = 0.0
    return masked


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy with these tensors, whose layers have the shapes that they need.

    That is how a checkpoint of a cut network is read back into its architecture.

    Args:
        model: Of the same layers, of any widths.
        tensors: What ``state_dict`` of the cut network returned.

    Raises:
        ValueError: The names are others than those of the model's tensors, or the shapes do not
            fit each other.
    """
    fitted = copy.deepcopy(model)
    odd = sorted(fitted.state_dict().keys() ^ tensors.keys())
    if odd:
        where = "tensors" if odd[0] in tensors else "model"
        raise ValueError(
            f"These tensors are not those of this {type(model).__name__}: {odd[0]!r} is only in the"
            f" {where}. Names that only one of them has: {len(odd)}."
        )
    for name, layer in fitted.named_modules():
        parts = [f"{name}.{part}".lstrip(".") for part in layer.state_dict()]  # the weight first
        if parts and isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            shape = tensors[parts[0]].shape
            if len(shape) > 1 and getattr(layer, "groups", 1) == 1:
                _cut_inputs_(layer, torch.zeros(shape[1], dtype=torch.long))
            if shape:
                _cut_outputs_(layer, torch.zeros(shape[0], dtype=torch.long))
    for name, tensor in fitted.state_dict().items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"Tensor {name!r} has the shape {tuple(tensors[name].shape)}, but the model and the"
                f" other tensors need {tuple(tensor.shape)}."
            )
    fitted.load_state_dict(dict(tensors))
    find_groups(fitted)  # refuses layers that do not fit each other
    return fitted


def _cut_outputs_(layer: nn.Module, index: Tensor) -> None:
    """Let a layer keep only these of its output channels."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        _take_(layer, part, index, dim=0)
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = len(index)
    elif isinstance(layer, nn.Linear):
        layer.out_features = len(index)
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels = len(index)
        if layer.groups > 1:  # depthwise
            layer.in_channels = layer.groups = len(index)


def _cut_inputs_(layer: nn.Module, index: Tensor) -> None:
    """Let a layer read only these of its inputs."""
    _take_(layer, "weight", index, dim=1)
    if isinstance(layer, nn.Linear):
        layer.in_features = len(index)
    elif isinstance(layer, nn.Conv2d):
        layer.in_channels = len(index)


def _take_(layer: nn.Module, part: str, index: Tensor, dim: int) -> None:
    tensor = getattr(layer, part, None)
    if tensor is None:
        return
    smaller = tensor.detach().index_select(dim, index.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    setattr(layer, part, smaller)


def _spread_kept(
    groups: Mapping[str, ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Return the kept channels of each group that is named, in ascending order."""
    checked = {}
    for layer, channels in kept.items():
        group = groups[find_group(groups, layer)]
        wrong = [one for one in channels if one not in range(group.channels)]
        if wrong:
            raise ValueError(
                f"Layer {layer!r} has the channels 0 to {group.channels - 1}, not {wrong[0]}."
            )
        if len(channels) == 0:
            raise ValueError(
                f"Layer {layer!r} would be left without channels; at most {group.channels - 1} of"
                f" its {group.channels} can be cut."
            )
        if len(set(channels)) < len(channels):
            raise ValueError(f"A channel of {layer!r} is named twice: {sorted(channels)}.")
        checked[layer] = sorted(channels)
    return merge_by_group(groups, checked, "keep the same channels")
