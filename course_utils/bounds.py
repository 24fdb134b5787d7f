"""How fast can a network be? A bound for each layer, from two numbers of a device.

A layer cannot be done before its operations are computed, nor before its bytes have arrived:
``max(operations / peak, bytes / bandwidth)``, the roofline turned into a time (Williams, Waterman
& Patterson, 2009). Layers run one after the other, so the bounds add up. What is left out makes
the sum lower: launching, waiting, operations without multiply-adds, kernels that reach less than
the peak. One thing makes it higher than need be: bytes that a layer finds in a cache, or that a
fused layer never writes, do not come from memory. So it is a lower bound for layers whose weights,
inputs and outputs come from where the bandwidth was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from course_utils.layer_costs import LayerCost, ModelCosts
from course_utils.layer_times import LayerTimes
from course_utils.roofline import Roofline, find_level
from course_utils.tables import Table


@dataclass(frozen=True)
class LayerBound:
    """The least time that a layer can take.

    Attributes:
        name: Of the layer.
        flop: Operations, two a multiply-add.
        bytes_moved: Weights, input and output, each once.
        compute_ms: Milliseconds that the operations take at the peak.
        memory_ms: Milliseconds that the bytes take at the bandwidth.
    """

    name: str
    flop: int
    bytes_moved: int
    compute_ms: float
    memory_ms: float

    @property
    def latency_ms(self) -> float:
        """The longer of the two."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound_by(self) -> Literal["compute", "memory"]:
        """Which of the two is the longer one."""
        return "memory" if self.memory_ms > self.compute_ms else "compute"

    @property
    def flop_per_byte(self) -> float:
        """Arithmetic intensity."""
        return self.flop / self.bytes_moved

    @property
    def gflop_per_s(self) -> float:
        """Billions of operations a second, if the bound is reached."""
        return self.flop / self.latency_ms / 1e6


def scale_batch(costs: ModelCosts, batch: int) -> ModelCosts:
    """Return what a batch costs, from what one image costs: weights are read once for all.

    Args:
        costs: Of a batch of one.
        batch: How many.

    Raises:
        ValueError: The batch is below 1.
    """
    if batch < 1:
        raise ValueError(f"A batch of {batch} cannot be; give 1 or more.")
    layers = [
        replace(
            layer,
            macs=batch * layer.macs,
            input_bytes=batch * layer.input_bytes,
            output_bytes=batch * layer.output_bytes,
            live_bytes=batch * layer.live_bytes,
        )
        for layer in costs.layers
    ]
    return ModelCosts(layers, costs.weight_bytes)


def scale_width(costs: ModelCosts, bytes_per_value: float) -> ModelCosts:
    """Return what a network costs with narrower numbers, from what it costs in fp32.

    All numbers shrink alike, biases too, which a runtime may keep in 32 bits: no network moves
    less.

    Args:
        costs: Counted with 4 bytes a value.
        bytes_per_value: 2 for 16 bits, 1 for int8 and fp8.

    Raises:
        ValueError: A value has no bytes.
    """
    if not bytes_per_value > 0:
        raise ValueError(f"Values of {bytes_per_value} bytes cannot be; give more than 0.")
    share = bytes_per_value / 4
    sized = ("weight_bytes", "input_bytes", "output_bytes", "live_bytes")
    layers = [
        replace(layer, **{name: math.ceil(share * getattr(layer, name)) for name in sized})
        for layer in costs.layers
    ]
    return ModelCosts(layers, math.ceil(share * costs.weight_bytes))


def bound_layers(
    layers: Sequence[LayerCost], peak_gflop_s: float, bandwidth_gb_s: float
) -> list[LayerBound]:
    """Return the bounds of the layers with multiply-adds.

    Args:
        layers: From ``layer_costs.count_costs``; other layers are taken for free.
        peak_gflop_s: Billions of operations a second, two a multiply-add.
        bandwidth_gb_s: Of the memory from which the bytes come.

    Raises:
        ValueError: A peak or a bandwidth is not above 0.
    """
    if not (peak_gflop_s > 0 and bandwidth_gb_s > 0):
        raise ValueError(
            f"A peak of {peak_gflop_s} and a bandwidth of {bandwidth_gb_s} bound nothing; give"
            " numbers above 0."
        )
    return [
        LayerBound(
            layer.name,
            layer.flop,
            layer.bytes_moved,
            layer.flop / peak_gflop_s / 1e6,
            layer.bytes_moved / bandwidth_gb_s / 1e6,
        )
        for layer in layers
        if layer.macs
    ]


@dataclass(frozen=True)
class CheckedBound:
    """A bound beside what was measured.

    Attributes:
        name: Of the layer.
        bound_ms: Computed from the roofs.
        bound_by: The lower roof, and where the bytes come from.
        fastest_ms: Shortest of the measured times.
        median_ms: Median of them.
    """

    name: str
    bound_ms: float
    bound_by: str
    fastest_ms: float
    median_ms: float

    @property
    def share(self) -> float:
        """Bound over median: 1 would be as fast as can be."""
        return self.bound_ms / self.median_ms


def check_bounds(timed: LayerTimes, *roofs: Roofline) -> list[CheckedBound]:
    """Compare the bounds with the times of a network's layers on this machine.

    A machine's speed changes from second to second, so roofs should be measured before and after
    the layers; the highest count, and of each its upper quartile.

    Args:
        timed: From ``layer_times.measure_layers``.
        roofs: From ``roofline.measure_roofline``, at least one.

    Raises:
        ValueError: There is no roofline.
    """
    if not roofs:
        raise ValueError("Bounds need at least one roofline.")
    level = find_level(timed.working_set_bytes)
    bandwidth = max(roof.bandwidths[level].high for roof in roofs)
    checked = []
    for layer in timed.layers:
        peak = max(roof.peaks[layer.kind].high for roof in roofs)
        compute_ms, memory_ms = (
            layer.flop / peak / 1e6,
            layer.bytes_moved / bandwidth / 1e6,
        )
        by = f"memory ({level})" if memory_ms > compute_ms else "compute"
        bound_ms = max(compute_ms, memory_ms)
        latency = layer.latency
        fastest = latency.value if math.isnan(latency.fastest) else latency.fastest
        checked.append(CheckedBound(layer.name, bound_ms, by, fastest, latency.value))
    return checked


def tabulate_bounds(checked: Sequence[CheckedBound], origin: str) -> Table:
    """Return bounds and measured times as a table, with their sum.

    Args:
        checked: From ``check_bounds``.
        origin: Where the measured times come from.
    """
    rows = [
        [
            one.name,
            one.bound_by,
            f"{one.bound_ms:.4f}",
            f"{one.fastest_ms:.4f}",
            f"{one.median_ms:.4f}",
            f"{one.share:.2f}",
        ]
        for one in checked
    ]
    sums = [sum(getattr(one, name) for one in checked) for name in ("bound_ms", "fastest_ms")]
    median = sum(one.median_ms for one in checked)
    rows.append(["all", "", *(f"{number:.4f}" for number in (*sums, median))])
    rows[-1].append(f"{sums[0] / median:.2f}")
    head = ["layer", "bound by", "bound, ms", "fastest, ms", "median, ms", "bound / median"]
    return Table(head, rows, ["bounds are computed from measured roofs", origin])
