"""Our channel pruning beside Torch-Pruning's: accuracy before and after the same fine-tuning.

    .venv/bin/python benchmarks/pruning_peers.py [MODEL ...] [--keep 0.5] [--epochs 4] [--record]

All start from the same checkpoint, keep the same share of the channels (or, where the channels of
all layers are compared with each other, as many multiply-adds), see the same images in the same
order, and have the same recipe; the control is trained as long with all channels. What is scored
by gradients is so on the same training images. None sees a test image before its accuracy is
counted. Torch-Pruning's training that makes channels small before they are cut is left out: it is
more training than the others get. ``--record`` writes ``data/recorded/pruning_peers.json`` as well.
It needs ``pip install --no-deps torch-pruning``.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata

import numpy as np
import torch
import torch_pruning as tp
from recording import write_record
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import datasets, machine, models, quantize
from course_utils.layer_costs import count_costs
from course_utils.prune.channel_choice import score_channels, score_channels_first_order
from course_utils.prune.channels import prune_channels
from course_utils.training import Recipe, evaluate, train

MODELS = ["resnet8_w16_fashion"]
CONTROL = "all channels, trained as long"
SCORED_IMAGES = 1000  # for the scores that need gradients
LARGEST_CUT = 0.9  # of one layer, where all layers' channels are compared with each other
DEFINITIONS = {
    "keep": "the share of each group's channels that is kept; of the global row, none was set",
    "macs": "multiply-adds of one image, batch norms folded",
    "before": "accuracy in percent after the cut, before fine-tuning",
    "after": "accuracy in percent after fine-tuning, for each seed of its order and augmentation",
    "mean_after": "of these",
}

Method = Callable[[nn.Module, float, Tensor, Tensor], nn.Module]


def cut_by_norm(model: nn.Module, keep: float, images: Tensor, labels: Tensor) -> nn.Module:
    return prune_channels(model, keep)


def cut_by_group(model: nn.Module, keep: float, images: Tensor, labels: Tensor) -> nn.Module:
    return prune_channels(model, keep, scores=score_channels(model, by="group"))


def cut_by_first_order(model: nn.Module, keep: float, images: Tensor, labels: Tensor) -> nn.Module:
    scores = score_channels_first_order(model, images, labels)
    return prune_channels(model, keep, scores=scores)


def cut_by_peer(importance: tp.importance.Importance, **settings: object) -> Method:
    """Return a method that cuts the same share of each group by Torch-Pruning's importance."""

    def cut(model: nn.Module, keep: float, images: Tensor, labels: Tensor) -> nn.Module:
        smaller = copy.deepcopy(model).eval()
        F.cross_entropy(smaller(images), labels).backward()  # some of its scores need gradients
        pruner = tp.pruner.GroupNormPruner(
            smaller,
            images[:1],
            importance=importance,
            pruning_ratio=1 - keep,
            ignored_layers=[find_last(smaller)],
            **settings,
        )
        pruner.step()
        smaller.zero_grad()
        return smaller

    return cut


def cut_globally(model: nn.Module, keep: float, images: Tensor, labels: Tensor) -> nn.Module:
    """Return what Torch-Pruning makes if it also chooses how many channels each layer keeps.

    It has the fewest multiply-adds that are not fewer than those of the same share everywhere.
    """
    wanted = count_macs(prune_channels(model, keep), images)
    cut = cut_by_peer(
        tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        max_pruning_ratio=LARGEST_CUT,
    )
    low, high = keep / 2, 1.0  # of the shares: low has too few multiply-adds, high enough
    best = copy.deepcopy(model)
    for _ in range(8):
        middle = (low + high) / 2
        candidate = cut(model, middle, images, labels)
        if count_macs(candidate, images) < wanted:
            low = middle
        else:
            high, best = middle, candidate
    return best


METHODS: dict[str, Method] = {
    "ours, norm": cut_by_norm,
    "ours, norm of the group": cut_by_group,
    "ours, first order": cut_by_first_order,
    "Torch-Pruning, GroupNormPruner": cut_by_peer(tp.importance.GroupMagnitudeImportance()),
    "Torch-Pruning, MagnitudeImportance of the first layer": cut_by_peer(
        tp.importance.MagnitudeImportance(group_reduction="first", normalizer=None)
    ),
    "Torch-Pruning, TaylorImportance": cut_by_peer(tp.importance.TaylorImportance()),
    "Torch-Pruning, global": cut_globally,
}


def find_last(model: nn.Module) -> nn.Module:
    """Return the layer that writes the logits, which is never cut."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]


def count_macs(model: nn.Module, images: Tensor) -> int:
    return count_costs(quantize.fold_batch_norms(model), images[:1].numpy()).macs


def compare(
    name: str,
    keeps: list[float],
    recipe: Recipe,
    seeds: int,
    shown: datasets.Split,
    test: datasets.Split,
) -> dict[str, object]:
    """Return what the record says of a model that trains on what it is shown; print it, too."""
    images, labels = map(torch.from_numpy, (shown.images, shown.labels))
    model = models.load_pretrained(name)

    def describe(label: str, start: nn.Module) -> dict[str, object]:
        after = []
        for seed in range(seeds):
            trained = train(start, images, labels, replace(recipe, seed=seed))
            after.append(count_right(trained, test))
        row = {
            "macs": count_macs(start, images),
            "parameters": models.count_parameters(start),
            "before": count_right(start, test),
            "after": after,
            "mean_after": round(float(np.mean(after)), 2),
        }
        print(
            f"{label:55s} {row['macs']:10,d}  {row['parameters']:10,d}  {row['before']:8.2f}"
            f"  {row['mean_after']:7.2f}  {' '.join(f'{one:.2f}' for one in after)}",
            flush=True,
        )
        return row

    print(f"\n{name}\n{'':55s}       MACs  parameters  before %  after %  of each seed")
    rows = [{"method": CONTROL, "keep": 1.0} | describe(CONTROL, model)]
    for keep in keeps:
        for label, cut in METHODS.items():
            smaller = cut(model, keep, images[:SCORED_IMAGES], labels[:SCORED_IMAGES])
            is_global = label == "Torch-Pruning, global"
            noted = {"method": label} | ({} if is_global else {"keep": keep})
            rows.append(noted | describe(f"{label}, {keep:g}", smaller))
    return {"model": name, "rows": rows}


def count_right(model: nn.Module, split: datasets.Split) -> float:
    right = evaluate(
        copy.deepcopy(model), torch.from_numpy(split.images), torch.from_numpy(split.labels)
    )
    return round(100 * right, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5], metavar="SHARE")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1, help="how often each is fine-tuned")
    parser.add_argument("--images", type=int, default=12_000, help="how many to train on")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--peak-learning-rate", type=float, default=0.02)
    parser.add_argument("--record", action="store_true", help="write pruning_peers.json as well")
    arguments = parser.parse_args()
    recipe = Recipe(arguments.epochs, peak_learning_rate=arguments.peak_learning_rate)
    fashion = datasets.load_fashion()
    shown, test = fashion.train.first(arguments.images), fashion.test.first(arguments.test_images)
    here = machine.describe()
    versions = here.versions | {"torch-pruning": metadata.version("torch-pruning")}
    print(f"{here}, {here.system}; {versions}\n{recipe}")
    rows = [
        compare(name, arguments.keep, recipe, arguments.seeds, shown, test)
        for name in arguments.models
    ]
    if arguments.record:
        write_record(
            "pruning_peers",
            "our channel pruning beside Torch-Pruning's",
            recipe=recipe,
            shown=shown,
            test=test,
            versions=versions,
            definitions=DEFINITIONS,
            models=rows,
        )


if __name__ == "__main__":
    main()
