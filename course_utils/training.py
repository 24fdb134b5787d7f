"""Train a classifier on images that are held in memory: what made the checkpoints.

One optimiser and one schedule (SGD with momentum on a one-cycle learning rate, Smith &
Topin, 2019, arXiv 1708.07120) and light augmentation. Nothing here is tuned to a model.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    state_file: Path | None = None,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
) -> nn.Module:
    """Return a trained copy of the model, in evaluation mode on the CPU.

    Args:
        model: Takes (batch, 1, height, width) float32 in [0, 1] and returns logits.
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
        recipe: Epochs, batch size, learning rate and augmentation.
        device: Where to train, e.g. "cpu" or "cuda".
        state_file: Rewritten after each epoch; training goes on from it where it exists.
        on_epoch: Called as ``on_epoch(epoch, mean_loss, model)``; epochs count from 1.
    """
    model = copy.deepcopy(model).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    steps = len(images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_learning_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    done = 0
    if state_file is not None and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        done = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])

    for epoch in range(done + 1, recipe.epochs + 1):
        generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        model.train()
        total = 0.0
        for step in range(steps):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            batch = images[rows].to(device)
            batch = augment(batch, recipe, generator)
            loss = loss_of(model(batch), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if state_file is not None:
            part = state_file.with_suffix(".part")
            torch.save(
                {
                    "epoch": epoch,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                },
                part,
            )
            os.replace(part, state_file)
        if on_epoch is not None:
            on_epoch(epoch, total / steps, model)
    return model.to("cpu").eval()


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
