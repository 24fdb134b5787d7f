"""The panel of a lab: drag a knob over measured points; see what each of them costs and gives.

The page gets all points at once and looks them up itself, so a drag needs no kernel. What it
writes comes from ``readouts``, so that a panel driven from Python says what the page says.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from IPython import get_ipython
from matplotlib.ticker import MaxNLocator

from course_utils import plots, progress
from course_utils.lab.readouts import (
    Card,
    compare_speed,
    describe_setting,
    format_value,
    latency_digits,
    make_cards,
)

if TYPE_CHECKING:
    from course_utils.sweep import Point, Sweep

HERE = Path(__file__).parent
MOST_LEVELS = 64


@dataclass(frozen=True)
class Histogram:
    """A picture of what a setting does to some numbers.

    Attributes:
        title: What is counted.
        axis: What the numbers are.
        edges: (bins + 1,) the same for all settings of a panel.
        counts: (bins,).
        levels: Values that a number can be rounded to; drawn if there are 64 or fewer.
    """

    title: str
    axis: str
    edges: np.ndarray
    counts: np.ndarray
    levels: np.ndarray


class Panel(anywidget.AnyWidget):
    """Sliders and choices over the points of a sweep, with the measured curves.

    Set it from Python with ``choose``; read it with ``setting`` and ``cards``.
    """

    _esm = HERE / "panel.js"
    _css = HERE / "panel.css"

    spec = traitlets.Dict().tag(sync=True)  # all words and scales of the panel
    numbers = traitlets.Bytes().tag(sync=True)  # all numbers to be drawn, float32
    chosen = traitlets.List(traitlets.Int()).tag(sync=True)  # index of each knob's value
    guess = traitlets.Dict().tag(sync=True)  # {"accuracy": %, "latency": ms}; empty if skipped
    revealed = traitlets.Bool(False).tag(sync=True)
    again = traitlets.Dict().tag(sync=True)  # of "measure again": {"busy", "text", "latency"}

    def __init__(
        self,
        sweep: Sweep,
        name: str,
        *,
        predict: dict[str, Any] | None = None,
        detail: Callable[..., Histogram] | None = None,
    ) -> None:
        """Show a sweep.

        Args:
            sweep: What was measured.
            name: Heading of the panel; predictions are kept under it.
            predict: A setting whose accuracy and latency the learner guesses before the curves
                are shown; None: they are shown at once.
            detail: Takes a setting's values by name and returns its picture.

        Raises:
            ValueError: ``predict`` is not a setting of the sweep.
        """
        self._sweep = sweep
        self._name = name
        self._cards = [make_cards(point, sweep.baseline) for point in sweep.points]
        self._details = [detail(**point.setting) for point in sweep.points] if detail else []
        self._measuring = threading.Lock()
        self._cell = _RunningCell()
        self._predict = sweep.point(**predict) if predict else None
        earlier = progress.last_prediction(name) if predict else None
        numbers, layout = self._pack_numbers()
        super().__init__(
            spec=self._make_spec(layout),
            numbers=numbers,
            chosen=self._indices(sweep.against),
            guess=earlier or {},
            revealed=predict is None or earlier is not None,
        )
        self.on_msg(self._receive)

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen value of each knob."""
        knobs = self._sweep.knobs
        return {knob: knobs[knob][i] for knob, i in zip(knobs, self.chosen, strict=True)}

    @property
    def cards(self) -> list[Card]:
        """The readouts at the chosen setting: the very words that the page shows."""
        return self._cards[self._sweep.points.index(self._sweep.point(**self.setting))]

    def choose(self, **setting: Any) -> None:
        """Move the knobs named to the values given.

        Raises:
            ValueError: There is no such knob or no such value.
        """
        wanted = {**self.setting, **setting}
        self._sweep.point(**wanted)
        self.chosen = self._indices(wanted)

    def commit(self, accuracy: float, latency: float) -> None:
        """Commit to a guess, in % and ms, and show the curves; the guess is kept."""
        assert self._predict is not None, "this panel asks for no prediction"
        point = self._predict
        self.guess = {"accuracy": accuracy, "latency": latency}
        self.revealed = True
        progress.save_prediction(
            self._name,
            describe_setting(point.setting),
            guess=self.guess,
            measured={"accuracy": point.accuracy.value, "latency": point.latency.value},
        )

    def measure_again(self) -> None:
        """Measure the chosen setting afresh and show it beside what was measured before."""
        if self._cell.is_running():
            self._say("A cell is running; both would be timed. Press again when it is done.")
            return
        if not self._measuring.acquire(blocking=False):
            return
        try:
            before = self._sweep.point(**self.setting)
            self.again = {"busy": True, "text": f"Measuring {describe_setting(before.setting)} …"}
            now = self._sweep.measure_again(**before.setting)
            self._say(
                f"Measured again at {now.latency.provenance.when[-5:]},"
                f" {describe_setting(now.setting)}: accuracy {format_value(now.accuracy)} (before"
                f" {format_value(before.accuracy)}), latency {format_value(now.latency)} (before"
                f" {format_value(before.latency)}).",
                latency=now.latency.value,
                index=self._sweep.points.index(before),
            )
        except Exception as error:  # a callback's exception would vanish: the page must say it
            self._say(f"Measuring failed: {error}")
            raise
        finally:
            self._measuring.release()

    def to_png(self) -> bytes:
        """Return the static twin: the same curves as a picture."""
        return plots.figure_png(plots.draw_panel(self._sweep, self._details))

    def alt(self) -> str:
        """Return the panel in one sentence."""
        points = self._sweep.points
        best = max(points, key=lambda point: point.accuracy.value)
        worst = min(points, key=lambda point: point.accuracy.value)
        fast = min(points, key=lambda point: point.latency.value)
        slow = max(points, key=lambda point: point.latency.value)
        return (
            f"{self._name}: accuracy from {format_value(worst.accuracy)}"
            f" ({describe_setting(worst.setting)}) to {format_value(best.accuracy)}"
            f" ({describe_setting(best.setting)}), latency from {format_value(fast.latency)} to"
            f" {format_value(slow.latency)}; {points[0].latency.provenance}."
        )

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        picture = base64.b64encode(self.to_png()).decode()
        return {**data, "image/png": picture, "text/plain": self.alt()}, dict(metadata or {})

    def _receive(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("do") == "measure":
            self.measure_again()
        elif content.get("do") == "guess":
            self.commit(float(content["accuracy"]), float(content["latency"]))

    def _say(self, text: str, **numbers: Any) -> None:
        self.again = {"busy": False, "text": text, **numbers}

    def _indices(self, setting: dict[str, Any]) -> list[int]:
        return [values.index(setting[knob]) for knob, values in self._sweep.knobs.items()]

    def _pack_numbers(self) -> tuple[bytes, dict[str, int]]:
        """Return one float32 buffer: curves (points, 6), counts (points, bins), levels."""
        curves = [
            [getattr(m, end) for m in (point.accuracy, point.latency) for end in ENDS]
            for point in self._sweep.points
        ]
        bins = len(self._details[0].counts) if self._details else 0
        counts = [detail.counts for detail in self._details]
        levels = np.full((len(self._details), MOST_LEVELS), np.nan)
        for row, detail in zip(levels, self._details, strict=True):
            if len(detail.levels) <= MOST_LEVELS:
                row[: len(detail.levels)] = detail.levels
        parts = [np.ravel(part).astype(np.float32) for part in (curves, counts, levels)]
        return np.concatenate(parts).tobytes(), {"bins": bins, "levels": MOST_LEVELS}

    def _make_spec(self, layout: dict[str, int]) -> dict[str, Any]:
        points = self._sweep.points
        head = [*self._sweep.knobs, *(card.title for card in self._cards[0][:3]), "what ran"]
        return {
            "name": self._name,
            "knobs": [
                {
                    "name": knob,
                    "values": [str(value) for value in values],
                    "isChoice": all(isinstance(value, str) for value in values),
                }
                for knob, values in self._sweep.knobs.items()
            ],
            "points": [
                {"cards": [card._asdict() for card in cards], "said": self._said(point, cards)}
                for point, cards in zip(points, self._cards, strict=True)
            ],
            "charts": [
                _axis("accuracy (%)", [point.accuracy for point in points], 0),
                _axis("latency (ms)", [point.latency for point in points], 0),
            ],
            "detail": self._describe_detail() | layout if self._details else None,
            "predict": self._describe_prediction() if self._predict else None,
            "provenance": f"{points[0].latency.provenance}; accuracy on"
            f" {points[0].accuracy.count:,} test images; speed compared with"
            f" {describe_setting(self._sweep.against)} by the fastest runs of both",
            "head": head,
            "rows": [
                [*map(str, point.setting.values()), *(card.value for card in cards)]
                for point, cards in zip(points, self._cards, strict=True)
            ],
        }

    def _said(self, point: Point, cards: list[Card]) -> str:
        values = ", ".join(f"{card.title} {card.value}" for card in cards)
        return f"{describe_setting(point.setting)}: {values}"

    def _describe_detail(self) -> dict[str, Any]:
        first = self._details[0]
        low, high = float(first.edges[0]), float(first.edges[-1])
        return {
            "titles": [detail.title for detail in self._details],
            "axis": first.axis,
            "low": low,
            "high": high,
            "most": float(max(detail.counts.max() for detail in self._details)),
            "ticks": [t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high],
        }

    def _describe_prediction(self) -> dict[str, Any]:
        assert self._predict is not None
        baseline = self._sweep.baseline
        longest = 2 * baseline.latency.value
        return {
            "point": self._sweep.points.index(self._predict),
            "setting": describe_setting(self._predict.setting),
            "known": f"At {describe_setting(baseline.setting)} it reaches"
            f" {format_value(baseline.accuracy)} in {format_value(baseline.latency)}.",
            "measured": f"{format_value(self._predict.accuracy)} and"
            f" {format_value(self._predict.latency)}"
            f" ({compare_speed(self._predict, baseline)})",
            "fields": [
                {"name": "accuracy", "unit": "%", "most": 100, "step": 1, "digits": 0},
                {
                    "name": "latency",
                    "unit": "ms",
                    "most": longest,
                    "step": longest / 100,
                    "digits": latency_digits(longest),
                },
            ],
        }


ENDS = ("value", "low", "high")


class _RunningCell:
    """Knows whether a cell of the notebook is running: then nothing else should be timed."""

    def __init__(self) -> None:
        self._running = False
        shell = get_ipython()
        if shell is not None:
            self._running = True  # the panel is being made in a cell
            shell.events.register("pre_run_cell", self._started)
            shell.events.register("post_run_cell", self._ended)

    def is_running(self) -> bool:
        return self._running

    def _started(self, _: Any = None) -> None:
        self._running = True

    def _ended(self, _: Any = None) -> None:
        self._running = False


def _axis(title: str, measurements: list[Any], least: float) -> dict[str, Any]:
    """Return the scale of a chart: from ``least`` to a tick above the highest value."""
    highest = max(measurement.high for measurement in measurements)
    ticks = MaxNLocator(4).tick_values(least, highest)
    return {
        "title": title,
        "low": float(ticks[0]),
        "high": float(ticks[-1]),
        "ticks": [{"at": float(tick), "label": f"{tick:g}"} for tick in ticks],
    }
