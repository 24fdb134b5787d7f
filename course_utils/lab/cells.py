"""A picture for a panel: a grid of cells, each busy with a number or idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from course_utils import plots
from course_utils.lab.details import Detail

MOST_NUMBERED = 8  # rows and columns of a grid whose numbers are written into its cells
GAP = 0.08  # between two cells, of a cell's side
WIDE = 140.0  # points that a grid has on a figure with two more charts


@dataclass(frozen=True)
class Cells(Detail):
    """A picture of what each cell of a grid holds.

    Attributes:
        values: (rows, columns), NaN where a cell is idle. All pictures of a panel have the same
            shape. Numbers are written into the cells of a grid of at most 8 × 8.

    Raises:
        ValueError: The values are no grid, or one is infinite.
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        shape = np.shape(self.values)
        if len(shape) != 2 or 0 in shape or np.isinf(self.values).any():
            raise ValueError(
                "Cells need an array of rows and columns, at least one of each, whose values are"
                f" finite, or NaN where a cell is idle; not {self.values!r}."
            )

    @property
    def is_numbered(self) -> bool:
        """Whether the numbers are written into the cells."""
        return all(length <= MOST_NUMBERED for length in self.values.shape)

    def texts(self) -> list[str]:
        """Return what is written into each cell, row by row; nothing into an idle one."""
        return ["" if np.isnan(value) else write_number(value) for value in np.ravel(self.values)]

    def row(self) -> np.ndarray:
        """Return all values, row by row."""
        return np.ravel(self.values).astype(float)

    def words(self) -> dict[str, str]:
        """Return how many cells are busy."""
        busy = np.count_nonzero(~np.isnan(self.values))
        return {"busy:": f"{busy} of {self.values.size} cell{'s' * (self.values.size > 1)}"}

    def key(self) -> list[str]:
        """Name the two kinds of cells."""
        return ["filled: a busy cell", "dashed: an idle one"]

    def shared(self, details: Sequence[Cells]) -> dict[str, Any]:
        """Return the shape, and what is written into the cells if they are few.

        Raises:
            ValueError: Shapes differ from point to point.
        """
        rows, columns = self.values.shape
        for detail in details:
            if detail.values.shape != (rows, columns):
                raise ValueError(
                    "All points of a panel show a grid of the same shape, but there are"
                    f" {rows} × {columns} and {' × '.join(map(str, detail.values.shape))} cells."
                )
        texts = [detail.texts() for detail in details] if self.is_numbered else []
        return {"kind": "cells", "rows": rows, "columns": columns, "texts": texts}

    def draw(self, ax: Axes) -> None:
        """Draw a square for each cell, the first row on top."""
        rows, columns = self.values.shape
        blue = plots.STYLES[0]["color"]
        busy_look: dict[str, Any] = {"facecolor": blue, "linewidth": 0}
        idle_look: dict[str, Any] = {"facecolor": "none", "edgecolor": "#777777"}
        idle_look |= {"linestyle": (0, (3, 2)), "linewidth": 1.0 if self.is_numbered else 0.4}
        is_idle = np.isnan(self.values)
        for chosen, look in ((~is_idle, busy_look), (is_idle, idle_look)):
            squares = [
                Rectangle((column + GAP / 2, row + GAP / 2), 1 - GAP, 1 - GAP)
                for row, column in np.argwhere(chosen)
            ]
            ax.add_collection(PatchCollection(squares, **look))
        if self.is_numbered:
            texts = self.texts()
            room = WIDE / max(rows, columns) / max(1, *map(len, texts))  # points for each letter
            for place, text in enumerate(texts):
                row, column = divmod(place, columns)
                look = {"ha": "center", "va": "center", "fontsize": min(9.0, room / 0.65)}
                ax.text(column + 0.5, row + 0.5, text, look, color="white")
        ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
        ax.set_title(self.title.replace(", ", "\n", 1), fontsize="medium")
        ax.set_xlabel(self.axis)


def write_number(value: float) -> str:
    """Return a number in at most four digits."""
    written = f"{float(f'{value:.4g}') + 0.0:g}"  # no minus before 0
    return written.replace("-", "−")
