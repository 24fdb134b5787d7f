"""Files of networks that were trained with rounding: integers and steps, as they would ship."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from course_utils import models, verified
from course_utils.quantize.aware import find_roundings, insert_roundings_
from course_utils.quantize.folding import fold_batch_norms, trace
from course_utils.quantize.integers import QuantizedTensor
from course_utils.quantize.rounding import LearnedStep
from course_utils.quantize.weights import find_layers, quantized_weights, remember_grid_


def save_aware(model: nn.Module, file: Path, architecture: str, about: Mapping[str, str]) -> None:
    """Write a network from ``train_aware`` or ``convert_aware``.

    Args:
        model: The converted network.
        file: A ``.safetensors`` file.
        architecture: The name in ``models.ARCHITECTURES`` that it was made from, batch norms and
            all.
        about: What a reader of the file should know, e.g. the recipe.

    Raises:
        ValueError: The model has no integers, or is not of this architecture.
    """
    grids, roundings = quantized_weights(model), find_roundings(model)
    if not grids or not roundings:
        raise ValueError("Only what quantize.convert_aware returned can be written.")
    tensors: dict[str, Tensor] = {}
    for name, grid in grids.items():
        layer = name.removesuffix(".weight")
        tensors[name] = grid.integers.to(torch.int8)
        tensors[f"{layer}.steps"] = grid.scale.flatten()
        if model.get_submodule(layer).bias is not None:
            tensors[f"{layer}.bias"] = model.get_submodule(layer).bias  # type: ignore[assignment]
    for name, rounding in roundings.items():
        tensors[f"{name}.step"] = rounding.step.data
    metadata = {
        **about,
        "architecture": architecture,
        "widths": json.dumps({name.removesuffix(".weight"): g.bits for name, g in grids.items()}),
        "limits": json.dumps({name: (one.low, one.high) for name, one in roundings.items()}),
    }
    content = save({name: one.contiguous() for name, one in tensors.items()}, metadata)
    read_aware(content, architecture)  # what could not be read is not written
    file.write_bytes(content)


def load_aware(architecture: str, bits: int) -> nn.Module:
    """Return a checkpoint of the course that was trained with rounding, converted.

    Args:
        architecture: A key of ``models.ARCHITECTURES``.
        bits: 2 to 8, of all but the first and the last layer.

    Raises:
        ValueError: There is no such checkpoint.
        course_utils.verified.DamagedFileError: It is missing or damaged.
    """
    file = f"checkpoints/{architecture}_aware{bits}.safetensors"
    if file not in verified.published_digests():
        names = (Path(name) for name in verified.published_digests())
        known = sorted(name.stem for name in names if name.match("*_aware?.safetensors"))
        raise ValueError(
            f"No {architecture!r} was trained for {bits} bits: no data/{file} is known, only"
            f" {', '.join(known) or 'none'}."
        )
    return read_aware(verified.read(file), architecture)


def read_aware(content: bytes, architecture: str) -> nn.Module:
    """Return the network in a file of ``save_aware``.

    Raises:
        ValueError: It is of another architecture, no such file, or there is no such architecture.
    """
    try:
        about = models.read_metadata(content)
        tensors = load(content)
        found = about["architecture"]
        widths, limits = json.loads(about["widths"]), json.loads(about["limits"])
    except Exception as error:  # safetensors and json have classes of their own
        raise ValueError(f"This is no file of quantize.save_aware ({error!s:.80}).") from None
    if found != architecture:
        raise ValueError(
            f"This checkpoint is of the architecture {found!r}, but {architecture!r} was asked for."
        )
    traced = trace(models.build_model(architecture))
    unknown = torch.ones(())
    roundings = {
        name: LearnedStep(tensors.get(f"{name}.step", unknown), low, high, 1)
        for name, (low, high) in limits.items()
    }
    insert_roundings_(traced, roundings)
    model = fold_batch_norms(traced)
    is_whole = {name: tuple(one.shape) for name, one in tensors.items()} == _expect_shapes(model)
    is_whole &= [*widths] == find_layers(model) and limits.keys() == find_roundings(model).keys()
    if not is_whole:
        raise ValueError(f"The layers or roundings in this file are not those of {architecture!r}.")
    for name, bits in widths.items():
        layer = model.get_submodule(name)
        integers = tensors[f"{name}.weight"].int()
        scale = tensors[f"{name}.steps"].view(-1, *[1] * (integers.ndim - 1))
        zero = torch.zeros_like(scale).int()
        remember_grid_(layer, QuantizedTensor(integers, scale, zero, bits))
        if layer.bias is not None:
            layer.bias = nn.Parameter(tensors[f"{name}.bias"])
    return model.requires_grad_(False).eval()


def _expect_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a file of this network holds."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    channels = {f"{name}.steps": shapes[f"{name}.weight"][:1] for name in find_layers(model)}
    return {**shapes, **channels}
