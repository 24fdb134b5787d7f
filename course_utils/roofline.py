"""The roofline of this machine: how fast can a layer run at best?

It can't be computed faster than the processor multiplies, nor faster than its bytes arrive:
``min(peak, bandwidth * operations per byte)`` (Williams, Waterman & Patterson, *Roofline: an
insightful visual performance model for multicore architectures*, 2009). Both are measured as
the course's runtime and NumPy reach them here, not taken from a data sheet.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from course_utils.layer_costs import FLOP_PER_MAC
from course_utils.measure.load import LoadMeter
from course_utils.measure.measurement import Measurement, Provenance, measured_now
from course_utils.measure.timing_lock import timing_lock
from course_utils.measure.turns import Round, Run, stack_rounds, time_rounds
from course_utils.runtimes.export import open_session

Kind = Literal["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
Level = Literal["memory", "large cache", "small cache"]

UNITS: dict[Kind, str] = {
    "fp32": "GFLOP/s", "tf32": "GFLOP/s", "bf16": "GFLOP/s", "fp16": "GFLOP/s", "int8": "GOP/s",
    "fp8": "GFLOP/s",
}  # fmt: skip
RUNTIME_KINDS: tuple[Kind, ...] = ("fp32", "int8")  # what ONNX Runtime multiplies here
# Input and weights, large enough to reach the peak, short enough that few are interrupted.
PRODUCTS = {
    "a product of 256×256 matrices": ((256, 256), (256, 256)),
    "a product of 512×512 matrices": ((512, 512), (512, 512)),
    "a product of 64×1024 by 1024×1024": ((64, 1024), (1024, 1024)),
    "a 3×3 convolution of 64 channels of 28×28": ((1, 64, 28, 28), (64, 64, 3, 3)),
    "a 3×3 convolution of 128 channels of 14×14": ((1, 128, 14, 14), (128, 128, 3, 3)),
    "a 3×3 convolution of 128 channels of 28×28": ((1, 128, 28, 28), (128, 128, 3, 3)),
}
MEMORY_BYTES = 2**28  # more than all but the largest servers' caches hold
USUAL_L2_BYTES = 2**20  # where the system does not tell
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # where Linux tells
LARGEST_CALL_BYTES = 2**24  # small arrays are walked through several times in a call
LEAST_ROUNDS, SECONDS = 5, 0.5


@dataclass(frozen=True)
class Roofline:
    """The roofs of a machine.

    Attributes:
        peaks: Billions of operations a second, two a multiply-add, by kind of arithmetic; the
            note says what reached it.
        bandwidths: GB/s by where the bytes lie; the note says how it was measured.
        threads: How many threads shared the work.
    """

    peaks: Mapping[Kind, Measurement]
    bandwidths: Mapping[Level, Measurement]
    threads: int = 1

    def attainable(
        self, flop_per_byte: float, kind: Kind = "fp32", level: Level = "memory"
    ) -> float:
        """Return the most billions of operations a second that an intensity allows.

        Args:
            flop_per_byte: Operations for each byte moved, 0 or more.
            kind: Of the arithmetic.
            level: Where the bytes come from.

        Raises:
            ValueError: The intensity is negative or no number, or there is no such roof.
        """
        if not flop_per_byte >= 0:
            raise ValueError(f"{flop_per_byte} operations a byte cannot be; give 0 or more.")
        peak, bandwidth = self._roofs(kind, level)
        return min(peak, bandwidth * flop_per_byte)

    def ridge(self, kind: Kind = "fp32", level: Level = "memory") -> float:
        """Return the operations a byte at which the two roofs meet."""
        peak, bandwidth = self._roofs(kind, level)
        return peak / bandwidth

    def bound(
        self, flop_per_byte: float, kind: Kind = "fp32", level: Level = "memory"
    ) -> Literal["compute", "memory"]:
        """Return which roof is the lower one: that of the multipliers, or that of the bytes."""
        is_below = self.attainable(flop_per_byte, kind, level) < self._roofs(kind, level)[0]
        return "memory" if is_below else "compute"

    def _roofs(self, kind: Kind, level: Level) -> tuple[float, float]:
        if kind not in self.peaks or level not in self.bandwidths:
            raise ValueError(
                f"This roofline has no roof for {kind!r} with bytes from {level!r}; it has"
                f" {', '.join(self.peaks)}, with bytes from {', '.join(self.bandwidths)}."
            )
        return self.peaks[kind].value, self.bandwidths[level].value


def measure_roofline(threads: int = 1) -> Roofline:
    """Measure the roofs of this machine; takes a few seconds and 256 MiB of memory.

    A peak is the median rate of the best of a few shapes in ONNX Runtime, in float32 and in int8
    (U8S8, weights within ±64). A bandwidth is the better of reading arrays (their largest value)
    and copying one to another. Counted is what is asked for: bytes read, and those written by a
    copy, as in STREAM (McCalpin, 1995). Many processors fetch what they are about to overwrite
    ("write allocate"); such a copy moves half as much again, and that is not counted.

    Args:
        threads: How many threads share the work.

    Raises:
        ValueError: There is no such number of threads.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    if threads < 1:
        raise ValueError(f"{threads} threads can compute nothing; give 1 or more.")
    with timing_lock():
        meter = LoadMeter()
        products = {kind: _time_products(kind, threads) for kind in RUNTIME_KINDS}
        arrays = {
            level: _time_arrays(size_bytes, threads)
            for level, size_bytes in level_bytes(threads).items()
        }
        origin = measured_now(meter.describe())
    return Roofline(
        {kind: _choose_best(rates, UNITS[kind], origin) for kind, rates in products.items()},
        {level: _choose_best(rates, "GB/s", origin) for level, rates in arrays.items()},
        threads,
    )


def level_bytes(threads: int = 1) -> dict[Level, int]:
    """Return how many bytes are walked through at each level, by all threads together.

    Half of the second-level cache fits in it; four times as much does not, but fits in the last
    one, if there is another.
    """
    l2_bytes = cache_bytes()[0]
    return {
        "memory": MEMORY_BYTES,
        "large cache": 4 * l2_bytes * threads,
        "small cache": l2_bytes // 2 * threads,
    }


def cache_bytes() -> tuple[int, int]:
    """Return the sizes of the second-level cache and of the last one; 0 where that is not told."""
    l2_bytes = int(torch.cpu.get_capabilities().get("l2_cache_size") or USUAL_L2_BYTES)
    told = [path.read_text().strip() for path in CACHES.glob("index3/size")]
    return l2_bytes, int(told[0].removesuffix("K")) * 1024 if told else 0


def find_level(working_set_bytes: float) -> Level:
    """Return where bytes lie that are used over and over, by the sizes of the caches."""
    l2_bytes, last_bytes = cache_bytes()
    if working_set_bytes <= l2_bytes:
        return "small cache"
    return "large cache" if working_set_bytes <= last_bytes else "memory"


def build_product(
    kind: Kind, given: tuple[int, ...], weights: tuple[int, ...]
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a graph of one matrix product, or of one padded 3x3 convolution, and its input.

    Args:
        kind: "int8" multiplies bytes with signed bytes within ±64, which no kernel's sums of 16
            bits overflow at.
        given: Shape of the input: two numbers for a matrix, four for images.
        weights: Shape of the weights.
    """
    random = np.random.default_rng(0)
    operator = "MatMul" if len(given) == 2 else "Conv"
    attributes: dict[str, Any] = {} if len(given) == 2 else {"pads": [1, 1, 1, 1]}
    if kind == "fp32":
        values = random.normal(size=given).astype(np.float32)
        constants = {"w": random.normal(size=weights).astype(np.float32)}
        inputs = ["x", "w"]
    else:
        operator = f"QLinear{operator}"
        values = random.integers(0, 256, given, np.uint8)
        constants = {
            "w": random.integers(-64, 65, weights, np.int8),
            "scale": np.array(0.01, np.float32),
            "y_scale": np.array(1.0, np.float32),
            "zero": np.array(128, np.uint8),
            "w_zero": np.array(0, np.int8),
        }
        inputs = ["x", "scale", "zero", "w", "scale", "w_zero", "y_scale", "zero"]
    element = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], **attributes)],
        "product",
        [helper.make_tensor_value_info("x", element, given)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), {"x": values}


def _time_products(kind: Kind, threads: int) -> dict[str, np.ndarray]:
    """Return the rates of each shape's calls, in billions of operations a second."""
    calls: dict[str, Callable[[], object]] = {}
    work = {}
    for name, (given, weights) in PRODUCTS.items():
        graph, feed = build_product(kind, given, weights)
        calls[name] = partial(open_session(graph, threads=threads).run, None, feed)
        places = math.prod(given) // given[1]  # rows of a matrix, pixels of an image
        work[name] = FLOP_PER_MAC * places * math.prod(weights) / 1e9
    return {name: work[name] / seconds for name, seconds in _time_in_turns(calls).items()}


def _time_arrays(size_bytes: int, threads: int) -> dict[str, np.ndarray]:
    """Return the rates, in GB/s, of reading and of copying so many bytes."""
    length = size_bytes // threads // 2 // 4
    pairs = [(np.ones(length, np.float32), np.ones(length, np.float32)) for _ in range(threads)]
    walks = max(1, LARGEST_CALL_BYTES // size_bytes)

    def read(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(walks):
            pair[0].max()
            pair[1].max()

    def copy(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(walks):
            np.copyto(*pair)

    with ThreadPoolExecutor(threads) as pool:
        share = map if threads == 1 else pool.map
        seconds = _time_in_turns(
            {
                "reading": lambda: list(share(read, pairs)),
                "copying": lambda: list(share(copy, pairs)),
            }
        )
    moved = walks * threads * 2 * length * 4 / 1e9  # both arrays: read, or one written
    of = f"{size_bytes / 2**20:.3g} MiB"
    if size_bytes == MEMORY_BYTES and cache_bytes()[1] > size_bytes // 2:
        of += f", part of it perhaps in a cache of {cache_bytes()[1] / 2**20:.3g} MiB"
    return {f"{name} {of}": moved / taken for name, taken in seconds.items()}


def _time_in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Return the seconds that the calls took, in turns."""
    runs = [_without_images(call) for call in calls.values()]
    nothing = [np.empty(0)] * len(runs)
    calls_ms = []
    for run in runs:
        run(np.empty(0))  # warms up
        start = time.perf_counter()
        run(np.empty(0))
        calls_ms.append(1000 * (time.perf_counter() - start))
    rounds: list[Round] = []
    end = time.perf_counter() + SECONDS
    for turns in time_rounds(runs, nothing, calls_ms):
        rounds.append([turn.tolist() for turn in turns])
        if len(rounds) >= LEAST_ROUNDS and time.perf_counter() > end:
            break
    times_ms = stack_rounds(rounds)
    return {name: times.ravel() / 1000 for name, times in zip(calls, times_ms, strict=True)}


def _without_images(call: Callable[[], object]) -> Run:
    """Return the call as one that takes images, and gives them back."""

    def run(images: np.ndarray) -> np.ndarray:
        call()
        return images

    return run


def _choose_best(rates: Mapping[str, np.ndarray], unit: str, origin: Provenance) -> Measurement:
    """Return the median and quartiles of the one with the highest median; the note has all."""
    medians = {name: float(np.median(found)) for name, found in rates.items()}
    names = sorted(medians, key=medians.__getitem__, reverse=True)
    low, median, high = map(float, np.percentile(rates[names[0]], [25, 50, 75]))
    others = "; ".join(f"{medians[name]:.3g} {unit} by {name}" for name in names[1:])
    note = f"by {names[0]}" + (f" ({others})" if others else "")
    return Measurement(median, unit, low, high, rates[names[0]].size, origin, note=note)
