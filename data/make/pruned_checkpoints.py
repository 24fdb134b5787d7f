"""Prune the spine and train what is left: a checkpoint for each sparsity, cut and control.

    python data/make/pruned_checkpoints.py --source FOLDER [NAME ...]

FOLDER holds the four published files of Fashion-MNIST (in Debian: the package
``dataset-fashion-mnist``). ``zeros90`` has 90 % of its weights zero, and starts from ``zeros80``,
that from ``zeros70``, and so on (iterative pruning); its last four epochs blank nothing out of the
images. ``zeros0`` is the control: dense, trained on like those last four. ``of4`` has two of each
four weights. ``keep50`` has half of its channels, ``keep60_by8`` 60 % rounded to multiples of 8.
``small8`` is the ResNet-8 of width 8, trained from the start. Training goes on where it broke off;
what is there already is not trained again. One core of a 2024 server CPU with bf16 instructions
takes 48 s for an epoch of the whole network.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils import prune
from course_utils.models import ResNet8, load_pretrained
from course_utils.training import Recipe, evaluate, train
from idx import read_tensors

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SPINE, LENET = "resnet8_w32_fashion", "lenet_300_100_fashion"
SPARSITIES = (50, 70, 80, 90, 95, 99)  # each starts from the one before
SHARES = (50, 60, 40, 25, 20)
ZEROS = Recipe(epochs=4, peak_learning_rate=0.05)
TO_90 = Recipe(epochs=10, peak_learning_rate=0.05)
FINISH = Recipe(epochs=4, peak_learning_rate=0.02, erase_pixels=0)
CUTS = Recipe(epochs=12, peak_learning_rate=0.05, erase_pixels=0)
PLAIN = Recipe(epochs=20, peak_learning_rate=0.05, flip=False, shift_pixels=0, erase_pixels=0)
SMALL = Recipe(epochs=30)  # as the larger networks of the course


@dataclass(frozen=True)
class Plan:
    """How a checkpoint is made.

    Attributes:
        architecture: Whose layers it has, or fewer of them.
        recipe: Of the training after the cut, or while weights become zero.
        train: Takes images, labels, the recipe and settings of ``training.train``.
        removed_blocks: Whose branches are gone.
        finish: Of a second training, with the zeros held; None: there is none.
    """

    architecture: str
    recipe: Recipe
    train: Callable[..., nn.Module]
    removed_blocks: tuple[str, ...] = ()
    finish: Recipe | None = None


def make_plans() -> dict[str, Plan]:
    """Return all checkpoints, those first that most depends on."""

    def zeros(percent: int, start: str | None, architecture: str, recipe: Recipe) -> Plan:
        def make(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
            denser = load_pretrained(architecture)
            if start is not None:
                denser = prune.read_pruned((CHECKPOINTS / f"{start}.safetensors").read_bytes())
            return prune.train_pruned(denser, percent / 100, images, labels, recipe, **settings)

        return Plan(architecture, recipe, make)

    def longer(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
        return train(load_pretrained(SPINE), images, labels, recipe, **settings)

    def of4(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
        pruned = prune.prune_n_of_m(load_pretrained(SPINE), 2, 4)
        return prune.train_held(pruned, images, labels, recipe, **settings)

    def cut(percent: int, round_to: int = 1) -> Plan:
        def make(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
            dense = load_pretrained(SPINE)
            scores = prune.score_channels(dense, by="group")
            smaller = prune.prune_channels(dense, percent / 100, round_to=round_to, scores=scores)
            return train(smaller, images, labels, recipe, **settings)

        return Plan(SPINE, CUTS, make)

    def without(*blocks: str) -> Plan:
        def make(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
            smaller = prune.remove_blocks(load_pretrained(SPINE), blocks)
            return train(smaller, images, labels, recipe, **settings)

        return Plan(SPINE, FINISH, make, blocks)

    def small(width: int) -> Plan:
        def make(images: Tensor, labels: Tensor, recipe: Recipe, **settings: object) -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return train(ResNet8(width), images, labels, recipe, **settings)

        return Plan(SPINE, SMALL, make)

    plans = {f"{LENET}_pruned_zeros92": zeros(92, None, LENET, PLAIN)}
    plans[f"{LENET}_pruned_zeros0"] = zeros(0, None, LENET, PLAIN)
    start = None
    for percent in SPARSITIES:
        name = f"{SPINE}_pruned_zeros{percent}"
        plans[name] = zeros(percent, start, SPINE, ZEROS)
        if percent == 90:
            plans[name] = replace(plans[name], recipe=TO_90, finish=FINISH)
        start = name
    for percent in SHARES:
        plans[f"{SPINE}_pruned_keep{percent}"] = cut(percent)
        if percent not in (25, 50):  # these are multiples of 8 as they are
            plans[f"{SPINE}_pruned_keep{percent}_by8"] = cut(percent, 8)
    plans[f"{SPINE}_pruned_of4"] = Plan(SPINE, ZEROS, of4)
    plans[f"{SPINE}_pruned_without_block3"] = without("block3")
    for width in (8,):
        plans[f"{SPINE}_pruned_small{width}"] = small(width)
    plans[f"{SPINE}_pruned_zeros0"] = Plan(SPINE, FINISH, longer)
    return plans


def main() -> None:
    plans = make_plans()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="or the end of one")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="bf16 where the CPU multiplies it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = dict(plans)
    if arguments.names:
        chosen = {
            name: plan
            for part in arguments.names
            for name, plan in plans.items()
            if name.endswith(part)
        }
    if not chosen:
        parser.error(f"no checkpoint of that name; choose from {', '.join(plans)}")
    (images, labels), test = (read_tensors(arguments.source, part) for part in ("train", "t10k"))
    for name, plan in chosen.items():
        file = CHECKPOINTS / f"{name}.safetensors"
        if file.exists():
            continue
        state_file = CHECKPOINTS / f"{name}.train_state"

        def report(epoch: int, loss: float, model: nn.Module, name: str = name) -> None:
            share = evaluate(model, *test)
            print(f"{name} epoch {epoch}: loss {loss:.4f}, test {share:.2%}", flush=True)

        settings = {
            "device": arguments.device,
            "precision": arguments.precision,
            "on_epoch": report,
        }
        model = plan.train(images, labels, plan.recipe, state_file=state_file, **settings)
        about = {
            "recipe": json.dumps(asdict(plan.recipe)),
            "precision": arguments.precision,
            "torch": torch.__version__,
        }
        if plan.finish is not None:
            finishing = CHECKPOINTS / f"{name}_finish.train_state"
            model = prune.train_held(
                model, images, labels, plan.finish, state_file=finishing, **settings
            )
            finishing.unlink()
            about["finish"] = json.dumps(asdict(plan.finish))
        prune.save_pruned(model, file, plan.architecture, about, plan.removed_blocks)
        stored = prune.read_pruned(file.read_bytes())  # its weights are rounded to 16 bits
        about["test_accuracy"] = f"{evaluate(stored, *test):.4f}"
        prune.save_pruned(model, file, plan.architecture, about, plan.removed_blocks)
        state_file.unlink()
        print(f"{name}: {about['test_accuracy']} of the test images, written", flush=True)


if __name__ == "__main__":
    main()
