"""Files of pruned networks: one bit for each weight, and those that are left in 8 or 16."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from course_utils import models, verified

KEPT, VALUES, STEPS = ".kept", ".values", ".steps"
LARGEST = 127  # integer of 8 bits


def save_pruned(
    model: nn.Module,
    file: Path,
    architecture: str,
    about: Mapping[str, str],
    removed_blocks: tuple[str, ...] = (),
) -> None:
    """Write a pruned network: weights as float16, zeros as one bit each.

    Args:
        model: With plain weights (see ``release_zeros``); it may have fewer channels and blocks
            than its architecture.
        file: A ``.safetensors`` file.
        architecture: The name in ``models.ARCHITECTURES`` that it was made from.
        about: What a reader of the file should know, e.g. the recipe.
        removed_blocks: Whose branches were removed from the architecture.
    """
    metadata = {
        **about,
        "architecture": architecture,
        "removed_blocks": json.dumps(removed_blocks),
    }
    tensors, shapes = pack_tensors(model.state_dict())
    content = save(tensors, {**metadata, "shapes": json.dumps(shapes)})
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)


def load_pruned(checkpoint: str) -> nn.Module:
    """Return a pruned network of the course, in evaluation mode on the CPU.

    Args:
        checkpoint: The file in ``data/checkpoints``, without its ending.

    Raises:
        ValueError: There is no such file, or it is none of ``save_pruned``.
        course_utils.verified.DamagedFileError: It is missing or damaged.
    """
    file = f"checkpoints/{checkpoint}.safetensors"
    if file not in verified.published_digests():
        stems = (Path(name).stem for name in verified.published_digests())
        known = sorted(stem for stem in stems if "_fashion_pruned_" in stem)
        raise ValueError(f"There is no pruned network {checkpoint!r}; there are {known}.")
    return read_pruned(verified.read(file))


def read_pruned(content: bytes) -> nn.Module:
    """Return the network in a file of ``save_pruned``.

    Raises:
        ValueError: It is no such file.
    """
    from course_utils.prune.blocks import remove_blocks
    from course_utils.prune.channels import fit_shapes

    try:
        about = models.read_metadata(content)
        tensors = unpack_tensors(load(content), json.loads(about["shapes"]))
        architecture, removed = about["architecture"], json.loads(about["removed_blocks"])
    except Exception as error:  # safetensors, json and NumPy have classes of their own
        raise ValueError(f"This is no file of prune.save_pruned ({error!s:.80}).") from None
    model = models.build_model(architecture)
    if removed:
        model = remove_blocks(model, removed)
    return fit_shapes(model, tensors).eval()


def pack_tensors(
    state: Mapping[str, Tensor], bits: int = 16
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return what a file holds of a state dict, and the shapes of what has its zeros left out.

    A matrix or a filter with zeros becomes two tensors: a bit for each weight, and the weights
    that are left. These are float16, or whole multiples of a step of its row, as in lesson 02.
    Vectors stay as they are.

    Args:
        state: Of a network with plain weights.
        bits: 16, or 8 for integers and steps.

    Raises:
        ValueError: There is no file of so many bits.
    """
    if bits not in (8, 16):
        raise ValueError(f"Weights are stored in 8 or 16 bits, not in {bits}.")
    packed: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().contiguous()
        if tensor.ndim < 2 or not tensor.is_floating_point():
            packed[name] = tensor
            continue
        kept = tensor != 0
        stored = tensor.half()
        if bits == 8:
            rows = tensor.flatten(1)
            steps = rows.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
            stored = torch.round(rows / steps[:, None]).to(torch.int8).view_as(tensor)
            packed[name + STEPS] = steps
        if bool(kept.all()):
            packed[name] = stored
            continue
        shapes[name] = list(tensor.shape)
        packed[name + KEPT] = torch.from_numpy(np.packbits(kept.flatten().numpy()))
        packed[name + VALUES] = stored[kept]
    return packed, shapes


def unpack_tensors(
    packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """Return the state dict of what ``pack_tensors`` made, in float32."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith((VALUES, STEPS)):
            continue
        whole = name.removesuffix(KEPT)
        if name.endswith(KEPT):
            count = math.prod(shapes[whole])
            kept = torch.from_numpy(np.unpackbits(tensor.numpy(), count=count)).bool()
            values = packed[whole + VALUES]
            tensor = torch.zeros(count, dtype=values.dtype)
            tensor[kept] = values
            tensor = tensor.view(shapes[whole])
        steps = packed.get(whole + STEPS)
        if steps is not None:
            tensor = tensor * steps.view(-1, *[1] * (tensor.ndim - 1))
        state[whole] = tensor.float() if tensor.is_floating_point() else tensor
    return state
