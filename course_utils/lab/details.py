"""The picture beside the curves of a panel, one for each point: a histogram, or named bars.

A panel's pictures are of one kind. What changes from point to point is a row of numbers each,
drawn by the page; what they share is described once. Further kinds: ``roof`` and ``cells``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from course_utils import plots

MOST_LEVELS = 64
MOST_POWERS = 8  # of ten, named under an axis
MOST_LETTERS = 26  # of a bar's name: more would leave no room for the bars


@dataclass(frozen=True)
class Detail(ABC):
    """A picture of one point.

    Attributes:
        title: What is shown; may differ from point to point.
        axis: What the numbers on the axis are.
    """

    title: str
    axis: str

    @abstractmethod
    def row(self) -> np.ndarray:
        """Return the numbers that the page draws; where there are fewer, NaN is put behind them."""

    @abstractmethod
    def shared(self, details: Sequence[Any]) -> dict[str, Any]:
        """Return what the page needs to draw any of the pictures: their kind and their scale.

        Raises:
            ValueError: The pictures do not fit each other.
        """

    @abstractmethod
    def draw(self, ax: Axes) -> None:
        """Draw the picture for the panel's static twin."""

    def key(self) -> list[str]:
        """Return the signs that the page has to explain."""
        return []

    def words(self) -> dict[str, str]:
        """Return the values that the picture shows, by name, as they are written."""
        return {}


@dataclass(frozen=True)
class Histogram(Detail):
    """A picture of what a setting does to some numbers.

    Attributes:
        edges: (bins + 1,) the same for all settings of a panel.
        counts: (bins,).
        levels: Values that a number can be rounded to; drawn if there are 64 or fewer.
        limits: What lies outside of these two is shaded; None: nothing is.
        is_log: Draw both axes in powers of ten; the edges have to be positive then.
        shaded: What lying outside of the limits means.
    """

    edges: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    limits: tuple[float, float] | None = None
    is_log: bool = False
    shaded: str = "outside of the range, clipped"

    def heights(self) -> np.ndarray:
        """Return how high each bar is drawn: (bins,)."""
        return np.log10(1 + self.counts) if self.is_log else self.counts

    def place(self, values: Any) -> np.ndarray:
        """Return where values lie along the axis; what a logarithm cannot show is at its end."""
        if not self.is_log:
            return np.asarray(values, float)
        places: np.ndarray = np.log10(np.maximum(values, self.edges[0]))
        return places

    def row(self) -> np.ndarray:
        """Return heights, 64 levels and two limits; NaN where there are none."""
        levels, limits = np.full(MOST_LEVELS, np.nan), np.full(2, np.nan)
        if len(self.levels) <= MOST_LEVELS:
            levels[: len(self.levels)] = self.place(self.levels)
        if self.limits is not None:
            limits[:] = self.place(self.limits)
        return np.concatenate([self.heights(), levels, limits])

    def shared(self, details: Sequence[Histogram]) -> dict[str, Any]:
        """Return the axis, and the highest bar of all."""
        low, high = map(float, self.place(self.edges[[0, -1]]))
        places: Sequence[float] = MaxNLocator(4).tick_values(low, high)
        if self.is_log:
            every = math.ceil((high - low) / MOST_POWERS)  # whole powers of ten, 1 among them
            places = range(every * math.ceil(low / every), math.floor(high) + 1, every)
        ticks = [float(place) for place in places if low <= place <= high]
        return {
            "kind": "histogram",
            "bins": len(self.counts),
            "levels": MOST_LEVELS,
            "low": low,
            "high": high,
            "most": float(max(detail.heights().max() for detail in details)),
            "ticks": [
                {"at": tick, "label": f"{10**tick:g}" if self.is_log else f"{tick:.3g}"}
                for tick in ticks
            ],
        }

    def key(self) -> list[str]:
        """Name the levels and the limits, where they are drawn."""
        levels = "vertical lines: the values that a number can take"
        is_drawn = 0 < len(self.levels) <= MOST_LEVELS
        return [levels] * is_drawn + [f"shaded: {self.shaded}"] * (self.limits is not None)

    def draw(self, ax: Axes) -> None:
        """Draw steps, levels and what is clipped."""
        plots.plot_histogram(ax, self)


@dataclass(frozen=True)
class Bars(Detail):
    """A picture of one value for each of a few named things, as bars from left to right.

    Attributes:
        values: By name, 0 or more; the first stands on top. All pictures of a panel have the
            same names in the same order.

    Raises:
        ValueError: There are no values, or one is negative or not finite.
    """

    values: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.values or not all(0 <= value < math.inf for value in self.values.values()):
            raise ValueError(f"Bars need values of 0 or more, at least one; not {self.values}.")

    def row(self) -> np.ndarray:
        """Return how long each bar is."""
        return np.array(list(self.values.values()), float)

    def words(self) -> dict[str, str]:
        """Return the values as they stand at the ends of their bars."""
        return {name: plots.write_value(value) for name, value in self.values.items()}

    def shared(self, details: Sequence[Bars]) -> dict[str, Any]:
        """Return the names and the axis; it starts at 0.

        Raises:
            ValueError: Names differ from point to point.
        """
        names = list(self.values)
        for detail in details:
            if list(detail.values) != names:
                raise ValueError(
                    "All points of a panel show the same bars in the same order, but there are"
                    f" {names} and {list(detail.values)}."
                )
        most = max(max(detail.values.values()) for detail in details)
        ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, most or 1)
        return {
            "kind": "bars",
            "names": [shorten(name) for name in names],
            "words": [list(detail.words().items()) for detail in details],
            "high": float(ticks[-1]),
            "ticks": [{"at": float(tick), "label": f"{tick:g}"} for tick in ticks],
        }

    def draw(self, ax: Axes) -> None:
        """Draw the bars, the first on top."""
        plots.plot_bars(ax, self.values, self.axis, in_order=True, color=plots.GREY)
        ax.set_yticks(ax.get_yticks(), [shorten(name) for name in self.values])
        ax.set_title(self.title.replace(", ", "\n", 1), fontsize="medium")


def describe_details(details: Sequence[Detail]) -> dict[str, Any]:
    """Return the words and scales of all pictures, ready for JSON.

    Raises:
        ValueError: They are of several kinds, or do not fit each other.
    """
    first = details[0]
    kinds = {type(detail).__name__ for detail in details}
    if len(kinds) > 1:
        raise ValueError(f"All points of a panel show the same kind of picture, not {kinds}.")
    return {
        "titles": [detail.title for detail in details],
        "said": [tell_detail(detail) for detail in details],
        "axis": first.axis,
        **first.shared(details),
    }


def tell_detail(detail: Detail) -> str:
    """Return a picture in one phrase: its title, and each name with its value."""
    values = ", ".join(f"{name} {value}" for name, value in detail.words().items())
    return f"{detail.title}: {values}" if values else detail.title


def shorten(name: str) -> str:
    """Return a name with its beginning cut off, where it is too long to stand beside its bar."""
    return name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"
