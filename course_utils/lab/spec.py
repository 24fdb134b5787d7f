"""Everything that the page of a panel shows, as words, scales and one buffer of numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from course_utils import plots
from course_utils.lab.details import MOST_POWERS, Detail, describe_details
from course_utils.lab.guesses import describe_prediction
from course_utils.lab.readouts import Card, describe_setting, make_cards, write_power

if TYPE_CHECKING:
    from course_utils.measure import Measurement
    from course_utils.sweep import Point, Sweep

MOST_CHOICES = 4  # more words than these stand on a slider
ENDS = ("value", "low", "high")
STYLES = "abcd"  # of lines: colour, dash and marker
NONE = "–"  # instead of a value that is not there


@dataclass(frozen=True)
class Chart:
    """What one chart of a panel shows over the first knob.

    Attributes:
        title: Stands above it, with the unit.
        metrics: One line each; at most four, of the same unit.
        is_log: Draw the metrics in powers of ten.
        rule: A value that matters, and its name, drawn as a level line; None: none.
        starts_at: Where its axis begins, in the metrics' unit, where differences are small beside
            the values; the chart says so. Not with ``is_log``.
    """

    title: str
    metrics: tuple[str, ...]
    is_log: bool = False
    rule: tuple[float, str] | None = None
    starts_at: float = 0.0

    @property
    def heading(self) -> str:
        """The title, and where the axis begins unless at 0."""
        return f"{self.title}, from {self.starts_at:g} up" if self.starts_at else self.title


def make_chart(metric: str | Chart, sweep: Sweep) -> Chart:
    """Return the chart of a metric, or the chart itself.

    Raises:
        ValueError: The sweep has no such metric, or it has a value at no point.
    """
    names = (metric,) if isinstance(metric, str) else metric.metrics
    there = sweep.points[0].metrics
    missing = [name for name in names if name not in there]
    if missing or not 0 < len(names) <= len(STYLES):
        raise ValueError(f"A chart shows one to four of {list(there)}, not {list(names)}.")
    for name in names:
        if all(math.isnan(point.metrics[name].value) for point in sweep.points):
            raise ValueError(f"No point has a value of {name}: leave it out of the charts.")
    if isinstance(metric, Chart):
        return metric
    unit, _ = plots.axis_unit(there[metric].unit)
    return Chart(f"{metric} ({unit})", (metric,))


def tell_cards(sweep: Sweep) -> list[list[Card]]:
    """Return the readouts of each point; where there is no value, the point's remark says why."""
    experiment, baseline = sweep.experiment, sweep.baseline
    cards_of_points = []
    for point in sweep.points:
        cards = make_cards(point, baseline, experiment.titles, experiment.counted)
        found = {experiment.titles.get(name, name): one for name, one in point.metrics.items()}
        for place, (title, value, note) in enumerate(cards):
            if title in found and not experiment.is_measured:
                note = found[title].note  # it has no runs and no images to be told of
            if title in found and math.isnan(found[title].value):
                value, note = NONE, point.remark or found[title].note
            cards[place] = Card(title, value, note)
        cards_of_points.append(cards)
    most = max(cards_of_points, key=len)
    for cards, point in zip(cards_of_points, sweep.points, strict=True):
        cards += [card._replace(value=NONE, note=point.remark) for card in most[len(cards) :]]
    return cards_of_points


def pack_numbers(sweep: Sweep, charts: Sequence[Chart], details: Sequence[Detail]) -> bytes:
    """Return one float32 buffer: all curves, then all pictures; a row for each point.

    A curve's row holds value, low and high of each line of each chart, and a picture's what its
    ``row`` returns, with NaN behind it where the rows of other points are longer.
    """
    shown = [metric for chart in charts for metric in chart.metrics]
    curves = [
        [getattr(point.metrics[metric], end) for metric in shown for end in ENDS]
        for point in sweep.points
    ]
    rows = [detail.row() for detail in details]
    pictures = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for place, row in enumerate(rows):
        pictures[place, : len(row)] = row
    return np.concatenate([np.ravel(curves), np.ravel(pictures)]).astype(np.float32).tobytes()


def make_spec(
    name: str,
    sweep: Sweep,
    charts: Sequence[Chart],
    cards_of_points: Sequence[list[Card]],
    details: Sequence[Detail],
    predict: Point | None,
    asked: Sequence[str],
    menus: Collection[str] = (),
) -> dict[str, Any]:
    """Return the words and scales of a panel, ready for JSON.

    Raises:
        ValueError: What is to be guessed has no value, a menu is for no knob, or the pictures do
            not fit each other.
    """
    points = sweep.points
    if not set(menus) <= set(sweep.knobs):
        raise ValueError(f"A menu can be for one of {list(sweep.knobs)}, not for {list(menus)}.")
    _, *others = sweep.knobs.values()
    is_crowded = plots.is_crowded(sweep)
    is_measured = sweep.experiment.is_measured
    drawn = _describe_charts(charts, sweep)
    key = ["× your prediction"] * bool(predict) + ["+ measured again"] * is_measured
    if is_crowded:
        key.append("pale: choices that differ from the bold one in one thing")
    elif others:
        key.append(f"pale: the other choice{'s' * (math.prod(map(len, others)) > 2)}")
    key += dict.fromkeys(sign for detail in details for sign in detail.key())
    return {
        "name": name,
        "isMeasured": is_measured,
        "isCrowded": is_crowded,
        "knobs": [
            {
                "name": knob,
                "values": [str(value) for value in values],
                "shown": [describe_setting({knob: value}) for value in values],
                "isMenu": knob in menus,
                "isChoice": len(values) <= MOST_CHOICES
                and all(isinstance(value, str) for value in values),
            }
            for knob, values in sweep.knobs.items()
        ],
        "points": [
            {"cards": [card._asdict() for card in cards], "said": _said(point, cards)}
            for point, cards in zip(points, cards_of_points, strict=True)
        ],
        "charts": drawn,
        "detail": describe_details(details) if details else None,
        "predict": describe_prediction(sweep, predict, asked, drawn) if predict else None,
        "provenance": f"{sweep.provenance}; {sweep.experiment.about}"
        + _tell_baseline(sweep) * ("speed" in points[0].metrics),
        "key": key,
        "head": [*sweep.knobs, *(card.title for card in cards_of_points[0])],
        "rows": [
            [*map(str, point.setting.values()), *(card.value for card in cards)]
            for point, cards in zip(points, cards_of_points, strict=True)
        ],
    }


def _tell_baseline(sweep: Sweep) -> str:
    return f"; compared with {describe_setting(sweep.against)}, the speed with its 99 % interval"


def _said(point: Point, cards: Sequence[Card]) -> str:
    values = [card.value if card.value != NONE else "none" for card in cards]  # a dash is not heard
    told = ", ".join(f"{card.title} {value}" for card, value in zip(cards, values, strict=True))
    why = f"; {point.remark}" if "none" in values and point.remark else ""
    return f"{describe_setting(point.setting)}: {told}{why}"


def _describe_charts(charts: Sequence[Chart], sweep: Sweep) -> list[dict[str, Any]]:
    found, column = [], 0
    for n, chart in enumerate(charts):
        several = len(chart.metrics) > 1
        lines = [
            {
                "metric": metric,
                "column": column + line,
                "style": STYLES[line if several else n % len(STYLES)],
                "label": metric if several else "",
            }
            for line, metric in enumerate(chart.metrics)
        ]
        column += len(lines)
        measured = [point.metrics[metric] for point in sweep.points for metric in chart.metrics]
        rule = chart.rule and {"at": chart.rule[0], "label": chart.rule[1]}
        ends = _finite_ends(measured) + ([chart.rule[0]] if chart.rule else [])
        _, step = plots.axis_unit(measured[0].unit)
        scale = _log_axis(ends, step) if chart.is_log else _axis(ends, step, chart.starts_at)
        found.append({"title": chart.heading, "isLog": chart.is_log, "rule": rule, **scale})
        found[-1]["lines"] = lines
    return found


def _axis(ends: Sequence[float], step: int, starts_at: float) -> dict[str, Any]:
    """Return the scale of a chart: to a tick above the highest value, told in steps.

    It begins at 0 or below the lowest value, unless the chart wants another beginning.
    """
    low = (starts_at or min(0.0, *ends)) / step
    ticks: Any = MaxNLocator(4).tick_values(low, max(*ends, starts_at) / step)
    if starts_at:  # then it has a tick itself, and the others stand as far apart as they would
        apart = ticks[1] - ticks[0]
        ticks = low + apart * np.arange(1 + math.ceil((ticks[-1] - low) / apart))
    return {
        "low": float(step * ticks[0]),
        "high": float(step * ticks[-1]),
        "ticks": [{"at": float(step * tick), "label": f"{tick:g}"} for tick in ticks],
    }


def _log_axis(ends: Sequence[float], step: int) -> dict[str, Any]:
    """Return the scale of a chart in powers of ten of its steps, that all values stand on."""
    low = math.floor(math.log10(min(end for end in ends if end > 0) / step))
    high = math.ceil(math.log10(max(ends) / step))
    high = max(high, low + 1)
    shift = math.log10(step)
    every = math.ceil((high - low) / MOST_POWERS)
    ticks = range(every * math.ceil(low / every), high + 1, every)
    return {
        "low": low + shift,
        "high": high + shift,
        "ticks": [{"at": tick + shift, "label": write_power(tick)} for tick in ticks],
    }


def _finite_ends(measurements: Sequence[Measurement]) -> list[float]:
    ends = [getattr(one, end) for one in measurements for end in ENDS]
    return [end for end in ends if math.isfinite(end)]
