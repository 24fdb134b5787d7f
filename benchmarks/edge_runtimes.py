"""One network in four runtimes, fp32 and int8: accuracy, agreement, time, bytes, loading, memory.

    .venv/bin/python benchmarks/edge_runtimes.py [MODEL ...] [--images 2000] [--markdown]

All start from the same network with its batch norms folded and calibrate on the same 200 images,
from the smallest value to the largest. Accuracy and agreement with PyTorch are counted on the
first test images. Time is that of one image on one thread, in turns; loading and memory are those
of fresh processes. A runtime that is missing is named in its row.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from int8_peers import one_core
from torch import nn

from course_utils import datasets, distill, machine, measure, models, quantize, runtimes
from course_utils.runtimes import Runner

STUDENT = "full_ds-cnn_w40_taught_seed0"
BASELINE = "ONNX Runtime fp32"
PROCESSES = 5
MIB = 2**20
HEAD = (
    "", "built in s", "accuracy %", "same as torch %", "largest difference %", "ms (median)",
    "× fp32 of ONNX Runtime (99 %)", "bytes", "load ms (least)", "first call ms (least)",
    "model MiB", "call MiB", "peak MiB", "what ran",
)  # fmt: skip


def build_onnx_runtime(model: nn.Module, images: np.ndarray, bits: int) -> Runner:
    return runtimes.build(quantize.quantize_weights(model, bits), images)


BUILDERS: dict[str, Callable[..., Runner]] = {
    "ONNX Runtime": build_onnx_runtime,
    "OpenVINO": runtimes.build_openvino,
    "ExecuTorch": runtimes.build_executorch,
    "LiteRT": runtimes.build_litert,
}


def load_model(name: str) -> nn.Module:
    if name == STUDENT:
        return distill.load_students("students_fashion")[STUDENT].model
    return models.load_pretrained(name)


def compare(name: str, calibration: np.ndarray, test: datasets.Split) -> list[list[str]]:
    model = quantize.fold_batch_norms(load_model(name))
    eager = runtimes.build_eager(model, calibration)
    runners, took, missing = {"PyTorch eager fp32": eager}, {"PyTorch eager fp32": 0.0}, {}
    for runtime, build in BUILDERS.items():
        for bits in (32, 8):
            label = f"{runtime} {'fp32' if bits == 32 else 'int8'}"
            start = time.perf_counter()
            try:
                runners[label] = build(model, calibration, bits=bits)
            except runtimes.MissingRuntimeError as error:
                missing[label] = str(error)
            took[label] = time.perf_counter() - start
    with one_core():
        timed = measure.compare(
            *runners.values(), images=test.images[:1], names=[*runners], precision=0.02, limit_s=60
        )
    rows = []
    for label in (*runners, *missing):
        if label in missing:
            rows.append([label, missing[label], *[""] * (len(HEAD) - 2)])
            continue
        runner = runners[label]
        accuracy = measure.measure_accuracy(runner, test)
        agreement = measure.compare_answers(runner, eager, test.images)
        latency, speed = timed.latency(label), timed.speed(label, BASELINE)
        cells = ["–"] * 5
        if label != "PyTorch eager fp32":
            loading = measure.measure_loading(runner, test.images[:1], PROCESSES)
            memory = measure.measure_memory(runner, test.images[:1], PROCESSES)
            held = (memory.model, memory.later_calls, loading.peak)
            waits = (loading.load, loading.first_call)
            cells = [f"{one.value:.2f} ({one.low:.2f})" for one in waits]
            cells += [f"{one.value / MIB:.2f}" for one in held]
        rows.append(
            [
                label,
                f"{took[label]:.1f}",
                f"{accuracy.value:.2f}",
                f"{agreement.same.value:.2f}",
                f"{agreement.difference.value:.1f}",
                f"{latency.value:.4f}",
                f"{speed.value:.2f} ({speed.low:.2f}–{speed.high:.2f})",
                f"{runner.size_bytes:,}",
                *cells,
                f"{runner.kernel}; {runner.remark}".removesuffix("; "),
            ]
        )
    return rows


def show(rows: list[list[str]], as_markdown: bool) -> None:
    if as_markdown:
        for row in ([*HEAD], ["---"] * len(HEAD), *rows):
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for row in (HEAD, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[STUDENT, "resnet8_w32_fashion"])
    parser.add_argument("--images", type=int, default=2000, help="test images to count on")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    given = parser.parse_args()
    for runtime, found in runtimes.list_available().items():
        print(f"{runtime}: {found}")
    print(f"{machine.describe()}, {machine.describe().system}")
    fashion = datasets.load_fashion()
    for name in given.models:
        rows = compare(name, fashion.calibration.images[:200], fashion.test.first(given.images))
        print(
            f"\n{name}: {given.images:,} test images, loading and memory of {PROCESSES} processes"
        )
        show(rows, given.markdown)


if __name__ == "__main__":
    main()
