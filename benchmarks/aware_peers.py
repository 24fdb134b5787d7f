"""Our quantization-aware training against torchao's: accuracy, seconds a step, what really runs.

    .venv/bin/python benchmarks/aware_peers.py [MODEL ...] [--epochs 4] [--record]

All start from the same checkpoint, see the same images in the same order, and have the same
recipe; the control is trained as long in float32. Ranges start from the same 200 calibration
images. None sees a test image before its accuracy is counted. ``--record`` writes
``data/recorded/aware_peers.json`` as well: only on a quiet machine. It needs
``pip install -e '.[peers]'``, and a C++ compiler for one of the rows.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import peers
import torch
import torchao_aware
from int8_peers import classify, one_core
from recording import write_record
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import datasets, machine, measure, models, quantize, runtimes
from course_utils.runtimes import Runner
from course_utils.runtimes.torch_eager import use_threads
from course_utils.training import Recipe, evaluate, train

MODELS = ["resnet8_w32_fashion", "resnet8_w16_fashion"]
CONTROL = "float32, trained as long"
CALIBRATION_IMAGES = 200
STEPS_S, INFERENCE_S = 300, 90  # at most, for timing
DEFINITIONS = {
    "bits": "of weights and of what a layer reads; the first and the last layer have 8",
    "before": "accuracy in percent before this training: what rounding after training gives",
    "trained": "accuracy in percent of the network with rounding simulated, as it was trained",
    "converted": "accuracy in percent of the converted network, run in float32 by PyTorch",
    "same_as_trained": "percent of the test images that get the class that 'trained' gives them",
    "step_s": "median seconds of a training step in turns: one batch, one thread, no compiler",
    "int8_layers": "of convolutions and linear layers: those that an int8 kernel computes",
    "accuracy": "in percent, of the kernels that are timed, one image a call",
    "latency_ms": "median of one image, one thread, in turns",
    "speed": "times as fast as fp32 in ONNX Runtime: ratio, and its 99 % interval",
}


@dataclass(frozen=True)
class Method:
    """A way to train with rounding.

    Attributes:
        bits: Of all layers but the first and the last.
        prepare: Takes a network and calibration images; returns what is trained.
        freeze: Returns a trained one that no longer changes, to look at its answers.
        convert: Returns what ships of a trained one.
        builders: How that can be run, by runtime.
    """

    bits: int
    prepare: Callable[[nn.Module, np.ndarray], nn.Module]
    freeze: Callable[[nn.Module], nn.Module]
    convert: Callable[[nn.Module], nn.Module]
    builders: dict[str, Callable[[nn.Module, np.ndarray], Runner]]


def make_ours(bits: int) -> Method:
    def build(model: nn.Module, images: np.ndarray) -> Runner:
        return peers.count_int8(runtimes.build(model, images))

    return Method(
        bits,
        lambda model, images: quantize.prepare_aware(model, bits, images),
        lambda prepared: copy.deepcopy(prepared).eval(),
        quantize.convert_aware,
        {"ONNX Runtime": build},
    )


def make_torchao(bits: int, learned: bool = False) -> Method:
    builders = {"eager": torchao_aware.build_eager, "torch.compile": torchao_aware.build_compiled}
    if bits == 8:  # of 4 bits the exporter forgets where integers end: 15 would become 255
        builders["ONNX Runtime"] = torchao_aware.build_onnx_runtime
    return Method(
        bits,
        lambda model, images: torchao_aware.prepare(model, images, bits, learned),
        torchao_aware.freeze,
        torchao_aware.convert,
        builders,
    )


METHODS = {
    "ours, 8 bits": make_ours(8),
    "torchao, 8 bits": make_torchao(8),
    "ours, 4 bits": make_ours(4),
    "torchao, 4 bits": make_torchao(4),
    "torchao, 4 bits, learned steps": make_torchao(4, learned=True),
}


def compare(
    name: str, recipe: Recipe, shown: datasets.Split, test: datasets.Split
) -> dict[str, object]:
    """Return what the record says of a model that trains on what it is shown; print it, too."""
    calibration = datasets.load_fashion().calibration.images[:CALIBRATION_IMAGES]
    images, labels = map(torch.from_numpy, (shown.images, shown.labels))
    model = models.load_pretrained(name)

    def learn(label: str, start: nn.Module) -> nn.Module:
        def say(epoch: int, loss: float, _: nn.Module) -> None:
            print(f"  {label}: epoch {epoch} of {recipe.epochs}, loss {loss:.4f}", flush=True)

        return train(start, images, labels, recipe, on_epoch=say)

    longer = learn(CONTROL, model)
    base = count_right(longer, test)
    trained_rows = {CONTROL: {"before": count_right(model, test), "trained": base}}
    folded = quantize.fold_batch_norms(longer)
    runners = {"fp32, ONNX Runtime": peers.build_ours(folded, calibration, quantize.FLOAT_BITS)}
    references, steps = {}, {CONTROL: model}
    for label, method in METHODS.items():
        steps[label] = prepared = method.prepare(model, calibration)
        before = count_right(method.convert(prepared), test)
        trained = learn(label, prepared)
        classes = classify_all(method.freeze(trained), test)
        converted = method.convert(trained)
        shipped = classify_all(converted, test)
        trained_rows[label] = {
            "bits": method.bits,
            "before": before,
            "trained": percent(classes == test.labels),
            "converted": percent(shipped == test.labels),
            "same_as_trained": percent(shipped == classes),
        }
        print(f"  {label}: {trained_rows[label]}", flush=True)
        for runtime, build in method.builders.items():
            try:
                runners[f"{label}, {runtime}"] = build(converted, calibration)
                references[f"{label}, {runtime}"] = classes
            except peers.UnavailableError as error:
                print(f"  {label}, {runtime}: not run, it needs {error}")
    timed_steps = time_steps(steps, images[: recipe.batch].numpy(), labels[: recipe.batch])
    for label, row in trained_rows.items():
        row["step_s"] = round(timed_steps.latency(label).value / 1000, 4)
    run_rows, timed = run_all(runners, references, test)
    print_tables(name, trained_rows, run_rows)
    loads = [comparison.provenance.note for comparison in (timed_steps, timed)]
    print(*loads, sep="\n")
    return {"model": name, "training": trained_rows, "running": run_rows, "machine_load": loads}


def classify_all(model: nn.Module, split: datasets.Split, batch: int = 500) -> np.ndarray:
    """Return the class of each image."""
    with torch.inference_mode():
        parts = torch.from_numpy(split.images).split(batch)
        return torch.cat([model(part).argmax(1) for part in parts]).numpy()


def count_right(model: nn.Module, split: datasets.Split) -> float:
    right = evaluate(model, torch.from_numpy(split.images), torch.from_numpy(split.labels))
    return round(100 * right, 2)


def percent(flags: np.ndarray) -> float:
    return round(100 * float(flags.mean()), 2)


def time_steps(
    prepared: dict[str, nn.Module], batch: np.ndarray, labels: Tensor
) -> measure.Comparison:
    """Time a training step of each network; the first one is what the others are compared to."""
    steps = [make_step(model, labels) for model in prepared.values()]
    with use_threads(1), one_core():
        return measure.compare(*steps, images=batch, names=[*prepared], limit_s=STEPS_S)


def make_step(model: nn.Module, labels: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that trains a copy of the network for one step."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-4, momentum=0.9, nesterov=True)

    def step(batch: np.ndarray) -> np.ndarray:
        logits = model(torch.from_numpy(batch))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return logits.detach().numpy()

    return step


def run_all(
    runners: dict[str, Runner], references: dict[str, np.ndarray], test: datasets.Split
) -> tuple[dict[str, dict[str, object]], measure.Comparison]:
    """Return a row for each runner: what runs, how well and how fast."""
    with one_core():
        timed = measure.compare(
            *runners.values(), images=test.images[:1], names=[*runners], limit_s=INFERENCE_S
        )
    rows = {}
    for label, runner in runners.items():
        classes = classify(runner, test.images)
        speed = timed.speed(label)
        rows[label] = {
            "accuracy": percent(classes == test.labels),
            "same_as_trained": percent(classes == references.get(label, classes)),
            "int8_layers": runner.kernel,
            "latency_ms": round(timed.latency(label).value, 4),
            "speed": [round(value, 2) for value in (speed.value, speed.low, speed.high)],
            "size_bytes": runner.size_bytes,
        }
    return rows, timed


def print_tables(
    name: str, training: dict[str, dict[str, object]], running: dict[str, dict[str, object]]
) -> None:
    print(f"\n{name}\n{'':45s} before %  trained %  converted %  same %  step s")
    for label, row in training.items():
        shown = [
            f"{row[key]:{width}.{digits}f}" if key in row else " " * width
            for key, (width, digits) in COLUMNS.items()
        ]
        print(f"{label:45s} {'  '.join(shown)}")
    print(f"\n{'':45s} accuracy %  same %  int8  median ms   × fp32 (99 %)        bytes")
    for label, row in running.items():
        ratio, low, high = row["speed"]
        print(
            f"{label:45s} {row['accuracy']:10.2f}  {row['same_as_trained']:6.2f}"
            f"  {row['int8_layers']:>4s}  {row['latency_ms']:9.4f}"
            f"   {ratio:.2f} ({low:.2f} to {high:.2f})  {row['size_bytes']:9,d}",
            flush=True,
        )


COLUMNS = {  # of the first table: width, digits
    "before": (8, 2),
    "trained": (9, 2),
    "converted": (11, 2),
    "same_as_trained": (6, 2),
    "step_s": (6, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=12_000, help="how many to train on")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--peak-learning-rate", type=float, default=0.01)
    parser.add_argument("--record", action="store_true", help="write aware_peers.json as well")
    arguments = parser.parse_args()
    recipe = Recipe(arguments.epochs, peak_learning_rate=arguments.peak_learning_rate)
    fashion = datasets.load_fashion()
    shown, test = fashion.train.first(arguments.images), fashion.test.first(arguments.test_images)
    here = machine.describe()
    versions = here.versions | {"torchao": metadata.version("torchao")}
    print(f"{here}, {here.system}; {versions}\n{recipe}")
    rows = [compare(name, recipe, shown, test) for name in arguments.models]
    if arguments.record:
        write_record(
            "aware_peers",
            "our quantization-aware training beside torchao's",
            recipe=recipe,
            shown=shown,
            test=test,
            versions=versions,
            definitions=DEFINITIONS,
            models=rows,
        )


if __name__ == "__main__":
    main()
