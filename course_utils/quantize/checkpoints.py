"""Files of networks that were trained with rounding: integers and steps, as they would ship."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from course_utils import models, verified
from course_utils.quantize.aware import LearnedStep, convert_aware, find_roundings, prepare_aware
from course_utils.quantize.integers import QuantizedTensor
from course_utils.quantize.weights import find_layers, quantized_weights, remember_grid_


def save_aware(
    model: nn.Module, file: Path, architecture: str, about: Mapping[str, str]
) -> None:
    """Write a network from ``train_aware`` or ``convert_aware``.

    Args:
        model: The converted network.
        file: A ``.safetensors`` file.
        architecture: The name in ``models.ARCHITECTURES`` that it was made from.
        about: What a reader of the file should know, e.g. the recipe.

    Raises:
        ValueError: The model has no integers.
    """
    grids = quantized_weights(model)
    roundings = find_roundings(model)
    if not grids or not roundings:
        raise ValueError("Only what quantize.convert_aware returned can be written.")
    tensors: dict[str, Tensor] = {}
    for name, grid in grids.items():
        tensors[name] = grid.integers.to(torch.int8)
        tensors[f"{name}.step"] = grid.scale.flatten()
    for name in find_layers(model):
        bias = model.get_submodule(name).bias
        if bias is not None:
            tensors[f"{name}.bias"] = bias  # type: ignore[assignment]
    for name, rounding in roundings.items():
        tensors[f"{name}.step"] = rounding.step.data
    widths = {name.removesuffix(".weight"): grid.bits for name, grid in grids.items()}
    limits = {name: (rounding.low, rounding.high) for name, rounding in roundings.items()}
    metadata = {
        **about,
        "architecture": architecture,
        "widths": json.dumps(widths),
        "limits": json.dumps(limits),
    }
    save_file({name: one.contiguous() for name, one in tensors.items()}, file, metadata)
