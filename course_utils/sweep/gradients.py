"""What becomes of gradients in number formats, over how often the loss is doubled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.datasets import Split
from course_utils.gradients import DTYPES, cast_gradients, find_gradients, tell_fate
from course_utils.measure import Measurement
from course_utils.mixed_precision import PRECISIONS
from course_utils.runtimes import build_eager
from course_utils.runtimes.runner import Runner
from course_utils.sweep.experiment import Experiment, Finding, Setting
from course_utils.sweep.sweep import Sweep, run

DOUBLINGS, FORMAT = "doublings of the loss", "format"
SAMPLES = 10_000


def measure_gradients(
    model: nn.Module, *, doublings: Sequence[int], number_formats: Sequence[str], on: Split
) -> Sweep:
    """Count which gradients of a backward pass several formats lose, at several loss scales.

    The gradients are those of the outputs of all layers with parameters. In bf16 and fp16 the
    pass itself is computed in the format; for fp8 the gradients of a pass in fp32 are cast to it.
    The metrics of a point, in percent of the gradients that are not 0 in fp32, are underflow
    (they became 0), subnormal (they lost digits) and overflow (they are no longer finite, or the
    largest value of a format without infinity). Its samples are the magnitudes of 10,000
    gradients in fp32, scaled, evenly spaced by rank.

    Args:
        model: Takes the images and returns logits.
        doublings: How often the loss is doubled: the scale is 2 to the power of it.
        number_formats: Keys of ``gradients.DTYPES``.
        on: The batch.

    Raises:
        ValueError: There is no such format, or a loss cannot be doubled so often.
    """
    if not set(number_formats) <= set(DTYPES):
        raise ValueError(f"Formats are {list(DTYPES)}, not {list(number_formats)}.")
    if not all(0 <= count <= 100 for count in doublings):
        raise ValueError(f"The loss can be doubled 0 to 100 times, not {list(doublings)} times.")
    knobs: dict[str, list[Any]] = {DOUBLINGS: list(doublings), FORMAT: list(number_formats)}
    against = {name: next(iter(values), None) for name, values in knobs.items()}
    return run(Gradients(model, on), knobs, against)


@dataclass(frozen=True)
class Gradients(Experiment):
    """Shares of the gradients of one batch that a format loses."""

    model: nn.Module
    on: Split

    counting: ClassVar[str] = "backward passes"
    is_compared: ClassVar[bool] = False
    meanings: ClassVar[dict[str, str]] = {
        "underflow": "became 0",
        "subnormal": "lost digits",
        "overflow": "too large to be held",
    }

    @property
    def about(self) -> str:
        """What was counted."""
        return f"the gradients of all layers' outputs for a batch of {len(self.on):,} images"

    @property
    def key(self) -> tuple[Any, ...]:
        """The model and the batch."""
        return self.model, self.on

    @cached_property
    def exact(self) -> dict[str, Tensor]:
        """The gradients of the pass in fp32, not scaled."""
        return self._find("fp32", 1.0)

    def _find(self, precision: str, loss_scale: float) -> dict[str, Tensor]:
        images, labels = torch.from_numpy(self.on.images), torch.from_numpy(self.on.labels)
        return find_gradients(
            self.model, images, labels, precision=precision, loss_scale=loss_scale
        )

    def prepare(self, setting: Setting) -> Runner:
        """Return the network itself, the same at all settings."""
        return build_eager(self.model, self.on.images)

    def facts_at(self, setting: Setting, runner: Runner | None = None) -> dict[str, Any]:
        """Return what ``count`` finds, and whether the pass was computed in the format."""
        name = setting[FORMAT]
        ran = {"runtime": "PyTorch autograd", "kernel": f"a backward pass in {name}", "remark": ""}
        if name not in PRECISIONS:
            ran |= {"kernel": "a backward pass in fp32", "remark": f"gradients cast to {name}"}
        return {**super().facts_at(setting, runner), **ran}

    def count(self, runner: Runner, setting: Setting) -> dict[str, Any]:
        """Go backwards, and compare each gradient with that of the pass in fp32."""
        name, scale = setting[FORMAT], 2.0 ** setting[DOUBLINGS]
        cast = cast_gradients(self.exact, name, scale)
        held = self._find(name, scale) if name in PRECISIONS else cast
        fate, by_cast = (tell_fate(self.exact, one, name) for one in (held, cast))
        return {"scale": scale, "fate": vars(fate), "by_cast": vars(by_cast)}

    def samples(self, found: Finding) -> np.ndarray:
        """Return the magnitudes of gradients in fp32 that are not 0, scaled: evenly by rank."""
        return self._magnitudes * float(found.facts["scale"])

    @cached_property
    def _magnitudes(self) -> np.ndarray:
        sizes = torch.cat([one.flatten().abs() for one in self.exact.values()]).numpy()
        ordered = np.sort(sizes[sizes > 0]).astype(float)
        ranks = np.linspace(0, len(ordered) - 1, min(SAMPLES, len(ordered)))
        chosen: np.ndarray = ordered[ranks.round().astype(int)]
        return chosen

    def measurements(self, found: Finding, baseline: Finding) -> dict[str, Measurement]:
        """Return the shares, and beside them what casting the gradients of fp32 would lose."""
        fate, by_cast, scale = (found.facts[what] for what in ("fate", "by_cast", "scale"))
        metrics = {}
        for name, meaning in self.meanings.items():
            percent, note = 100 * fate[name], f"{meaning}; loss × {scale:,.0f}"
            if fate != by_cast:
                note += f"; {100 * by_cast[name]:.1f} % if gradients of fp32 are cast"
            metrics[name] = Measurement(
                percent, "%", percent, percent, fate["count"], found.measured, note=note
            )
        return metrics
