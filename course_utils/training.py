"""Train a classifier on images that are held in memory: what made the checkpoints.

One optimiser and one schedule (SGD with momentum on a one-cycle learning rate, Smith &
Topin, 2019, arXiv 1708.07120) and light augmentation. Nothing here is tuned to a model.
"""

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import fingerprint
from course_utils.mixed_precision import LossScaler, autocast, take_step


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; stored beside the weights in each checkpoint."""

    epochs: int
    batch: int = 128
    peak_learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    flip: bool = True
    shift_pixels: int = 2
    erase_pixels: int = 8
    seed: int = 0


class DivergedError(Exception):
    """The loss, a gradient or a weight is no longer a number.

    Attributes:
        model: As it was after the last epoch that went well, in evaluation mode on the CPU.
    """

    def __init__(self, message: str, model: nn.Module) -> None:
        super().__init__(message)
        self.model = model


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return the images flipped, shifted and with a square blanked out, each at random.

    Args:
        images: (batch, 1, height, width) in [0, 1].
        recipe: Whether to flip, the largest shift along each axis, and the side of the blanked
            square (cutout: DeVries & Taylor, 2017, arXiv 1708.04552), which may hang over the
            border; both in pixels, 0 for none.
        generator: The only source of randomness; on the CPU.
    """
    batch, _, height, width = images.shape
    shift, erase = recipe.shift_pixels, recipe.erase_pixels

    def draw(low: int, high: int) -> Tensor:  # (batch, 1): a whole number in [low, high) each
        return torch.randint(low, high, (batch, 1), generator=generator).to(images.device)

    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    from_row = rows + draw(0, 2 * shift + 1)  # (batch, height), into the padded image
    mirrored = torch.where(draw(0, 2) == 1, columns.flip(0), columns) if recipe.flip else columns
    from_column = mirrored + draw(0, 2 * shift + 1)  # (batch, width)
    padded = F.pad(images, (shift, shift, shift, shift))[:, 0]
    which = torch.arange(batch, device=images.device)[:, None, None]
    moved = padded[which, from_row[:, :, None], from_column[:, None, :]]  # (batch, height, width)

    top, left = draw(1 - erase, height), draw(1 - erase, width)
    in_rows = (rows >= top) & (rows < top + erase)  # (batch, height)
    in_columns = (columns >= left) & (columns < left + erase)  # (batch, width)
    return moved.masked_fill(in_rows[:, :, None] & in_columns[:, None, :], 0.0)[:, None]


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    state_file: Path | None = None,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
    on_step: Callable[[float], None] | None = None,
    before_step: Callable[[float, nn.Module], None] | None = None,
    draw: Callable[[int, Tensor], Tensor] | None = None,
    loss_of: Callable[[Tensor, int, Tensor, Tensor], Tensor] | None = None,
    aim: str = "",
    compiled: bool = False,
) -> nn.Module:
    """Return a trained copy of the model, in evaluation mode on the CPU.

    Args:
        model: Takes (batch, 1, height, width) float32 in [0, 1] and returns logits.
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
        recipe: Epochs, batch size, learning rate and augmentation.
        device: Where to train, e.g. "cpu" or "cuda".
        precision: In which layers compute; a key of ``mixed_precision.PRECISIONS``. The weights
            stay in fp32; in fp16 the loss is scaled.
        state_file: Rewritten after each epoch; training goes on from it where it exists, whatever
            weights the model has (they may be random).
        on_epoch: Called as ``on_epoch(epoch, mean_loss, model)``; epochs count from 1.
        on_step: Called with the loss of each step.
        before_step: Called as ``before_step(done, model)`` with the share of all steps that are
            done, in [0, 1); it may change buffers of the model, a mask for instance.
        draw: Called as ``draw(epoch, rows)``; returns the images of a step, (batch, 1, height,
            width), in place of those of these rows, augmented.
        loss_of: Called as ``loss_of(outputs, epoch, rows, batch)``, with the model's outputs in
            fp32 and the images that it saw; returns what to minimise in place of the cross-entropy
            with the labels.
        aim: What the three above are after, in words; a state file with another aim is refused.
        compiled: Whether ``torch.compile`` makes the steps faster, which takes half a minute first
            and a C++ compiler.

    Raises:
        ValueError: The state file is of another architecture, recipe or precision, of other images
            or labels, or damaged; there is no such precision; or images and labels do not fit each
            other, the model or the batch.
        DivergedError: The loss, a gradient or a weight is no longer a number. The state file, and
            the error itself, keep what the last good epoch left.
    """
    _check_lessons(images, labels, recipe)
    model = copy.deepcopy(model).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        learned, lr=0.01, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    steps = len(images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_learning_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    forward = torch.compile(model) if compiled else model
    cross_entropy = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    context = autocast(precision, device)
    scaler = LossScaler() if precision == "fp16" else None
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    parts |= {"scaler": scaler} if scaler else {}
    origin: dict[str, Any] = {}
    if state_file is not None:
        origin = {
            "architecture": describe_architecture(model),
            "lessons": f"{len(images):,} images ({fingerprint.of(images, labels)})",
            "recipe": asdict(recipe),
            "precision": precision,
            "aim": aim,
        }
    done = resume(state_file, origin, parts)

    for epoch in range(done + 1, recipe.epochs + 1):
        good = copy.deepcopy(model.state_dict())
        generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        model.train()
        total, taken = 0.0, 0
        for step in range(steps):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            if draw is not None:
                batch = draw(epoch, rows).to(device)
            else:
                batch = augment(images[rows].to(device), recipe, generator)
            if before_step is not None:
                before_step((steps * (epoch - 1) + step) / (steps * recipe.epochs), model)
            with context:
                logits = forward(batch)
            if loss_of is not None:
                loss = loss_of(logits.float(), epoch, rows, batch)
            else:
                if step == 0:
                    _check_logits(logits, labels)
                loss = cross_entropy(logits.float(), labels[rows].to(device))
            total += loss.item()
            if not math.isfinite(total):
                break
            if take_step(loss, optimizer, scaler):  # a skipped step is none of the schedule
                schedule.step()
                taken += 1
            if on_step is not None:
                on_step(loss.item())
        is_stuck = scaler is not None and taken == 0 and scaler.scale < 1
        if is_stuck or not (math.isfinite(total) and _is_finite(model)):
            model.load_state_dict(good)
            raise DivergedError(_advise(recipe, epoch, state_file), model.to("cpu").eval())
        if state_file is not None:
            state = {name: part.state_dict() for name, part in parts.items()}
            write_state(state_file, {**origin, "epoch": epoch, **state})
        if on_epoch is not None:
            on_epoch(epoch, total / steps, model)
    return model.to("cpu").eval()


def _check_lessons(images: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """Raise ``ValueError`` unless there are images and labels to train with."""
    if images.ndim != 4 or len(images) != len(labels):
        raise ValueError(
            "Images of shape (n, 1, height, width) and n labels are needed, not"
            f" {tuple(images.shape)} and {tuple(labels.shape)}."
        )
    if not 1 <= recipe.batch <= len(images):
        raise ValueError(f"{len(images)} images do not fill a batch of {recipe.batch}.")


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    """Raise ``ValueError`` unless there is a logit for each label."""
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f"There is a label {int(labels.max())}, but the model returns {logits.shape[1]} logits:"
            " labels count from 0."
        )


def describe_architecture(model: nn.Module) -> str:
    """Return the class, the number of parameters, the widths, and a digest of layers and shapes."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    count = sum(parameter.numel() for parameter in model.parameters())
    widths = sorted({layer.bits for layer in model.modules() if hasattr(layer, "bits")})  # type: ignore[type-var]
    rounded = f" rounded to {', '.join(map(str, widths))} bits" if widths else ""
    digest = fingerprint.of(shapes, repr(model))
    return f"{type(model).__name__} of {count:,} parameters{rounded} ({digest})"


def resume(file: Path | None, origin: Mapping[str, object], parts: Mapping[str, Any]) -> int:
    """Bring the parts of a training to where it broke off; return how many epochs are done.

    Args:
        file: Its state; None, or not there: it starts from the beginning.
        origin: What the state must be of, in words.
        parts: What has a ``load_state_dict``, by the names in the file.

    Raises:
        ValueError: The state is of something else, or damaged.
    """
    if file is None or not file.exists():
        return 0
    state = _read_state(file, origin)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["epoch"])


def _read_state(file: Path, origin: Mapping[str, object]) -> dict[str, Any]:
    """Return a state of training, if it is one of this model, these images and this recipe."""
    cure = f"Remove {file}, or name another file, to start from the beginning."
    try:
        state = {"aim": "", **torch.load(file, map_location="cpu", weights_only=True)}
    except Exception as error:  # pickle, zip and torch have classes of their own
        raise ValueError(f"{file} is no state of a training ({error!s:.80}). {cure}") from None
    for what, wanted in origin.items():
        if state.get(what) != wanted:
            raise ValueError(
                f"{file} holds the {what} {state.get(what)}, but this training has the {what}"
                f" {wanted}. {cure}"
            )
    return state


def write_state(file: Path, state: Mapping[str, object]) -> None:
    """Write a state of training, all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, file)


def _is_finite(model: nn.Module) -> bool:
    """Return whether all weights and statistics are numbers; the last step may have ruined some."""
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def _advise(recipe: Recipe, epoch: int, state_file: Path | None) -> str:
    kept = "the model after the last good epoch is kept in this error's `model`"
    if state_file is not None and epoch > 1:
        kept += f", and the state of the training, for this recipe only, in {state_file}"
    return (
        f"The loss, a gradient or a weight is no longer a number in epoch {epoch}; {kept}. Take a"
        f" smaller learning rate than {recipe.peak_learning_rate:g}, a tenth of it for instance; in"
        " fp16, where the loss scale adapts itself, try bf16 or fp32; and see whether images or"
        " weights hold NaN."
    )


@torch.inference_mode()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Return the share of images that the model classifies as labelled, in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    right = 0
    for start in range(0, len(images), batch):
        logits = model(images[start : start + batch].to(device))
        right += int((logits.argmax(1).cpu() == labels[start : start + batch]).sum())
    return right / len(images)
