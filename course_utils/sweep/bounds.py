"""What a device could do at best over batch, network and format: computed, not measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

from course_utils.accelerators import Accelerator
from course_utils.bounds import LayerBound, bound_layers, scale_batch, scale_width
from course_utils.layer_costs import ModelCosts
from course_utils.measure import Measurement, Provenance
from course_utils.sweep.computed import Computed, list_settings
from course_utils.sweep.experiment import Point, Setting
from course_utils.sweep.sweep import Sweep

BATCH, DEVICE, NETWORK, FORMAT = "items a call", "device", "network", "format"
FORMULA = "the sum over the layers of max(operations / peak, bytes / bandwidth)"
COMPUTED = Provenance("computed", FORMULA, note="peaks and bandwidths from the devices' sources")


def compute_bounds(
    networks: Mapping[str, ModelCosts],
    devices: Sequence[Accelerator],
    *,
    batches: Sequence[int],
    formats: Mapping[str, float],
    against: Setting | None = None,
) -> Sweep:
    """Compute for each setting the least latency, and what follows from it.

    The metrics of a point are latency (ms a call, if every byte comes from memory; its lower end:
    if all that fits on the chip stays there), throughput (items a second), energy (mJ an item, if
    the device drew its full rated power so long) and cost (US dollars for a million items, if it
    were busy all the time). All are NaN where the device lacks the format, or the memory; the
    point's remark says so.

    Args:
        networks: What one item costs in fp32, by name.
        devices: Which devices.
        batches: How many items a call gets; the first knob.
        formats: Keys of the devices' peaks, and the bytes of a value.
        against: The setting that a panel starts at; None: the first of each.

    Raises:
        ValueError: A knob has no values or one of them twice, or ``against`` is none of the
            settings.
    """
    knobs: dict[str, list[Any]] = {
        BATCH: list(batches),
        DEVICE: [device.name for device in devices],
        NETWORK: list(networks),
        FORMAT: list(formats),
    }
    if not all(knobs.values()):
        raise ValueError(f"Give at least one value for each knob, not {knobs}.")
    if any(len(values) > len(set(values)) for values in knobs.values()):
        raise ValueError(f"A value of a knob stands there twice: {knobs}.")
    start = dict(against or {knob: values[0] for knob, values in knobs.items()})
    costs = {
        (name, kind, batch): scale_batch(scale_width(networks[name], size), batch)
        for name, (kind, size), batch in product(networks, formats.items(), batches)
    }
    experiment = Bounds(costs, {device.name: device for device in devices})
    points = [experiment.compute(setting) for setting in list_settings(knobs, start)]
    return Sweep(knobs, points, start, experiment)


@dataclass(frozen=True)
class Bounds(Computed):
    """Bounds from peaks and bandwidths.

    Attributes:
        costs: Of a call, by network, format and batch.
        devices: By name.
    """

    costs: Mapping[tuple[str, str, int], ModelCosts]
    devices: Mapping[str, Accelerator]

    titles: ClassVar[Mapping[str, str]] = {
        "latency": "latency, by the roofline",
        "throughput": "throughput, by the roofline",
        "energy": "energy, an estimate",
        "cost": "cost, by the roofline",
    }

    @property
    def about(self) -> str:
        """What is left out."""
        return (
            "if every byte comes from the device's memory; launching, waiting and layers without"
            " multiply-adds are left out"
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """The costs and the devices."""
        return dict(self.costs), dict(self.devices)

    def layers_at(self, setting: Setting) -> list[LayerBound]:
        """Return the bound of each layer; none where the device lacks the format or the memory."""
        device = self.devices[setting[DEVICE]]
        costs = self._costs_at(setting)
        if self.why_not(setting):
            return []
        peak_gflop_s = 1000 * device.peaks[setting[FORMAT]]
        return bound_layers(costs.layers, peak_gflop_s, device.bandwidth_gb_s)

    def why_not(self, setting: Setting) -> str:
        """Say why a setting cannot be; nothing if it can."""
        device, kind = self.devices[setting[DEVICE]], setting[FORMAT]
        if kind not in device.peaks:
            return f"{device.name} has no published peak for {kind}"
        costs = self._costs_at(setting)
        needed = costs.weight_bytes + costs.peak_activation_bytes
        if needed > device.memory_gib * 2**30:
            return f"needs {needed / 2**30:.3g} GiB, and {device.name} has {device.memory_gib:g}"
        return ""

    def _costs_at(self, setting: Setting) -> ModelCosts:
        return self.costs[setting[NETWORK], setting[FORMAT], setting[BATCH]]

    def compute(self, setting: Setting) -> Point:
        """Return the point of a setting."""
        device, why_not = self.devices[setting[DEVICE]], self.why_not(setting)
        layers = self.layers_at(setting)
        latency_ms = sum(layer.latency_ms for layer in layers) or math.nan
        seconds = latency_ms / 1000 / setting[BATCH]  # an item
        costs = self._costs_at(setting)
        needed = (costs.weight_bytes + costs.peak_activation_bytes) / 2**20
        quickest_ms = latency_ms
        on_chip = ""
        if needed <= device.on_chip_mib:
            quickest_ms = sum(layer.compute_ms for layer in layers) or math.nan
            on_chip = f"fits on the chip: if all stays there, at least {quickest_ms:.2g} ms"
        waits = sum(one.latency_ms for one in layers if one.bound_by == "memory") / latency_ms
        told = f"{100 * waits:.0f} % of it in layers that wait for memory" if layers else ""
        energy = Provenance("computed", "rated power × latency, an estimate", device.date)
        cost = Provenance("computed", f"{device.price_note} × latency", device.date)
        watts, price = device.watts or math.nan, device.price_per_hour or math.nan
        notes = {"latency": "; ".join(filter(None, (told, on_chip)))}
        notes |= {"energy": f"{watts:g} W all the time" if device.watts else "power not published"}
        notes["cost"] = device.price_note or "no price found"
        values = {
            "latency": (latency_ms, "ms", COMPUTED),
            "throughput": (1 / seconds, "items/s", COMPUTED),
            "energy": (1000 * watts * seconds, "mJ", energy),
            "cost": (1e6 * price * seconds / 3600, "$/million", cost),
        }
        metrics = {
            name: Measurement(
                value, unit, value, value, 1, origin, note=why_not or notes.get(name, "")
            )
            for name, (value, unit, origin) in values.items()
        }
        metrics["latency"] = replace(metrics["latency"], low=quickest_ms)
        return Point(dict(setting), metrics, remark=why_not)
