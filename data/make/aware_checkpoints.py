"""Train the spine with rounding, a checkpoint for each width, and once more without.

    python data/make/aware_checkpoints.py --source FOLDER [BITS ...]

FOLDER holds the four published files of Fashion-MNIST (in Debian: the package
``dataset-fashion-mnist``). All start from ``resnet8_w32_fashion`` and have the same recipe; 32
bits are the control: as many more epochs of training in float32, then stored as float16. Training
goes on where it broke off, and the last states stay beside the checkpoints. On two cores of a 2023
server CPU an epoch takes about 110 s, with ``torch.compile``.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from course_utils import datasets, quantize
from course_utils.models import load_pretrained
from course_utils.training import Recipe, evaluate, train
from idx import read_tensors

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
START = "resnet8_w32_fashion"
RECIPE = Recipe(epochs=2, peak_learning_rate=0.01)
WIDTHS = [4, 2, 3, 32, 8, 6, 5, 7]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bits", nargs="*", type=int, default=WIDTHS, metavar="BITS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", type=Path, required=True)
    arguments = parser.parse_args()
    (images, labels), test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))
    calibration = datasets.load_fashion().calibration.images
    for bits in arguments.bits:
        name = f"{START}_longer" if bits == quantize.FLOAT_BITS else f"{START}_aware{bits}"
        state_file = CHECKPOINTS / f"{name}.train_state"

        def report(epoch: int, loss: float, model: torch.nn.Module, name: str = name) -> None:
            share = evaluate(model, *test)
            print(f"{name} epoch {epoch}: loss {loss:.4f}, test {share:.2%}", flush=True)

        start = load_pretrained(START)
        if bits != quantize.FLOAT_BITS:
            start = quantize.prepare_aware(start, bits, calibration)
        trained = train(
            start,
            images,
            labels,
            RECIPE,
            device=arguments.device,
            state_file=state_file,
            on_epoch=report,
            compiled=True,
        )
        if bits == quantize.FLOAT_BITS:
            weights = halve_matrices(trained)
            trained.load_state_dict(weights)  # measured as it will be read
            model = trained
        else:
            model = quantize.convert_aware(trained)
        about = {
            "recipe": json.dumps(asdict(RECIPE)),
            "start": START,
            "test_accuracy": f"{evaluate(model, *test):.4f}",
            "torch": torch.__version__,
        }
        file = CHECKPOINTS / f"{name}.safetensors"
        if bits == quantize.FLOAT_BITS:
            save_file(weights, file, about)
        else:
            quantize.save_aware(model, file, START, about)
        print(f"{name}: {about['test_accuracy']} of the test images, written", flush=True)


def halve_matrices(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a state dict with float16 for all but vectors."""
    return {
        name: (value.half() if value.ndim > 1 else value).contiguous()
        for name, value in model.state_dict().items()
    }


if __name__ == "__main__":
    main()
