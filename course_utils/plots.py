"""Static figures. Each function takes axes and returns them; none touches global state."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from course_utils.lab.spec import Chart, Histogram
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


def plot_chart(ax: Axes, sweep: Sweep, chart: Chart) -> Axes:
    """Draw metrics with their spread over the first knob, a line for each of the other choices."""
    knob, *others = sweep.knobs
    values = sweep.knobs[knob]
    places = np.arange(len(values))
    choices = itertools.product(*(sweep.knobs[other] for other in others))
    lines = itertools.product(choices, chart.metrics)
    for (choice, metric), style in zip(lines, itertools.cycle(STYLES)):
        settings = [{knob: value, **dict(zip(others, choice, strict=True))} for value in values]
        found = [sweep.point(**setting).metrics[metric] for setting in settings]
        parts = [*map(str, choice), *[metric] * (len(chart.metrics) > 1)]
        ax.plot(places, [m.value for m in found], label=", ".join(parts), **style)
        band = [m.low for m in found], [m.high for m in found]
        ax.fill_between(places, *band, color=style["color"], alpha=0.2, linewidth=0)
    names = [str(value) for value in values]
    ax.set_xticks(places, names, rotation=45 if sum(map(len, names)) > 40 else 0)
    ax.set_xlabel(knob)
    ax.set_ylabel(chart.title)
    if chart.is_log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    if chart.rule:
        ax.axhline(chart.rule[0], color="#000000", linewidth=0.8, linestyle=(0, (4, 2)))
        ax.text(0, chart.rule[0], chart.rule[1], va="bottom", fontsize="small")
    if others or len(chart.metrics) > 1:
        ax.legend(frameon=False, fontsize="small")
    return ax


def plot_lines(ax: Axes, x: np.ndarray, lines: Mapping[str, np.ndarray]) -> Axes:
    """Draw several lines over the same values, each named in the legend."""
    for (label, y), style in zip(lines.items(), itertools.cycle(STYLES)):
        ax.plot(x, y, label=label, markersize=4, **style)
    ax.legend(frameon=False)
    return ax


def plot_histogram(ax: Axes, histogram: Histogram) -> Axes:
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


def draw_panel(sweep: Sweep, charts: Sequence[Chart], detail: Histogram | None) -> Figure:
    """Return a panel's curves as one figure, beside one of its histograms, if it has any."""
    count = len(charts) + bool(detail)
    axes = new_axes(count, width=10 if count > 2 else 7)
    for ax, chart in zip(axes, charts, strict=False):
        plot_chart(ax, sweep, chart)
    if detail:
        plot_histogram(axes[-1], detail)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure
