"""From which share of zeros on does a sparse kernel save time? Measured, by the shape of a layer.

A sparse kernel looks up where each value belongs, which a dense one need not, and the more columns
share that work, the less it weighs. So the break-even depends on the layer as well as on the
machine, and on how good the dense kernel is that it is compared with: here the quicker one of
PyTorch's and ONNX Runtime's, whose time does not depend on zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from course_utils.measure import Measurement, compare, compare_speed, summarize_latency
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.sparse_kernel import build_sparse
from course_utils.runtimes.torch_eager import build_eager
from course_utils.sparse.crossing import BreakEven, find_break_even
from course_utils.sparse.layer_shapes import COURSE_LAYERS, LayerShape, build_dense
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run

LAYER, SPARSITY = "layer", "sparsity"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
CHOOSING_ROUNDS = 10  # to find the quicker dense kernel


def measure_break_even(
    layers: Mapping[str, LayerShape] = COURSE_LAYERS,
    sparsities: Sequence[float] = SPARSITIES,
    rounds: int | None = None,
) -> Sweep:
    """Time layers dense and sparse, in turns; what was measured is kept, see ``sweep.run``.

    The knobs are the layer and its sparsity, of which 0 is the dense kernel; a point's speed is
    beside that of the same layer.

    Args:
        layers: By the name that a reader sees.
        sparsities: Shares of zeros, rising, above 0 and below 1.
        rounds: Turns that each gets; None: until the speeds are known to ±5 %, or for 10 s.

    Raises:
        ValueError: There is no layer, or a sparsity is none.
    """
    if not layers or not sparsities or not all(0 < share < 1 for share in sparsities):
        raise ValueError(
            f"{len(layers)} layers with sparsities {list(sparsities)}: give at least one layer, and"
            " shares of zeros above 0 and below 1."
        )
    knobs: dict[str, Sequence[Any]] = {LAYER: list(layers), SPARSITY: [0.0, *sparsities]}
    against = {LAYER: next(iter(layers)), SPARSITY: 0.0}
    return run(SparseProducts(dict(layers)), knobs, against, rounds=rounds)


def find_break_evens(measured: Sweep) -> dict[str, BreakEven]:
    """Return the break-even of each layer.

    Args:
        measured: From ``measure_break_even``.
    """
    sparsities = [share for share in measured.knobs[SPARSITY] if share > 0]
    found = {}
    for layer in measured.knobs[LAYER]:
        points = [measured.point(**{LAYER: layer, SPARSITY: share}) for share in sparsities]
        found[layer] = find_break_even(sparsities, [point.speed for point in points])
    return found


@dataclass(frozen=True)
class SparseProducts(Experiment):
    """Latency of a layer in the sparse kernel, beside that in the quicker of two dense ones."""

    layers: Mapping[str, LayerShape]

    counting: ClassVar[str] = "building"
    titles: ClassVar[Mapping[str, str]] = {"size": "size of the layer"}

    @property
    def about(self) -> str:
        """What the zeros are, and what a speed is beside."""
        return (
            "random weights with zeros at random places; each speed is beside the quicker dense"
            " kernel of the same layer"
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """The layers."""
        return (self.layers,)

    def prepare(self, setting: Setting) -> Runner:
        """Return the layer in the sparse kernel; at sparsity 0 in the quicker dense one."""
        shape, sparsity = self.layers[setting[LAYER]], setting[SPARSITY]
        layer, images = shape.build_layer(sparsity), shape.draw_images()
        if sparsity > 0:
            return build_sparse(layer, images)
        dense = [build_eager(layer, images), build_dense(layer, images)]
        timed = compare(*dense, images=images, rounds=CHOOSING_ROUNDS)
        return dense[int(timed.speed(1).value > 1)]

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Return the size."""
        return {"size_bytes": runner.size_bytes}

    def batch_of(self, setting: Setting) -> np.ndarray:
        """Return what a call gets."""
        return self.layers[setting[LAYER]].draw_images()

    def baseline_of(self, setting: Setting, against: Setting) -> dict[str, Any]:
        """Return the same layer in the dense kernel."""
        return {**setting, SPARSITY: against[SPARSITY]}

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return latency, speed and size."""
        size = float(found.facts["size_bytes"])
        return {
            "latency": summarize_latency(found.times_ms, found.measured),
            "speed": compare_speed(found.times_ms, baseline.times_ms, found.measured),
            "size": Measurement(size, "bytes", size, size, 1, found.measured),
        }
