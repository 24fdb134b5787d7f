"""Loading: what it costs to open a model in a process that has just been started."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from textwrap import dedent

import numpy as np

from course_utils.measure.fresh_process import Stages, run_stages
from course_utils.measure.measurement import Measurement
from course_utils.micro import compiled
from course_utils.runtimes import (
    executorch_runtime,
    litert_runtime,
    onnx_runtime,
    openvino_runtime,
    torch_exported,
)
from course_utils.runtimes.loading import LoadingCode
from course_utils.runtimes.runner import Runner

LOADING: Mapping[str, LoadingCode] = {
    runtime.NAME: runtime.LOADING
    for runtime in (
        onnx_runtime,
        openvino_runtime,
        executorch_runtime,
        litert_runtime,
        torch_exported,
        compiled,
    )
}
GIVE_BACK = """
    try:  # what loading has freed, so that the call has to ask for all that it needs
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # only glibc can
        pass
"""


@dataclass(frozen=True)
class Loading:
    """What comes before the first answer, in fresh processes whose files the system has at hand.

    Attributes:
        imports: Milliseconds to import the runtime, in Python: a program in another language does
            without. ExecuTorch's imports PyTorch.
        load: Milliseconds from the files to a model that can be called, optimised and compiled.
        first_call: Milliseconds of the first call.
        peak: The most bytes that the process held above what it had before loading.
    """

    imports: Measurement
    load: Measurement
    first_call: Measurement
    peak: Measurement


def measure_loading(runner: Runner, images: np.ndarray, repeats: int = 5) -> Loading:
    """Measure how long a runner's model takes from its file to the first answer.

    Each number is the median over the processes, with the least and the most of them.

    Args:
        runner: Of a runtime in ``LOADING``; its artefact is what is loaded.
        images: What the first call gets: (n, *image_shape) float32.
        repeats: How many processes, one after the other; each takes about 0.5 s, of ExecuTorch 2 s.

    Raises:
        ValueError: The runner belongs to another runtime, or does not take these images.
    """
    stages = load_in_fresh_processes(runner, images, repeats)
    peaks = [stages[name].peak for name in ("load", "first call", "later calls")]
    highest = max(peaks, key=lambda peak: peak.value)
    before = stages["images"].resident.value
    peak = replace(
        highest,
        value=highest.value - before,
        low=highest.low - before,
        high=highest.high - before,
        fastest=highest.fastest - before,
        note="; ".join(filter(None, ("above what the process held before", highest.note))),
    )
    load = replace(stages["load"].time, note="from the file to what can be called; fresh processes")
    return Loading(stages["import"].time, load, stages["first call"].time, peak)


def load_in_fresh_processes(runner: Runner, images: np.ndarray, repeats: int) -> Stages:
    """Import, load, give back what is free, call once and twice more; all on one thread.

    Raises:
        ValueError: The runner belongs to another runtime, or does not take these images.
    """
    check_loads(runner, images, repeats)
    code = LOADING[runner.runtime]
    batch = io.BytesIO()
    np.save(batch, images)
    call = dedent(code.call)
    stages = {
        "import": f"import ctypes, numpy\n{dedent(code.imports)}",
        "images": "images = numpy.load('images.npy')",
        "load": code.load,
        "give back": GIVE_BACK,
        "first call": call,
        "later calls": f"{call}\n{call}",
    }
    files = {**code.unpack(runner.artefact), "images.npy": batch.getvalue()}
    return run_stages(stages, files=files, repeats=repeats)


def check_loads(runner: Runner, images: np.ndarray, repeats: int) -> None:
    """Raise ``ValueError`` if the model cannot be loaded elsewhere and called with these images."""
    if runner.runtime not in LOADING:
        *others, last = LOADING
        raise ValueError(
            f"Only the file of a runner of {', '.join(others)} or {last} can be loaded in a process"
            f" of its own; this one is of {runner.runtime}."
        )
    runner(images[:1])  # so that images of another shape are named
    if len(images) == 0 or repeats < 1:
        raise ValueError(
            f"There is nothing to measure with {len(images)} images in {repeats} processes; give at"
            " least one of each."
        )
