"""The weights of a whole network in a file without their zeros."""

import json
from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from course_utils import models
from course_utils.quantize.weights import find_layers
from course_utils.sparse.formats import (
    GROUP,
    VALUE_BYTES,
    CompressedRows,
    MaskedValues,
    SparseMatrix,
    TwoOfFour,
)

FORMATS: dict[str, type[SparseMatrix]] = {
    kind.name: kind for kind in (CompressedRows, MaskedValues, TwoOfFour)
}
DENSE, SMALLEST = "dense", "smallest"


def compress(model: nn.Module, choose: str | Mapping[str, str] = SMALLEST) -> bytes:
    """Return a file with all tensors of a model, the weights of its layers without their zeros.

    It is a safetensors file: the weights of each ``nn.Conv2d`` and ``nn.Linear`` are the bytes
    that its format packs, all other tensors are there as they are.

    Args:
        model: Zeros that are held through training have to be released before.
        choose: "csr", "mask", "2:4", "dense", or "smallest", which takes for each layer what has
            the fewest bytes (2:4 never has fewer than a mask); or one of these by the name of
            each layer, the others dense. "2:4" leaves layers dense whose rows do not divide into
            fours.

    Raises:
        ValueError: There is no such format or layer, or a weight cannot be stored in it; the
            layer is named.
    """
    layers = find_layers(model)
    chosen = _spread(choose, layers)
    check_released(model)
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    formats, shapes = {}, {}
    for layer in layers:
        weight = f"{layer}.weight".lstrip(".")
        try:
            stored = pack_smallest(tensors[weight], chosen[layer])
        except ValueError as error:
            raise ValueError(f"Layer {layer!r}: {error}") from None
        if stored is not None:
            formats[weight], shapes[weight] = stored.name, list(tensors[weight].shape)
            tensors[weight] = torch.frombuffer(bytearray(stored.pack()), dtype=torch.uint8)
    notes = {"formats": json.dumps(formats), "shapes": json.dumps(shapes)} if formats else None
    return save({name: one.clone().contiguous() for name, one in tensors.items()}, notes)


def decompress(content: bytes) -> dict[str, Tensor]:
    """Return the state dict in a file of ``compress``, exact but for the sign of zeros.

    Raises:
        ValueError: The file is not one of ``compress``, or it is damaged; the weight is named.
    """
    formats = list_formats(content)
    tensors = load(content)
    shapes = json.loads(models.read_metadata(content)["shapes"]) if formats else {}
    for name, kind in formats.items():
        try:
            matrix = FORMATS[kind].unpack(tensors[name].numpy().tobytes())
            tensors[name] = matrix.to_dense().reshape(shapes[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"The weights {name!r} in this file are damaged: {error}") from None
    return tensors


def list_formats(content: bytes) -> dict[str, str]:
    """Return the format of each weight in a file of ``compress`` that is not dense, by name.

    Raises:
        ValueError: The file is not one of ``compress``.
    """
    try:
        tensors = load(content)
    except Exception as error:  # safetensors has classes of its own
        raise ValueError(f"This is no file of sparse.compress ({error!s:.80}).") from None
    try:
        formats: dict[str, str] = json.loads(models.read_metadata(content)["formats"])
    except (KeyError, ValueError):  # nothing is noted: all of it is dense
        return {}
    if not (formats.keys() <= tensors.keys() and set(formats.values()) <= set(FORMATS)):
        raise ValueError("This file names weights or formats that are not known here.")
    return formats


def pack_smallest(weight: Tensor, choose: str = SMALLEST) -> SparseMatrix | None:
    """Return a layer's weights in the format chosen; None: dense is chosen, or is the smallest.

    Args:
        weight: (channels out, ...) float32.
        choose: See ``compress``.

    Raises:
        ValueError: The weights cannot be stored in this format.
    """
    matrix = weight.flatten(1)
    if choose == DENSE or (choose == TwoOfFour.name and matrix.shape[1] % GROUP):
        return None
    if choose != SMALLEST:
        return FORMATS[choose].from_dense(matrix)
    values = int(torch.count_nonzero(matrix))
    rows, inputs = matrix.shape
    candidates: tuple[type[SparseMatrix], ...] = (CompressedRows, MaskedValues)
    smallest = min(candidates, key=lambda kind: kind.count_bytes(rows, inputs, values))
    is_smaller = smallest.count_bytes(rows, inputs, values) < VALUE_BYTES * matrix.numel()
    return smallest.from_dense(matrix) if is_smaller else None


def check_released(model: nn.Module) -> None:
    """Raise a ValueError if a layer has no weights of its own, but computes them in each call."""
    for name in find_layers(model):
        if nn.utils.parametrize.is_parametrized(model.get_submodule(name)):
            raise ValueError(
                f"Layer {name!r} holds its zeros through training; call prune.release_zeros, and"
                " take the model that it returns."
            )


def _spread(choose: str | Mapping[str, str], layers: list[str]) -> dict[str, str]:
    """Return what was chosen for each layer."""
    by_layer = dict.fromkeys(layers, choose) if isinstance(choose, str) else dict(choose)
    known = [SMALLEST, DENSE, *FORMATS]
    if unknown := [name for name in by_layer if name not in layers]:
        raise ValueError(f"There are no layers {unknown} with weights; there are {layers}.")
    if (isinstance(choose, str) and choose not in known) or not {*by_layer.values()} <= {*known}:
        raise ValueError(f"There is no format {choose!r}; choose from {known}.")
    return {name: by_layer.get(name, DENSE) for name in layers}
