"""How accurate networks are that differ by their seed alone, at each setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from course_utils import quick
from course_utils.datasets import Split
from course_utils.measure import Measurement, find_right, summarize_seeds
from course_utils.runtimes.runner import Runner
from course_utils.sweep.classifier import describe_plainly, recall_plainly
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run


def measure_seeds(
    at: Callable[..., Sequence[Runner]],
    *,
    over: Mapping[str, Sequence[Any]],
    on: Split,
    against: Setting,
    also: Callable[..., Mapping[str, Measurement]] | None = None,
    batch: int = 50,
) -> Sweep:
    """Measure the mean accuracy over seeds at every combination of the knobs' values.

    A point has "mean accuracy", from the worst seed to the best, and what ``also`` returns. Nothing
    is timed.

    Args:
        at: Takes one value for each knob, by name, and returns a runner for each seed. Where it
            returns the same object again, nothing is counted twice.
        over: Values of each knob.
        on: Labelled images; the accuracies are counted on all of them.
        against: The setting that the panel begins with; one of those in ``over``.
        also: Takes the same values and returns more metrics, by name.
        batch: Images a call; see ``measure.find_right``.

    Raises:
        ValueError: A knob has no values, or ``against`` is not among the settings.
    """
    return run(OverSeeds(at, quick.choose_images(on), batch, also), over, against)


@dataclass(frozen=True)
class OverSeeds(Experiment):
    """The accuracies of one network, trained from several seeds."""

    at: Callable[..., Sequence[Runner]]
    on: Split
    batch: int = 50
    also: Callable[..., Mapping[str, Measurement]] | None = None
    _counted: list[tuple[Sequence[Runner], list[np.ndarray]]] = field(
        default_factory=list, repr=False, compare=False
    )

    counting: ClassVar[str] = "accuracy"
    is_compared: ClassVar[bool] = False

    @property
    def about(self) -> str:
        """On how many images the accuracies are counted."""
        return f"{len(self.on):,} test {self.on.unit} for each seed"

    @property
    def counted(self) -> str:
        """What the accuracies are counted on, in words."""
        return self.on.unit

    @property
    def key(self) -> tuple[Any, ...]:
        """The functions, the images and the batch."""
        return self.at, self.on, self.batch, self.also

    def forget(self) -> None:
        """Count anew what has been counted."""
        self._counted.clear()

    def prepare(self, setting: Setting) -> Runner:
        """Return the runner of the first seed."""
        return self.at(**setting)[0]

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Return which images each seed classifies rightly, and what else is asked for."""
        runners = self.at(**setting)
        earlier = [rights for one, rights in self._counted if one is runners]
        rights = earlier[0] if earlier else [find_right(r, self.on, self.batch) for r in runners]
        if not earlier:
            self._counted.append((runners, rights))
        more = self.also(**setting) if self.also else {}
        return {
            "rights": [np.packbits(right).tobytes().hex() for right in rights],
            "images": len(self.on),
            "more": {name: describe_plainly(found) for name, found in more.items()},
        }

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return the mean accuracy, and what else was asked for."""
        packed = [np.frombuffer(bytes.fromhex(one), np.uint8) for one in found.facts["rights"]]
        rights = [np.unpackbits(one, count=found.facts["images"]) for one in packed]
        return {
            "mean accuracy": replace(summarize_seeds(rights), provenance=found.measured),
            **{
                name: recall_plainly(fields, found.measured)
                for name, fields in found.facts["more"].items()
            },
        }
