"""Mixed-precision training: 16-bit arithmetic, weights and their updates in 32 bits.

After Micikevicius et al., 2018, arXiv 1710.03740: layers compute in bf16 or fp16; the *master
weights*, which the optimiser changes, stay in fp32; and in fp16 the loss is multiplied by a
scale, so that small gradients do not become 0. The casts are those of ``torch.autocast``: the
weights of a layer are cast each time it runs, and their gradients are cast back to fp32.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_SCALE = 2.0**127  # the next is infinite in fp32


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """Return a context in which layers compute in a precision.

    Args:
        precision: A key of ``PRECISIONS``; with "fp32" the context does nothing.
        device: Where the layers are, e.g. "cpu" or "cuda".

    Raises:
        ValueError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"There is no precision {precision!r}; choose one of {list(PRECISIONS)}.")
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


class LossScaler:
    """Keeps the scale of the loss as large as the gradients allow (dynamic loss scaling).

    Attributes:
        scale: What the loss has to be multiplied with before its backward pass.
        grow_after: After so many good steps in a row the scale is doubled.
        good_steps: How many there were since the scale changed.
    """

    def __init__(self, scale: float = 2.0**16, grow_after: int = 2000) -> None:
        if not (0 < scale <= LARGEST_SCALE and grow_after >= 1):
            raise ValueError(
                "A scale above 0, and at most 2**127, can grow after 1 step or more, not"
                f" scale={scale:g} after grow_after={grow_after}."
            )
        self.scale, self.grow_after, self.good_steps = float(scale), grow_after, 0

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Undo the scale and take the step if all gradients are finite; return whether they were.

        If one is infinite or NaN, the step is skipped and the scale is halved.
        """
        learned = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in learned if weight.grad is not None]
        if not all(gradient.isfinite().all() for gradient in gradients):
            self.scale, self.good_steps = self.scale / 2, 0
            return False
        for gradient in gradients:
            gradient.mul_(1 / self.scale)
        optimizer.step()
        self.good_steps += 1
        if self.good_steps == self.grow_after:
            self.scale, self.good_steps = min(2 * self.scale, LARGEST_SCALE), 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept to go on later."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.scale, self.good_steps = state["scale"], state["good_steps"]


def take_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, scaler: LossScaler | None = None
) -> bool:
    """Go backwards from a loss and change the weights; return False if the scaler skipped it."""
    optimizer.zero_grad()
    if scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return True
    (loss * scaler.scale).backward()  # type: ignore[no-untyped-call]
    return scaler.step(optimizer)


def build_step(
    model: nn.Module, labels: np.ndarray, precision: str, device: str = "cpu"
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a training step that ``measure.compare`` can time: images -> logits.

    It trains a copy of the model by SGD with momentum, as ``training.train`` does. In fp16 the
    gradients of a convolution's weights can take a second an image, even on a processor with
    fp16 instructions: where no kernel is made for them, a loop for any processor runs.

    Args:
        model: Takes (n, ...) float32 images and returns logits.
        labels: (n,) int64, of the images that each call will get.
        precision: A key of ``PRECISIONS``; in fp16 the loss is scaled.
        device: Where to train; the logits come back from there, so that a call waits for its step.

    Raises:
        ValueError: There is no such precision.
    """
    context = autocast(precision, device)
    learner = copy.deepcopy(model).train().to(device)
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-5, momentum=0.9, nesterov=True)
    scaler = LossScaler() if precision == "fp16" else None
    wanted = torch.from_numpy(labels).to(device)

    def step(images: np.ndarray) -> np.ndarray:
        with context:
            logits = learner(torch.from_numpy(images).to(device)).float()
        take_step(F.cross_entropy(logits, wanted), optimizer, scaler)
        answers: np.ndarray = logits.detach().cpu().numpy()
        return answers

    return step
