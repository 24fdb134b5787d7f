"""Static figures. Each function takes axes and returns them; none touches global state."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from course_utils.sweep import Sweep

# Okabe & Ito's palette, with a dash and a marker each, so that colour is never the only cue.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
    {"color": "#CC79A7", "linestyle": "-.", "marker": "D"},
)


def new_axes(columns: int = 1, *, width: float = 7.0, height: float = 3.0) -> list[Axes]:
    """Return empty axes, side by side on a figure of their own; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def figure_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class Picture:
    """A figure as a cell's output: a PNG, and its description for those who don't see it."""

    def __init__(self, ax: Axes, description: str) -> None:
        """Show the figure of the axes."""
        figure = ax.figure
        assert isinstance(figure, Figure)
        self.figure, self.description = figure, description

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        picture = base64.b64encode(figure_png(self.figure)).decode()
        return {"image/png": picture, "text/plain": self.description}, {}


def plot_metric(ax: Axes, sweep: Sweep, metric: str) -> Axes:
    """Draw a metric with its spread over the first knob, a line for each value of the second.

    Args:
        ax: Where to draw.
        sweep: Of one or two knobs.
        metric: "accuracy" or "latency".
    """
    knob, *others = sweep.knobs
    values = sweep.knobs[knob]
    places = np.arange(len(values))
    lines = sweep.knobs[others[0]] if others else [None]
    for line, style in zip(lines, itertools.cycle(STYLES)):
        extra = {others[0]: line} if others else {}
        found = [getattr(sweep.point(**{knob: value}, **extra), metric) for value in values]
        label = None if line is None else str(line)
        ax.plot(places, [m.value for m in found], label=label, **style)
        band = [m.low for m in found], [m.high for m in found]
        ax.fill_between(places, *band, color=style["color"], alpha=0.2, linewidth=0)
    names = [str(value) for value in values]
    ax.set_xticks(places, names, rotation=45 if sum(map(len, names)) > 40 else 0)
    ax.set_xlabel(knob)
    ax.set_ylabel(f"{metric} ({getattr(sweep.points[0], metric).unit})")
    ax.set_ylim(bottom=0)
    if others:
        ax.legend(frameon=False)
    return ax


def plot_lines(ax: Axes, x: np.ndarray, lines: Mapping[str, np.ndarray]) -> Axes:
    """Draw several lines over the same values, each named in the legend."""
    for (label, y), style in zip(lines.items(), itertools.cycle(STYLES)):
        ax.plot(x, y, label=label, markersize=4, **style)
    ax.legend(frameon=False)
    return ax


def plot_histogram(ax: Axes, histogram: Any) -> Axes:
    """Draw counts as steps, few levels as vertical lines, and shade what is clipped."""
    ax.stairs(histogram.counts, histogram.edges, fill=True, color="#999999")
    if histogram.is_log:
        ax.set(xscale="log", yscale="log", ylim=(0.5, None), xlim=histogram.edges[[0, -1]])
    if histogram.limits is not None:
        left, right = ax.get_xlim()
        low, high = np.clip(histogram.limits, left, right)
        for start, end in ((left, low), (high, right)):
            ax.axvspan(start, end, color="#D55E00", alpha=0.25, linewidth=0)
        ax.set_xlim(left, right)
    if len(histogram.levels) <= 64:
        ax.vlines(histogram.levels, 0, histogram.counts.max(), color="#0072B2", linewidth=0.7)
    ax.set_title(histogram.title.replace(", ", "\n", 1), fontsize="medium")
    ax.set_xlabel(histogram.axis)
    ax.set_ylabel("count")
    return ax


def draw_panel(sweep: Sweep, detail: Any | None) -> Figure:
    """Return a panel's curves as one figure, beside one of its histograms, if it has any."""
    axes = new_axes(3 if detail else 2, width=10 if detail else 7)
    plot_metric(axes[0], sweep, "accuracy")
    plot_metric(axes[1], sweep, "latency")
    if detail:
        plot_histogram(axes[2], detail)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure
