"""What a panel asks before it shows its curves, and the scales on which a guess is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from course_utils import plots
from course_utils.lab.readouts import COUNTED, count_digits, describe_setting, format_value

if TYPE_CHECKING:
    from course_utils.sweep import Point, Sweep

MOST_STOPS = 200  # of a logarithmic slider


def describe_prediction(
    sweep: Sweep, predict: Point, asked: Sequence[str], charts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the words of the question, and a slider's scale for each metric asked for.

    Args:
        sweep: Its baseline is told to the learner.
        predict: The point that is to be guessed.
        asked: The metrics.
        charts: As the page gets them: where a metric is drawn in powers of ten, it is guessed so.

    Raises:
        ValueError: What is to be guessed, or told beforehand, has no value.
    """
    known = sweep.point(**sweep.experiment.baseline_of(predict.setting, sweep.against))
    for point in (predict, known):
        if absent := [metric for metric in asked if math.isnan(point.metrics[metric].value)]:
            raise ValueError(
                f"{describe_setting(point.setting)} has no {' and no '.join(absent)}: let the"
                " learner predict something else."
            )
    return {
        "point": sweep.points.index(predict),
        "setting": describe_setting(predict.setting),
        "known": f"With {describe_setting(known.setting)}: {_tell(known, asked)}."
        f" Move {'every' if len(asked) > 1 else 'the'} slider.",
        "measured": _tell(predict, asked, with_speed="latency" in asked),
        "fields": [
            {"name": metric, **_describe_scale(sweep, metric, known.metrics[metric].value, charts)}
            for metric in asked
        ],
    }


def _tell(point: Point, asked: Sequence[str], with_speed: bool = False) -> str:
    told = " and ".join(f"{metric} {format_value(point.metrics[metric])}" for metric in asked)
    speed = point.metrics.get("speed") if with_speed else None
    return told + (f" ({speed.describe_speed()})" if speed else "")


def _describe_scale(
    sweep: Sweep, metric: str, known: float, charts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the scale of a guess: that of the metric's chart, if it is drawn in powers of ten."""
    unit = sweep.baseline.metrics[metric].unit
    chart = next(c for c in charts if metric in [line["metric"] for line in c["lines"]])
    if chart["isLog"]:
        return _list_stops(unit, chart["low"], chart["high"])
    return _describe_steps(sweep, metric, known)


def _list_stops(unit: str, low: float, high: float) -> dict[str, Any]:
    """Return the values of a slider between two powers of ten of the axis, in two digits each.

    They are in the metric's own unit; the page shows them in the unit of the axis.
    """
    shown_in, per = plots.axis_unit(unit)
    first, last = (round(end - math.log10(per)) for end in (low, high))
    decade = MOST_STOPS // (last - first)  # stops of a decade, some of them of the same two digits
    stops = 10 ** (np.arange(decade * first, decade * last + 1) / decade)
    rounded = [round(stop) if unit in COUNTED else float(f"{stop:.1e}") for stop in stops]
    return {"unit": shown_in, "per": per, "values": [per * stop for stop in dict.fromkeys(rounded)]}


def _describe_steps(sweep: Sweep, metric: str, known: float) -> dict[str, Any]:
    """Return the scale of a slider from 0 in equal steps.

    It holds all values of the sweep, unless there are very many: then twice what is told.
    """
    baseline = sweep.baseline.metrics[metric]
    most = 2 * baseline.value
    highest = float(np.nanmax([point.metrics[metric].value for point in sweep.points]))
    if baseline.unit == "%":
        return {"unit": "%", "most": 100, "step": 1, "digits": 0}
    if baseline.unit in COUNTED:
        return {"unit": baseline.unit, "most": math.ceil(highest), "step": 1, "digits": 0}
    if plots.is_crowded(sweep) and known > 0:
        most = 2 * known
    elif highest > most or most == 0:
        most = 1.25 * highest or 1.0
    return {
        "unit": baseline.unit,
        "most": most,
        "step": most / 100,
        "digits": count_digits(most),
    }
