"""Widen the spine and train it on: ``resnet8_w64_fashion``, the teacher of lesson 05.

    python data/make/teacher.py --source FOLDER [--precision bf16]

FOLDER holds the four published files of Fashion-MNIST (in Debian: the package
``dataset-fashion-mnist``). The network has twice the spine's channels. It starts from what the
spine knows: the new channels read at random, and nothing reads them yet, so that at first it
answers as the spine does (after Net2Net: Chen, Goodfellow & Shlens, 2016, arXiv 1511.05641).
Training goes on where it broke off. One core of a 2024 server CPU with bf16 instructions takes 110
seconds for an epoch.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from course_utils.models import build_model, load_pretrained
from course_utils.training import Recipe, evaluate, train
from idx import read_tensors
from packing import FLOATS, pack_

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
NARROW, WIDE = "resnet8_w32_fashion", "resnet8_w64_fashion"
RECIPE = Recipe(epochs=10)


def widen(narrow: nn.Module, wide: nn.Module) -> nn.Module:
    """Return the wide network with the narrow one inside, so that it answers alike.

    Args:
        narrow: Trained.
        wide: With freshly drawn weights, more channels, and the same layers; it is changed.
    """
    inside = narrow.state_dict()
    for name, fresh in wide.state_dict().items():
        old = inside[name]
        if fresh.shape == old.shape:
            fresh.copy_(old)
            continue
        corner = tuple(slice(size) for size in old.shape)
        if old.ndim > 1:  # the old outputs do not read the new channels
            fresh[: old.shape[0]] = 0
        fresh[corner] = old
    return wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--precision", default="fp32", help="bf16 where the CPU multiplies it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    (images, labels), test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))
    start = widen(load_pretrained(NARROW), build_model(WIDE))
    model = train(
        start,
        images,
        labels,
        RECIPE,
        precision=arguments.precision,
        state_file=CHECKPOINTS / f"{WIDE}.train_state",
        on_epoch=lambda epoch, loss, model: print(
            epoch, f"{loss:.4f}", evaluate(model, *test), flush=True
        ),
    )
    packed = {
        name: (one.half() if one.ndim > 1 else one).contiguous()
        for name, one in model.state_dict().items()
    }
    model.load_state_dict({name: one.float() for name, one in packed.items()}, strict=False)
    accuracy = evaluate(model, *test)
    about = {
        "recipe": json.dumps(asdict(RECIPE)),
        "start": NARROW,
        "precision": arguments.precision,
        "test_accuracy": f"{accuracy:.4f}",
        "torch": torch.__version__,
    }
    file = CHECKPOINTS / f"{WIDE}.safetensors"
    save_file(packed, file, about)
    pack_(file, FLOATS)
    print(f"{WIDE}: {accuracy:.2%} of the test images")


if __name__ == "__main__":
    main()
