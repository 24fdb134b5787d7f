"""A picture for a panel: the layers of a network under the roofline of what runs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from course_utils import plots
from course_utils.lab.details import MOST_POWERS, Detail
from course_utils.lab.readouts import write_power

RATE = "10⁹ operations a second"
MEMORY, ARITHMETIC = "bound by memory", "bound by arithmetic"
SMALLEST, LARGEST = 2.0, 22.0  # radius in pixels of a layer that takes no time, and all of it


@dataclass(frozen=True)
class Roof(Detail):
    """A picture of each layer's rate over its intensity; both axes are logarithmic.

    Attributes:
        peak: What the arithmetic can do at most, in 10⁹ operations a second.
        bandwidth: What the memory can deliver at most, in GB/s. Peak and bandwidth may be NaN
            where nothing runs: then there are no layers, and nothing is drawn.
        layers: By name: operations for each byte moved, 10⁹ operations a second, and the layer's
            share of the time, from 0 to 1. Points of a panel may have different layers.

    Raises:
        ValueError: A number cannot stand on a logarithmic axis, or a share is none.
    """

    peak: float
    bandwidth: float
    layers: Mapping[str, tuple[float, float, float]]

    def __post_init__(self) -> None:
        roof = (self.peak, self.bandwidth)
        may_be_absent = not self.layers and any(map(math.isnan, roof))
        if not may_be_absent and not all(0 < number < math.inf for number in roof):
            raise ValueError(
                "A roof needs a peak and a bandwidth above 0, or NaN and no layers where nothing"
                f" runs; not a peak of {self.peak} and a bandwidth of {self.bandwidth} with"
                f" {len(self.layers)} layers."
            )
        for name, (intensity, rate, share) in self.layers.items():
            if not (0 < intensity < math.inf and 0 < rate < math.inf and 0 <= share <= 1):
                raise ValueError(
                    f"Layer {name!r} cannot be drawn: {intensity} operations a byte and {rate}"
                    f" {RATE} have to be above 0 and finite, and its share of the time, {share},"
                    " from 0 to 1. Leave out layers without operations."
                )

    @property
    def is_there(self) -> bool:
        """Whether there is a roof to be drawn."""
        return math.isfinite(self.peak) and math.isfinite(self.bandwidth)

    @property
    def ridge(self) -> float:
        """Operations a byte from which on the arithmetic is the limit; NaN without a roof."""
        return self.peak / self.bandwidth

    @property
    def ridge_words(self) -> str:
        """The ridge in three digits; empty without a roof."""
        return f"{float(f'{self.ridge:.3g}'):,g}" if self.is_there else ""

    def row(self) -> np.ndarray:
        """Return peak and bandwidth, then the three numbers of each layer."""
        return np.array([self.peak, self.bandwidth, *np.ravel(list(self.layers.values()))], float)

    def words(self) -> dict[str, str]:
        """Return what binds how many layers, which one takes longest, and where the ridge is."""
        if not self.is_there:
            return {}
        ridge = {"ridge:": f"{self.ridge_words} {self.axis}"}
        if not self.layers:
            return ridge
        waiting = [share for x, _, share in self.layers.values() if x < self.ridge]
        longest = max(self.layers, key=lambda name: self.layers[name][2])
        count = len(self.layers)
        return {
            f"{MEMORY}:": f"{len(waiting)} of {count} layer{'s' * (count > 1)},"
            f" {100 * sum(waiting):.0f} % of the time",
            "longest:": f"{longest}, {100 * self.layers[longest][2]:.0f} %",
            **ridge,
        }

    def key(self) -> list[str]:
        """Name the signs of layers and ridge."""
        return [
            f"● layers {MEMORY}, left of the ridge",
            f"■ {ARITHMETIC}, right of it",
            "the larger, the more of the time",
        ]

    def shared(self, details: Sequence[Roof]) -> dict[str, Any]:
        """Return scales that hold all roofs and layers, and each list of names once."""
        lists = dict.fromkeys(tuple(detail.layers) for detail in details)
        places = {names: place for place, names in enumerate(lists)}
        roofs = np.array([(d.ridge, d.peak) for d in details if d.is_there]).reshape(-1, 2)
        layers = [layer[:2] for detail in details for layer in detail.layers.values()]
        # A roof alone still shows a part of its slope, and all of them some of their flat part.
        corners = np.concatenate([roofs / 10, roofs * 2, np.array(layers).reshape(-1, 2)])
        x, y = map(_scale, corners.T)
        return {
            "kind": "roof",
            "names": [list(names) for names in lists],
            "lists": [places[tuple(detail.layers)] for detail in details],
            "x": x,
            "y": {**y, "title": RATE},
            "ridges": [detail.ridge_words for detail in details],
            "bound": [MEMORY, ARITHMETIC],
            "radii": [SMALLEST, LARGEST],
        }

    def draw(self, ax: Axes) -> None:
        """Draw the roof, its ridge and the layers."""
        ax.set(xscale="log", yscale="log", ylabel=RATE)
        ax.set_xlabel(self.axis, fontsize="small")
        ax.set_title(self.title.replace(", ", "\n", 1), fontsize="medium")
        if not self.is_there:
            return
        layers = np.array(list(self.layers.values())).reshape(-1, 3)
        x, y, shares = layers.T
        left = min([*x, self.ridge / 10]) / 2
        ends = [left, self.ridge, max([*x, self.ridge]) * 3]
        ax.plot(ends, [left * self.bandwidth, self.peak, self.peak], color="#000000")
        ax.axvline(self.ridge, color="#777777", linewidth=0.8, linestyle="--")
        sides = {MEMORY: x < self.ridge, ARITHMETIC: x >= self.ridge}
        for (name, side), style in zip(sides.items(), plots.STYLES, strict=False):
            look = {"color": style["color"], "marker": style["marker"], "alpha": 0.75}
            sizes = SMALLEST**2 + LARGEST**2 * shares[side]
            ax.scatter(x[side], y[side], s=sizes, label=name, edgecolors="white", **look)
        if self.layers:
            ax.legend(frameon=False, fontsize="small", markerscale=0.8)


def _scale(values: np.ndarray) -> dict[str, Any]:
    """Return a scale of whole powers of ten around all values, with its ticks."""
    low, high = 0, 1
    if len(values):
        low, high = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
    every = math.ceil((high - low + 1) / MOST_POWERS)
    powers = range(every * math.ceil(low / every), high + 1, every)
    return {
        "low": low,
        "high": high,
        "ticks": [{"at": power, "label": write_power(power)} for power in powers],
    }
