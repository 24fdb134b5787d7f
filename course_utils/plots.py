"""Static figures. Each function takes axes and returns them; none touches global state."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from course_utils.lab.details import Detail, Histogram
    from course_utils.lab.spec import Chart
    from course_utils.layer_times import LayerTime
    from course_utils.roofline import Roofline
    from course_utils.sweep import Sweep

GREY = "#999999"  # of bars that are no curve's
MOST_LETTERS = 24  # of all names under an axis, before they are turned
MOST_LINES = 8  # of a metric on a chart; of more choices only those near one of them are drawn
# Okabe & Ito's palette, with a dash and a marker each, so that colour is never the only cue.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
    {"color": "#CC79A7", "linestyle": "-.", "marker": "D"},
)
# No two agree in their marker, nor in both colour and dash.
MANY_STYLES: tuple[dict[str, Any], ...] = tuple(
    {**STYLES[n % 4], "linestyle": STYLES[(n + n // 4) % 4]["linestyle"], "marker": marker}
    for n, marker in enumerate("os^Dv<>Px")
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


def axis_unit(unit: str) -> tuple[str, int]:
    """Return in what an axis counts a unit, and how many of the unit that is."""
    return ("KiB", 1024) if unit == "bytes" else (unit, 1)


def plot_chart(ax: Axes, sweep: Sweep, chart: Chart) -> Axes:
    """Draw metrics with their spread over the first knob, a line for each of the other choices.

    If there are many choices, the lines differ from the baseline's in the second knob alone; the
    title says what the other knobs are then.
    """
    knob, *others = sweep.knobs
    values = sweep.knobs[knob]
    places = np.arange(len(values))
    _, step = axis_unit(sweep.points[0].metrics[chart.metrics[0]].unit)
    choices = list(itertools.product(*(sweep.knobs[other] for other in others)))
    held, styles = [], STYLES
    if is_crowded(sweep):
        choices, held, styles = _choices_near(sweep), others[1:], MANY_STYLES
    for choice, style in zip(choices, itertools.cycle(styles)):
        settings = [{knob: value, **dict(zip(others, choice, strict=True))} for value in values]
        points = [sweep.point(**setting) for setting in settings]
        lines = {metric: [point.metrics[metric] for point in points] for metric in chart.metrics}
        label = [str(value) for value in choice[: len(others) - len(held)]]
        label += [f"no {one}" for one in lines if all(np.isnan(m.value) for m in lines[one])]
        for number, found in enumerate(lines.values()):
            look = {**style, "label": ", ".join(label) if number == 0 else None}
            if len(chart.metrics) > 1:  # then the dash tells the metric, not the choice
                look["linestyle"] = STYLES[number]["linestyle"]
            ax.plot(places, [m.value / step for m in found], markersize=4, **look)
            highs = [m.high if np.isfinite(m.high) else m.value for m in found]  # one not known
            band = np.divide([[m.low for m in found], highs], step)
            ax.fill_between(places, *band, color=style["color"], alpha=0.15, linewidth=0)
    names = [str(value) for value in values]
    ax.set_xticks(places, names, rotation=45 if sum(map(len, names)) > MOST_LETTERS else 0)
    ax.set_xlabel(knob)
    ax.set_ylabel(chart.heading)
    if chart.is_log:
        top = np.nanmax([line.get_ydata() for line in ax.lines])
        ax.set(yscale="log", ylim=(None, 2 * top))
    elif chart.starts_at or ax.dataLim.y0 >= 0:
        ax.set_ylim(bottom=chart.starts_at)
    if chart.rule:
        ax.axhline(chart.rule[0], color="#000000", linewidth=0.8, linestyle=(0, (4, 2)))
        ax.text(0, chart.rule[0], chart.rule[1], va="bottom", fontsize="small")
    title = [", ".join(f"{other}: {sweep.against[other]}" for other in held)] * bool(held)
    if len(chart.metrics) > 1:
        words = ("solid", "dashed", "dotted", "dash-dotted")
        dashes = [f"{metric} {word}" for metric, word in zip(chart.metrics, words, strict=False)]
        title.append(", ".join(dashes))
    if title:
        ax.set_title("\n".join(title), fontsize="small")
    if others:
        ax.legend(frameon=False, fontsize="small")
    return ax


def is_crowded(sweep: Sweep) -> bool:
    """Return whether there are too many choices of the other knobs to draw a line for each."""
    _, *others = sweep.knobs.values()
    return math.prod(map(len, others)) > MOST_LINES


def _choices_near(sweep: Sweep) -> list[tuple[Any, ...]]:
    """Return the baseline's choice and those that differ from it in the second knob alone."""
    _, second, *held = sweep.knobs
    values, own = sweep.knobs[second], sweep.against[second]
    drawn = [own, *[value for value in values if value != own][:MOST_LINES]]
    return [(v, *(sweep.against[one] for one in held)) for v in values if v in drawn]


def plot_lines(ax: Axes, x: np.ndarray, lines: Mapping[str, np.ndarray]) -> Axes:
    """Draw several lines over the same values, each named in the legend."""
    for (label, y), style in zip(lines.items(), itertools.cycle(STYLES)):
        ax.plot(x, y, label=label, markersize=4, **style)
    ax.legend(frameon=False)
    return ax


def plot_surface(
    ax: Axes, probabilities: np.ndarray, reach: float, points: np.ndarray, labels: np.ndarray
) -> Axes:
    """Draw what a classifier of two numbers answers everywhere, and the points it learned from.

    Each class has a colour; where several are likely, their colours mix.

    Args:
        ax: Where to draw.
        probabilities: (rows, columns, classes), on a grid from ``-reach`` to ``reach`` both ways.
        reach: Half the side of what is shown.
        points: (n, 2).
        labels: (n,) whole numbers; each class has a marker of its own too.
    """
    palette = np.array([to_rgb(style["color"]) for style in STYLES])  # (styles, 3)
    mixed = probabilities @ palette[: probabilities.shape[2]]
    ax.imshow(0.35 + 0.65 * mixed, origin="lower", extent=(-reach, reach, -reach, reach))
    for label, style in zip(np.unique(labels), STYLES, strict=False):
        x, y = points[labels == label].T
        look = {"color": style["color"], "marker": style["marker"]}
        ax.plot(x, y, linestyle="none", markersize=5, markeredgecolor="black", **look)
    ax.set(xticks=[], yticks=[])
    return ax


def plot_histogram(ax: Axes, histogram: Histogram) -> Axes:
    """Draw counts as steps, few levels as vertical lines, and shade what is clipped."""
    ax.stairs(histogram.counts, histogram.edges, fill=True, color=GREY)
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


def draw_panel(sweep: Sweep, charts: Sequence[Chart], detail: Detail | None) -> Figure:
    """Return a panel's curves as one figure, beside one of its pictures, if it has any.

    If there are many lines, they are named once, below all charts.
    """
    count = len(charts) + bool(detail)
    axes = new_axes(count, width=10 if count > 2 else 7)
    for ax, chart in zip(axes, charts, strict=False):
        plot_chart(ax, sweep, chart)
    if detail:
        detail.draw(axes[-1])
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    if is_crowded(sweep):
        for legend in filter(None, (ax.get_legend() for ax in axes[: len(charts)])):
            legend.remove()
        lines = axes[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=5, frameon=False, fontsize="small")
        figure.set_figheight(figure.get_figheight() + 0.5)
    return figure


def plot_roofline(
    ax: Axes,
    roofline: Roofline,
    layers: Mapping[str, Sequence[LayerTime]] | None = None,
    named: Collection[str] = (),
) -> Axes:
    """Draw the roofs of a machine, and layers below them.

    Args:
        ax: Where to draw; both axes become logarithmic.
        roofline: A flat roof for each kind of arithmetic, shaded from the lower to the upper end of
            its spread, and a slope for each bandwidth.
        layers: As they ran, in groups: a colour and marker for each.
        named: Layers whose names stand beside them.
    """
    groups = dict(layers or {})
    peaks = {kind: peak.value for kind, peak in roofline.peaks.items()}
    highest, fastest = max(peaks.values()), max(roofline.bandwidths.values(), key=lambda m: m.value)
    ridges = [roofline.ridge(kind, level) for kind in peaks for level in roofline.bandwidths]
    intensities = [layer.flop_per_byte for group in groups.values() for layer in group]
    left, right = min(ridges + intensities) / 3, max(ridges + intensities) * 3
    for (kind, peak), dash in zip(peaks.items(), ("-", "--"), strict=False):
        label = f"{kind}: {peak:.3g} {roofline.peaks[kind].unit}"
        roof = [peak / fastest.value, right], [peak, peak]
        ax.plot(*roof, color="#000000", linestyle=dash, label=label)
        band = roofline.peaks[kind].low, roofline.peaks[kind].high
        ax.fill_between(roof[0], *band, color="#000000", alpha=0.1, linewidth=0)
    slopes = zip(roofline.bandwidths.items(), (2.0, 1.2, 0.6), strict=False)
    for (level, bandwidth), width in slopes:
        slope = np.array([left, highest / bandwidth.value])
        label = f"{level}: {bandwidth.value:.3g} {bandwidth.unit}"
        ax.plot(slope, bandwidth.value * slope, color="#777777", linewidth=width, label=label)
    for (name, group), style in zip(groups.items(), itertools.cycle(STYLES)):
        places = [(layer.flop_per_byte, layer.gflop_per_s) for layer in group]
        ax.plot(*zip(*places, strict=True), label=name, **{**style, "linestyle": ""})
        for layer, place in zip(group, places, strict=True):
            if layer.name in named:
                ax.annotate(layer.name, place, (5, -11), textcoords="offset points", size="small")
    ax.set(xscale="log", yscale="log", xlim=(left, right))
    ax.set_xlabel("operations for each byte moved")
    ax.set_ylabel("billion operations a second")
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    return ax


def plot_bars(
    ax: Axes,
    values: Mapping[str, float],
    unit: str,
    *,
    in_order: bool = False,
    color: str = STYLES[0]["color"],
) -> Axes:
    """Draw a horizontal bar for each value, the largest on top, with its number.

    Args:
        ax: Where to draw.
        values: By name, 0 or more.
        unit: Of the values.
        in_order: Whether to keep the order of the values instead.
        color: Of the bars.

    Raises:
        ValueError: There are no values, or one is negative or no number.
    """
    if not values or not all(value >= 0 for value in values.values()):
        raise ValueError(f"Bars need values of 0 or more, at least one; these are {dict(values)}.")
    bars = list(values.items())
    if not in_order:
        bars.sort(key=lambda item: -item[1])
    places = np.arange(len(bars))
    drawn = ax.barh(places, [value for _, value in bars], color=color)
    ax.bar_label(drawn, [write_value(value) for _, value in bars], padding=3, fontsize="small")
    ax.set_yticks(places, [name for name, _ in bars])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel(unit)
    return ax


def write_value(value: float) -> str:
    """Return a whole number with all its digits, any other with three."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
