"""Train the checkpoints of the course on all 60,000 training images of Fashion-MNIST.

    python data/make/checkpoints.py --source FOLDER [NAME ...]

FOLDER holds the four published files (in Debian: the package ``dataset-fashion-mnist``,
folder ``/usr/share/datasets/fashion-mnist``). Training goes on where it broke off. On two
cores of a 2023 server CPU the width-32 ResNet takes about 80 s an epoch.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from course_utils.models import build_model
from course_utils.training import Recipe, evaluate, train
from idx import read_tensors
from packing import FLOATS, pack_

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"

# A dense network sees a shifted picture as another one: augmentation costs it two points.
PLAIN = Recipe(epochs=20, peak_learning_rate=0.1, flip=False, shift_pixels=0, erase_pixels=0)
RECIPES = {
    "resnet8_w32_fashion": Recipe(epochs=30),
    "resnet8_w16_fashion": Recipe(epochs=30),
    "lenet_300_100_fashion": PLAIN,
    "mlp_1024_fashion": PLAIN,
}
PACKED = ("mlp_1024_fashion",)  # the largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    (images, labels), test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))

    for name in arguments.names:
        if name not in RECIPES:
            parser.error(f"no model {name!r}; choose from {', '.join(RECIPES)}")
        state_file = CHECKPOINTS / f"{name}.train_state"

        def report(epoch: int, loss: float, model: torch.nn.Module, name: str = name) -> None:
            share = evaluate(model, *test)
            print(f"{name} epoch {epoch}: loss {loss:.4f}, test {share:.2%}", flush=True)

        model = train(
            build_model(name),
            images,
            labels,
            RECIPES[name],
            device=arguments.device,
            state_file=state_file,
            on_epoch=report,
        )
        metadata = {
            "recipe": json.dumps(asdict(RECIPES[name])),
            "test_accuracy": f"{evaluate(model, *test):.4f}",
            "torch": torch.__version__,
        }
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        file = CHECKPOINTS / f"{name}.safetensors"
        save_file(weights, file, metadata)
        if name in PACKED:
            pack_(file, FLOATS)
        state_file.unlink()
        print(f"{name}: {metadata['test_accuracy']} of the test images, written", flush=True)


if __name__ == "__main__":
    main()
