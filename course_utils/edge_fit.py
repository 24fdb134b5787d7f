"""Does a network fit into a device, and which limit binds? Computed, nothing is run.

Four limits: the arithmetic and the layers that the device has, flash for the model, RAM for its
activations, and the time that one image may take. The program needs flash and RAM of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from course_utils import sweep
from course_utils.edge_devices import DEVICES, EdgeDevice, tell_size
from course_utils.layer_costs import count_costs
from course_utils.measure import Measurement, computed
from course_utils.sweep import Sweep

Arithmetic = Literal["fp32", "int8"]
Limit = Literal["arithmetic", "operators", "flash", "RAM", "latency"]
ENOUGH_MS = 100.0  # what feels immediate (Nielsen, 1993)
INT8_BITS = 8
STORED = "bytes of the file, on chips without files of a C file's constants / flash"
FORMULA = "multiply-adds / (multiply-adds a second at best)"


@dataclass(frozen=True)
class Needs:
    """What one image through a network takes.

    Attributes:
        flash_bytes: Of the model as it is stored.
        ram_bytes: Of the activations that have to exist at once.
        macs: Multiply-adds.
        arithmetic: "fp32" or "int8".
        operators: Kinds of its layers, as ``layer_costs`` names them.
        compiled_bytes: Of its constants, where it is compiled into the program; 0: as of the file.
        is_depthwise: Whether it has depthwise convolutions.
    """

    flash_bytes: float
    ram_bytes: float
    macs: float
    arithmetic: Arithmetic
    operators: frozenset[str] = frozenset()
    compiled_bytes: float = 0.0
    is_depthwise: bool = False

    def flash_on(self, device: EdgeDevice) -> float:
        """Return the bytes of flash that the model takes there: of a file, or compiled in."""
        return self.compiled_bytes if device.is_bare and self.compiled_bytes else self.flash_bytes


def count_needs(
    model: nn.Module,
    images: np.ndarray,
    *,
    bits: int = 8,
    flash_bytes: float | None = None,
    compiled_bytes: float | None = None,
) -> Needs:
    """Count what one image through a network takes.

    Args:
        model: As it will run: fold its batch norms first.
        images: A batch (n, ...) float32 of the images that it takes; the first is counted.
        bits: Of a weight. With 8 or fewer, activations are bytes and the arithmetic is int8; with
            more it is fp32.
        flash_bytes: Of the file that ships, e.g. a runner's ``size_bytes``; None: of the weights
            and biases alone.
        compiled_bytes: Of the constants in a C file, e.g. ``micro.plan_memory(...).weight_bytes``;
            None: of the weights and biases alone.

    Raises:
        ValueError: The bits or bytes are not above 0, or the model's layers cannot be counted.
    """
    given = [bits, *(one for one in (flash_bytes, compiled_bytes) if one is not None)]
    if min(given) <= 0:
        raise ValueError(
            f"bits={bits}, flash_bytes={flash_bytes} and compiled_bytes={compiled_bytes} have to be"
            " above 0."
        )
    is_int8 = bits <= INT8_BITS
    costs = count_costs(
        model,
        images[:1],
        bytes_per_weight=bits / 8,
        bytes_per_activation=1 if is_int8 else 4,
    )
    return Needs(
        costs.weight_bytes if flash_bytes is None else flash_bytes,
        costs.peak_activation_bytes,
        costs.macs,
        "int8" if is_int8 else "fp32",
        frozenset(layer.kind for layer in costs.layers),
        costs.weight_bytes if compiled_bytes is None else compiled_bytes,
        any(isinstance(one, nn.Conv2d) and one.groups > 1 for one in model.modules()),
    )


@dataclass(frozen=True, repr=False)
class Fit:
    """How a network fits into a device.

    Attributes:
        device: Which one.
        needs: Of the network.
        deadline_ms: What one image may take.
        shares: Needed of what there is, by limit: flash, RAM, latency; 1 is all of it. The latency
            is NaN where the device lacks the arithmetic.
        lacking: Kinds of layers that the device does not compute.
        bound_ms: Of one image, if all multipliers were always busy: it cannot take less.
        likely_ms: At the rate that another network has reached there; NaN if no result is
            known, or if it is not int8.
    """

    device: EdgeDevice
    needs: Needs
    deadline_ms: float
    shares: Mapping[str, float]
    lacking: tuple[str, ...]
    bound_ms: float
    likely_ms: float

    @property
    def binds(self) -> Limit:
        """The limit that binds: what the device cannot do at all, else the largest share."""
        if math.isnan(self.bound_ms):
            return "arithmetic"
        if self.lacking:
            return "operators"
        limits: tuple[Limit, ...] = ("flash", "RAM", "latency")
        return max(limits, key=lambda limit: self.shares[limit])

    @property
    def can_run(self) -> bool:
        """Whether it runs at all, however long it takes."""
        can_compute = self.binds not in ("arithmetic", "operators")
        return can_compute and max(self.shares["flash"], self.shares["RAM"]) <= 1

    @property
    def fits(self) -> bool:
        """Whether it runs, and in time at the device's best."""
        return self.can_run and self.shares["latency"] <= 1

    @property
    def is_doubtful(self) -> bool:
        """Whether it fits, but would be late at the rate that another network has reached."""
        return self.fits and self.likely_ms > self.deadline_ms

    @property
    def problems(self) -> list[str]:
        """Why it does not fit, a sentence for each limit; empty if it does."""
        needs, device = self.needs, self.device
        told = []
        if math.isnan(self.bound_ms):
            has = " and ".join(device.macs_per_s)
            told.append(f"{device.name} has no unit for {needs.arithmetic}, only for {has}.")
        if self.lacking:
            told.append(f"{device.name} computes no {', no '.join(self.lacking)}.")
        for limit, needed, there in (
            ("flash", needs.flash_on(device), device.flash_bytes),
            ("RAM", needs.ram_bytes, device.ram_bytes),
        ):
            if self.shares[limit] > 1:
                told.append(
                    f"It needs {tell_size(needed)} of {limit}; {tell_size(there)} are there."
                )
        if self.shares["latency"] > 1:
            told.append(
                f"It takes {_tell_ms(self.bound_ms)} ms at the least; {self.deadline_ms:g} ms are"
                " asked for."
            )
        return told

    @property
    def verdict(self) -> str:
        """Yes, no or perhaps, in a few words."""
        if not self.fits:
            return "no" if not self.can_run else "runs, too slow"
        return "yes, but perhaps too slow" if self.is_doubtful else "yes"

    def __repr__(self) -> str:
        binds = self.binds
        share = f", {_tell_share(self.shares[binds])} of it" if binds in self.shares else ""
        lines = [f"{self.device.name}: {self.verdict}; what binds is {binds}{share}."]
        return "\n".join([*lines, *self.problems])


def check_fit(device: EdgeDevice, needs: Needs, deadline_ms: float = ENOUGH_MS) -> Fit:
    """Compare what a network needs with what a device has.

    Args:
        device: Which one.
        needs: Of the network.
        deadline_ms: What one image may take.

    Raises:
        ValueError: The deadline is not above 0.
    """
    if not deadline_ms > 0:
        raise ValueError(f"A deadline of {deadline_ms} ms leaves no time; give more than 0.")
    peak = device.macs_per_s.get(needs.arithmetic, math.nan)
    bound_ms = 1000 * needs.macs / peak
    seen = device.reached_depthwise_macs_per_s if needs.is_depthwise else device.reached_macs_per_s
    reached = seen if needs.arithmetic == "int8" else math.nan
    shares = {
        "flash": needs.flash_on(device) / device.flash_bytes,
        "RAM": needs.ram_bytes / device.ram_bytes,
        "latency": bound_ms / deadline_ms,
    }
    lacking = sorted(needs.operators - device.operators) if device.operators else []
    likely_ms = 1000 * needs.macs / reached
    return Fit(device, needs, deadline_ms, shares, tuple(lacking), bound_ms, likely_ms)


def compute_fits(
    needs: Mapping[str, Mapping[str, Needs]],
    devices: Sequence[EdgeDevice] = DEVICES,
    *,
    deadline_ms: float = ENOUGH_MS,
    against: Mapping[str, str] | None = None,
) -> Sweep:
    """Compute how each network fits into each device, for a panel.

    The metrics of a point are flash and ram (% of what there is), bound (ms at best) and likely
    (ms at a rate that was reached). The milliseconds are NaN where it cannot run; their notes say
    why.

    Args:
        needs: By network, then by precision; each network has the same precisions.
        devices: Which devices.
        deadline_ms: What one image may take.
        against: The setting that a panel starts at; None: the first of each.

    Raises:
        ValueError: There is no network, precision or device, networks have different precisions,
            or ``against`` is none of the settings.
    """
    precisions = [list(one) for one in needs.values()]
    if not precisions or not precisions[0] or not devices:
        raise ValueError("Give at least one network with one precision, and one device.")
    if any(one != precisions[0] for one in precisions):
        raise ValueError(f"Give each network the same precisions, in one order; not {precisions}.")
    by_name = {device.name: device for device in devices}

    def at(device: str, model: str, precision: str) -> dict[str, Measurement]:
        return measure_fit(check_fit(by_name[device], needs[model][precision], deadline_ms))

    over: dict[str, Sequence[Any]] = {
        "device": list(by_name),
        "model": list(needs),
        "precision": precisions[0],
    }
    start = against or {knob: values[0] for knob, values in over.items()}
    told = "peaks as published or computed from clocks; see the table of devices"
    return sweep.compute(at, over=over, against=start, about=told)


def measure_fit(fit: Fit) -> dict[str, Measurement]:
    """Return a fit as the metrics of a panel's point."""
    why = " ".join(fit.problems) or f"{fit.binds} binds"
    flash, ram = (100 * fit.shares[limit] for limit in ("flash", "RAM"))
    bound_ms, likely_ms = (ms if fit.can_run else math.nan for ms in (fit.bound_ms, fit.likely_ms))
    of_kind = "of depthwise convolutions" if fit.needs.is_depthwise else "of full convolutions"
    seen = f"a network {of_kind} reached this rate there"
    unseen = f"no rate of a network {of_kind} is published for this device and arithmetic"
    note = why if not fit.can_run else unseen if math.isnan(likely_ms) else seen
    return {
        "flash": computed(flash, "%", STORED, why),
        "ram": computed(ram, "%", "bytes of the activations / RAM", why),
        "bound": computed(bound_ms, "ms", FORMULA, why),
        "likely": computed(likely_ms, "ms", "multiply-adds / (a second, as reached)", note),
    }


def _tell_share(share: float) -> str:
    percent = 100 * share
    return (
        "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %" if percent < 10 else f"{percent:,.0f} %"
    )


def _tell_ms(ms: float) -> str:
    return "–" if math.isnan(ms) else f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"
