"""The panel of a lab: drag a knob over the points of a sweep; see what each costs and gives.

The page gets all points at once and looks them up itself, so a drag needs no kernel. What it
writes comes from ``readouts``, so that a panel driven from Python says what the page says.
"""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets
from IPython import get_ipython

from course_utils import plots, progress
from course_utils.lab import page
from course_utils.lab.details import Detail, tell_detail
from course_utils.lab.readouts import Card, describe_setting, format_value
from course_utils.lab.spec import Chart, make_chart, make_spec, pack_numbers, tell_cards

if TYPE_CHECKING:
    from course_utils.sweep import Sweep

METRICS = ("accuracy", "latency")


class Panel(anywidget.AnyWidget):
    """Sliders, choices and menus over the points of a sweep, with its curves.

    Set it from Python with ``choose``; read it with ``setting`` and ``cards``.
    """

    _esm = page.read("dom.js", "charts.js", "details.js", "panel.js")
    _css = page.read("panel.css")

    spec = traitlets.Dict().tag(sync=True)  # all words and scales of the panel
    numbers = traitlets.Bytes().tag(sync=True)  # all numbers to be drawn, float32
    chosen = traitlets.List(traitlets.Int()).tag(sync=True)  # index of each knob's value
    guess = traitlets.Dict().tag(sync=True)  # of each metric asked for; empty if skipped
    revealed = traitlets.Bool(False).tag(sync=True)
    again = traitlets.Dict().tag(sync=True)  # of "measure again": {"busy", "text", "values"}

    def __init__(
        self,
        sweep: Sweep,
        name: str,
        *,
        charts: Sequence[str | Chart] = METRICS,
        predict: dict[str, Any] | None = None,
        ask: Sequence[str] | None = None,
        detail: Callable[..., Detail] | None = None,
        readout: Callable[..., Card] | None = None,
        menus: Collection[str] = (),
    ) -> None:
        """Show a sweep.

        Args:
            sweep: What was measured, or computed.
            name: Heading of the panel; predictions are kept under it.
            charts: A metric each, or several on one ``Chart``.
            predict: A setting about which the learner makes a guess before the curves are shown;
                None: they are shown at once.
            ask: Which metrics to guess; None: those of all charts.
            detail: Takes a setting's values by name and returns its picture.
            readout: Takes them and returns one card more, of the same title for all settings.
            menus: Knobs whose values stand in a menu, instead of on a slider or beside each other.

        Raises:
            ValueError: ``predict`` is not a setting of the sweep, or the sweep lacks a metric that
                is to be drawn or guessed, or a knob that is to be a menu.
        """
        self._sweep = sweep
        self._name = name
        self._charts = [make_chart(chart, sweep) for chart in charts]
        shown = [metric for chart in self._charts for metric in chart.metrics]
        if ask is not None and (not ask or not set(ask) <= set(shown)):
            raise ValueError(f"A guess can be about {' or '.join(shown)}, not about {ask}.")
        self._cards = tell_cards(sweep)
        if readout:
            for cards, point in zip(self._cards, sweep.points, strict=True):
                cards.append(readout(**point.setting))
        self._details = [detail(**point.setting) for point in sweep.points] if detail else []
        self._measuring = threading.Lock()
        self._cell = _RunningCell()
        self._predict = sweep.point(**predict) if predict else None
        self._asked = [one for one in dict.fromkeys(shown) if ask is None or one in ask]
        earlier = progress.last_prediction(name) if predict else None
        if earlier is not None and not set(self._asked) <= set(earlier):
            earlier = None  # made when the panel asked for something else
        super().__init__(
            spec=make_spec(
                name,
                sweep,
                self._charts,
                self._cards,
                self._details,
                self._predict,
                self._asked,
                menus,
            ),
            numbers=pack_numbers(sweep, self._charts, self._details),
            chosen=self._indices(sweep.against),
            guess=earlier or {},
            revealed=predict is None or earlier is not None,
        )
        self.on_msg(self._receive)

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen value of each knob."""
        return self._setting(self.chosen)

    @property
    def cards(self) -> list[Card]:
        """The readouts at the chosen setting: the very words that the page shows."""
        return self._cards[self._chosen_point]

    @property
    def detail(self) -> Detail | None:
        """The picture at the chosen setting, if the panel has pictures."""
        return self._details[self._chosen_point] if self._details else None

    def choose(self, **setting: Any) -> None:
        """Move the knobs named to the values given.

        Raises:
            ValueError: There is no such knob or no such value.
        """
        wanted = {**self.setting, **setting}
        self._sweep.point(**wanted)
        self.chosen = self._indices(wanted)

    def commit(self, **guess: float) -> None:
        """Commit to a guess of what the panel asks for, in its units, and show the curves.

        Raises:
            ValueError: The panel was made without ``predict``, or asks for something else.
        """
        point = self._predict
        if point is None:
            raise ValueError("This panel asks for no prediction; make it with predict=...")
        if set(guess) != set(self._asked):
            raise ValueError(f"This panel asks for {' and '.join(self._asked)}, not {list(guess)}.")
        self.guess = {metric: guess[metric] for metric in self._asked}
        self.revealed = True
        progress.save_prediction(
            self._name,
            describe_setting(point.setting),
            guess=self.guess,
            told=" and ".join(
                format_value(replace(point.metrics[metric], value=self.guess[metric]))
                for metric in self._asked
            ),
            found=" and ".join(format_value(point.metrics[metric]) for metric in self._asked)
            + " (computed)" * (not self._sweep.experiment.is_measured),
        )

    def measure_again(self, **setting: Any) -> None:
        """Measure a setting afresh and show it beside what was measured before.

        Args:
            setting: Values of knobs; those of the others are the chosen ones.

        Raises:
            ValueError: The points were computed, or there is no such setting.
        """
        if not self._sweep.experiment.is_measured:
            raise ValueError(
                f"The points of “{self._name}” are computed, so there is nothing to measure again:"
                " change what they are computed from, and make the panel anew."
            )
        if self._cell.is_running():
            self._say("A cell is running; both would be timed. Press again when it is done.")
            return
        if not self._measuring.acquire(blocking=False):
            return
        try:
            before = self._sweep.point(**{**self.setting, **setting})
            self.again = {"busy": True, "text": f"Measuring {describe_setting(before.setting)} …"}
            now = self._sweep.measure_again(**before.setting)
            shown = [
                metric
                for chart in self._charts
                for metric in chart.metrics
                if now.metrics[metric].provenance.kind == "measured"  # not recorded, nor computed
                and not math.isnan(now.metrics[metric].value)
            ]
            values = ", ".join(
                f"{metric} {format_value(now.metrics[metric])} (before"
                f" {format_value(before.metrics[metric])})"
                for metric in shown
            )
            if "speed" in now.metrics:
                values += (
                    f", {now.speed.describe_speed()} beside"
                    f" {describe_setting(self._sweep.against)}, timed in turns just now"
                )
            when = next(iter(now.metrics.values())).provenance.when[-5:]
            self._say(
                f"Measured again at {when}, {describe_setting(now.setting)}: {values}.",
                values={metric: now.metrics[metric].value for metric in shown},
                index=self._sweep.points.index(before),
            )
        except Exception as error:  # a callback's exception would vanish: the page must say it
            self._say(f"Measuring failed: {error}")
            raise
        finally:
            self._measuring.release()

    def to_png(self) -> bytes:
        """Return the static twin: the same curves as a picture."""
        return plots.figure_png(plots.draw_panel(self._sweep, self._charts, self._static_detail))

    def alt(self) -> str:
        """Return the panel in one sentence."""
        extremes = []
        for metric in self._charts[0].metrics[:1] + self._charts[-1].metrics[-1:]:
            found = [p for p in self._sweep.points if not math.isnan(p.metrics[metric].value)]
            by_value = sorted(found, key=lambda point: point.metrics[metric].value)
            low, high = (
                f"{format_value(point.metrics[metric])} ({describe_setting(point.setting)})"
                for point in (by_value[0], by_value[-1])
            )
            extremes.append(f"{metric} from {low} to {high}")
            if len(found) < len(self._sweep.points):
                absent = len(self._sweep.points) - len(found)
                extremes[-1] += f", and none at {absent} of {len(self._sweep.points)} settings"
        picture = self._static_detail
        told = f"; {tell_detail(picture)}" if picture and picture.words() else ""
        return f"{self._name}: {', '.join(extremes)}{told}; {self._sweep.provenance}."

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        picture = base64.b64encode(self.to_png()).decode()
        return {**data, "image/png": picture, "text/plain": self.alt()}, dict(metadata or {})

    @property
    def _chosen_point(self) -> int:
        return self._sweep.points.index(self._sweep.point(**self.setting))

    @property
    def _static_detail(self) -> Detail | None:
        """The picture of the static twin, which moves no knob."""
        shown = self._sweep.points.index(self._predict or self._sweep.baseline)
        return self._details[shown] if self._details else None

    def _receive(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("do") == "measure":
            self.measure_again(**self._setting(content["chosen"]))
        elif content.get("do") == "guess":
            self.commit(**{metric: float(content[metric]) for metric in self._asked})

    def _say(self, text: str, **numbers: Any) -> None:
        self.again = {"busy": False, "text": text, **numbers}

    def _setting(self, indices: Sequence[int]) -> dict[str, Any]:
        knobs = self._sweep.knobs
        return {knob: knobs[knob][i] for knob, i in zip(knobs, indices, strict=True)}

    def _indices(self, setting: dict[str, Any]) -> list[int]:
        return [values.index(setting[knob]) for knob, values in self._sweep.knobs.items()]


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
