"""Pruning: what can go from a network, how, and what is left of its accuracy."""

from course_utils.prune.blocks import find_blocks, remove_blocks
from course_utils.prune.channel_choice import (
    choose_channels,
    score_channels,
    score_channels_first_order,
)
from course_utils.prune.channels import cut_channels, fit_shapes, mask_channels, prune_channels
from course_utils.prune.checkpoints import load_pruned, read_pruned, save_pruned
from course_utils.prune.groups import ChannelGroup, find_groups
from course_utils.prune.holding import hold_zeros, release_zeros
from course_utils.prune.magnitude import (
    measure_sparsity,
    prune_n_of_m,
    prune_weights,
    score_first_order,
)
from course_utils.prune.training import (
    cubic_sparsity,
    rewind_weights,
    train_held,
    train_pruned,
)

__all__ = [
    "ChannelGroup", "choose_channels", "cubic_sparsity", "cut_channels", "find_blocks",
    "find_groups", "fit_shapes", "hold_zeros", "load_pruned", "mask_channels", "measure_sparsity",
    "prune_channels", "prune_n_of_m", "prune_weights", "read_pruned", "release_zeros",
    "remove_blocks", "rewind_weights", "save_pruned", "score_channels",
    "score_channels_first_order", "score_first_order", "train_held", "train_pruned",
]  # fmt: skip
