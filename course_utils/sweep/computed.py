"""Points that a formula gives, for a panel: nothing is run, so nothing can be measured again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from course_utils.measure import Measurement
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Point, Setting
from course_utils.sweep.sweep import Sweep

TOLD = "These points are computed; nothing is there to run."


class Computed(Experiment):
    """What computed points have in common: there is nothing to prepare, count or time."""

    is_measured: ClassVar[bool] = False
    is_compared: ClassVar[bool] = False

    def prepare(self, setting: Setting) -> Runner:
        """Nothing runs.

        Raises:
            ValueError: Always.
        """
        raise ValueError(TOLD)

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Nothing is counted.

        Raises:
            ValueError: Always.
        """
        raise ValueError(TOLD)

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Nothing is measured.

        Raises:
            ValueError: Always.
        """
        raise ValueError(TOLD)


@dataclass(frozen=True)
class Formula(Computed):
    """Points of one function.

    Attributes:
        at: Takes one value for each knob, by name.
        told: What a reader should know of all the numbers.
    """

    at: Callable[..., Mapping[str, Measurement]]
    told: str

    @property
    def about(self) -> str:
        """What a reader should know of all the numbers."""
        return self.told

    @property
    def key(self) -> tuple[Any, ...]:
        """The function."""
        return (self.at,)


def list_settings(over: Mapping[str, Sequence[Any]], against: Setting) -> list[dict[str, Any]]:
    """Return all combinations of the knobs' values, the last knob varying fastest.

    Raises:
        ValueError: A knob has no values, or ``against`` is none of the combinations.
    """
    settings = [dict(zip(over, row, strict=True)) for row in product(*over.values())]
    if dict(against) not in settings:
        raise ValueError(f"against={dict(against)} is none of the settings of {dict(over)}.")
    return settings


def compute(
    at: Callable[..., Mapping[str, Measurement]],
    *,
    over: Mapping[str, Sequence[Any]],
    against: Setting,
    about: str,
) -> Sweep:
    """Compute at every combination of the knobs' values; nothing is cached.

    Args:
        at: Takes one value for each knob, by name, and returns metrics by name.
        over: Values of each knob.
        against: The setting at which a panel starts.
        about: What a reader should know of all the numbers.

    Raises:
        ValueError: A knob has no values, or ``against`` is none of the settings.
    """
    points = [Point(setting, dict(at(**setting))) for setting in list_settings(over, against)]
    knobs = {name: list(values) for name, values in over.items()}
    return Sweep(knobs, points, dict(against), Formula(at, about))
