"""Our int8 after training against that of other libraries: accuracy, agreement, time, bytes.

    .venv/bin/python benchmarks/int8_peers.py [MODEL ...]

All start from the same fp32 network with its batch norms folded, and see the same 200
calibration images; none sees a test image before its accuracy is counted. Time is that of one
image on one thread, in turns. A library that is missing is named in its row.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np
import peers
import torch
from onnxruntime.quantization import QuantType
from torch import nn

from course_utils import datasets, machine, measure, models, quantize
from course_utils.runtimes import Runner

LIBRARIES = ("torch", "onnxruntime", "openvino", "nncf", "torchao")
BASELINE = "fp32 in ONNX Runtime (ours)"

Build = Callable[[nn.Module, np.ndarray], Runner]
BUILDERS: dict[str, Build] = {
    BASELINE: lambda model, images: peers.build_ours(model, images, quantize.FLOAT_BITS),
    "int8 in ONNX Runtime (ours)": lambda model, images: peers.build_ours(model, images, 8),
    "ORT quantize_static, defaults": peers.build_onnx_runtime,
    "ORT U8S8 per channel": lambda model, images: peers.build_onnx_runtime(
        model, images, True, activation_type=QuantType.QUInt8, per_channel=True
    ),
    "OpenVINO fp32": peers.build_openvino,
    "OpenVINO, NNCF default": lambda model, images: peers.build_openvino(model, images, "default"),
    "OpenVINO, NNCF mixed preset": lambda model, images: peers.build_openvino(
        model, images, "mixed"
    ),
    "torchao pt2e, torch.compile": lambda model, images: peers.build_torchao(model, images, False),
    "torchao pt2e, AOTInductor": lambda model, images: peers.build_torchao(model, images, True),
}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, on which all of them compute, on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def classify(runner: Runner, images: np.ndarray) -> np.ndarray:
    """Return the class of each image, one image a call: by the very kernels that are timed."""
    return np.array([runner(image[None]).argmax() for image in images])


def compare(name: str, calibration: np.ndarray, test: datasets.Split) -> None:
    model = quantize.fold_batch_norms(models.load_pretrained(name))
    runners, missing = {}, {}
    for label, build in BUILDERS.items():
        try:
            runners[label] = build(model, calibration)
        except ModuleNotFoundError as error:
            missing[label] = f"needs {error.name}: pip install -e '.[peers]'"
        except peers.UnavailableError as error:
            missing[label] = f"needs {error}"
    with one_core():
        timed = measure.compare(
            *runners.values(), images=calibration[:1], names=[*runners], precision=0.02, limit_s=60
        )
    classes = {label: classify(runner, test.images) for label, runner in runners.items()}
    right = {label: found == test.labels for label, found in classes.items()}
    print(f"\n{name}: {len(test):,} test images, {len(calibration)} calibration images")
    print(
        f"{'':29s} accuracy %  points ± s.e.  same %  int8 layers  median ms"
        "   × fp32 (99 %)           bytes  what ships"
    )
    for label in BUILDERS:
        if label in missing:
            print(f"{label:29s} not run: {missing[label]}")
            continue
        runner, accuracy = runners[label], measure.summarize_accuracy(right[label])
        gain = measure.compare_accuracy(right[label], right[BASELINE])
        same = 100 * np.mean(classes[label] == classes[BASELINE])
        latency, speed = timed.latency(label), timed.speed(label, BASELINE)
        print(
            f"{label:29s} {accuracy.value:10.2f}  {gain.value:+6.2f} ± {gain.high - gain.value:.2f}"
            f"  {same:6.2f}  {runner.kernel:>11s}  {latency.value:9.4f}   {speed.value:.2f}"
            f" ({speed.low:.2f} to {speed.high:.2f})  {runner.size_bytes:9,d}  {runner.remark}",
            flush=True,
        )


def main(names: list[str]) -> None:
    torch.set_num_threads(1)  # inductor writes this number into the code that it compiles
    installed = {package.metadata["Name"].lower() for package in metadata.distributions()}
    for library in LIBRARIES:
        print(library, metadata.version(library) if library in installed else "is missing")
    print(f"{machine.describe()}, {machine.describe().system}")
    fashion = datasets.load_fashion()
    for name in names:
        compare(name, fashion.calibration.images[:200], fashion.test)


if __name__ == "__main__":
    main(sys.argv[1:] or list(models.ARCHITECTURES))
