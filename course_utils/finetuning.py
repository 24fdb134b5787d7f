"""Fine-tune an encoder as a classifier of texts: what made the course's encoders for glosses.

AdamW (Loshchilov & Hutter, 2019, arXiv 1711.05101) on a learning rate that rises and falls
linearly; layers compute in bf16. Texts of about a length share a batch, so that little is [PAD].
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import fingerprint
from course_utils.datasets import TextSplit
from course_utils.mixed_precision import autocast
from course_utils.training import (
    DivergedError,
    describe_architecture,
    resume,
    write_state,
)

POOL = 50  # batches whose texts are sorted by length together


@dataclass(frozen=True)
class TextRecipe:
    """How an encoder is fine-tuned."""

    epochs: int = 2
    batch: int = 64
    peak_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    warmup_share: float = 0.1
    seed: int = 0


def finetune(
    model: nn.Module,
    split: TextSplit,
    recipe: TextRecipe,
    *,
    precision: str = "bf16",
    state_file: Path | None = None,
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    extra: nn.Module | None = None,
    aim: str = "",
    on_step: Callable[[float], None] | None = None,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
) -> nn.Module:
    """Return a fine-tuned copy of the model, in evaluation mode.

    Parameters that require no gradient stay as they are.

    Args:
        model: Takes token ids (batch, length) as float32 and returns logits.
        split: What to train on.
        recipe: Epochs, batch size and learning rate.
        precision: In which layers compute; a key of ``mixed_precision.PRECISIONS``.
        state_file: Rewritten after each epoch; training goes on from it where it exists.
        loss_of: Called as ``loss_of(model, ids, rows)``, with the model as it is, the ids of a
            step, (batch, length), and their places in the split; returns what to minimise in place
            of the cross-entropy with the labels.
        extra: Learns too, but is not returned: a projection, for instance, that only the loss
            needs. It is changed.
        aim: What ``loss_of`` is after, in words; a state file with another aim is refused.
        on_step: Called with the loss of each step.
        on_epoch: Called as ``on_epoch(epoch, mean_loss, model)``; epochs count from 1.

    Raises:
        ValueError: There are fewer texts than a batch; or the state file is of another model,
            recipe, precision or aim, of other texts, or damaged.
        training.DivergedError: The loss or a weight is no longer a number. The state file, and the
            error's ``model``, keep what the last good epoch left.
    """
    if not 1 <= recipe.batch <= len(split):
        raise ValueError(f"{len(split)} texts do not fill a batch of {recipe.batch}.")
    model = copy.deepcopy(model)
    ids, labels = torch.tensor(split.images).short(), torch.tensor(split.labels)
    both = nn.ModuleList([model, extra] if extra is not None else [model])
    learned = [parameter for parameter in both.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=recipe.peak_learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = recipe.epochs * (len(ids) // recipe.batch)
    warmup = max(round(recipe.warmup_share * steps), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: share_of_rate(min(done + 1, steps), steps, warmup)
    )
    parts: dict[str, Any] = {"model": both, "optimizer": optimizer, "schedule": schedule}
    origin: dict[str, Any] = {}
    if state_file is not None:
        origin = {
            "architecture": describe_architecture(both),
            "lessons": f"{len(ids):,} texts ({fingerprint.of(ids, labels)})",
            "recipe": asdict(recipe),
            "precision": precision,
            "aim": aim,
        }
    done = resume(state_file, origin, parts)

    for epoch in range(done + 1, recipe.epochs + 1):
        good = copy.deepcopy(model.state_dict())
        both.train()
        total, batches = 0.0, draw_batches(ids, recipe.batch, 1000 * recipe.seed + epoch - 1)
        for rows in batches:
            batch = ids[rows]
            batch = batch[:, : int(batch.ne(0).sum(dim=1).max())].float()
            with autocast(precision):
                if loss_of is not None:
                    loss = loss_of(model, batch, rows)
                else:
                    loss = F.cross_entropy(
                        model(batch).float(), labels[rows], label_smoothing=recipe.label_smoothing
                    )
            total += loss.item()
            if not math.isfinite(total):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if on_step is not None:
                on_step(loss.item())
        weights = both.state_dict().values()  # the last step may have ruined some
        if not (math.isfinite(total) and all(bool(one.isfinite().all()) for one in weights)):
            model.load_state_dict(good)
            raise DivergedError(
                f"The loss or a weight is no longer a number in epoch {epoch}; the model after the"
                " last good epoch is kept in this error's `model`. Take a smaller learning rate"
                f" than {recipe.peak_learning_rate:g}.",
                model.eval(),
            )
        if state_file is not None:
            state = {name: part.state_dict() for name, part in parts.items()}
            write_state(state_file, {**origin, "epoch": epoch, **state})
        if on_epoch is not None:
            on_epoch(epoch, total / len(batches), model)
    return model.eval()


def share_of_rate(step: int, steps: int, warmup: int) -> float:
    """Return the share of the highest learning rate: it rises linearly, and falls linearly to 0.

    Args:
        step: From 1 to ``steps``.
        steps: Of the whole training.
        warmup: Steps of the rise.
    """
    return min(step / warmup, (steps - step) / max(steps - warmup, 1))


def draw_batches(ids: Tensor, size: int, seed: int) -> list[Tensor]:
    """Return the rows of whole batches in random order, each of texts about as long.

    Args:
        ids: (n, positions), 0 for [PAD].
        size: Texts of a batch.
        seed: The only source of randomness.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = ids.ne(0).sum(dim=1)
    order = torch.randperm(len(ids), generator=generator)
    order = torch.cat([pool[lengths[pool].argsort()] for pool in torch.split(order, POOL * size)])
    whole = [rows for rows in torch.split(order, size) if len(rows) == size]
    return [whole[place] for place in torch.randperm(len(whole), generator=generator)]
