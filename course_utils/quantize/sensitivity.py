"""How far the answers of a network move when one of its layers is rounded."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import calibrate
from course_utils.quantize.folding import fold_batch_norms
from course_utils.quantize.integers import FLOAT_BITS
from course_utils.quantize.weights import find_layers, quantize_weights

BATCH = 50


@dataclass(frozen=True)
class Sensitivity:
    """How far the answers of a network move when one layer is rounded.

    Attributes:
        divergences: In nats, by layer and then by the width of that layer alone.
        weight_counts: How many weights each layer has.
    """

    divergences: Mapping[str, Mapping[int, float]]
    weight_counts: Mapping[str, int]

    @property
    def widths(self) -> list[int]:
        """All widths that were measured, the narrowest first."""
        return sorted(next(iter(self.divergences.values())))

    def predict(self, widths: Mapping[str, int]) -> float:
        """Return the sum of the layers' divergences: what all of them would do if they added up.

        Raises:
            ValueError: The layers are others than those measured, or a width was not measured.
        """
        if widths.keys() != self.divergences.keys():
            raise ValueError(f"Give a width for each of {list(self.divergences)}, and no other.")
        for layer, bits in widths.items():
            if bits not in self.divergences[layer]:
                raise ValueError(f"{layer!r} was measured at {self.widths} bits, not {bits}.")
        return sum(self.divergences[layer][bits] for layer, bits in widths.items())


def measure_sensitivity(
    model: nn.Module, images: np.ndarray, widths: Iterable[int] = range(2, 9)
) -> Sensitivity:
    """Round one layer at a time to each width, and measure how far the answers move.

    No labels are needed: the network is compared with itself. The measure is that of ZeroQ (Cai
    et al., 2020, arXiv 2001.00281).

    Args:
        model: With its batch norms folded, since it is the folded weights that are rounded.
        images: (n, ...) float32; a hundred are enough to tell layers apart.
        widths: In bits.

    Raises:
        ValueError: The model has no layers to round or batch norms to fold, there are no widths
            or one that cannot be made, or there are no images, or none that can be used.
    """
    layers, widths = find_layers(model), sorted(set(widths))
    if not layers or not widths:
        raise ValueError(f"There is nothing to measure: layers {layers}, widths {widths}.")
    if _count_norms(model) and _count_norms(fold_batch_norms(model)) < _count_norms(model):
        raise ValueError(
            "Fold the batch norms first, quantize.fold_batch_norms(model): folding changes the"
            " weights, and it is the folded ones that are rounded."
        )
    answers = log_probabilities(model, images)
    divergences: dict[str, dict[int, float]] = {layer: {} for layer in layers}
    for layer in layers:
        for bits in widths:
            rounded = quantize_weights(model, {**dict.fromkeys(layers, FLOAT_BITS), layer: bits})
            divergences[layer][bits] = _diverge(answers, log_probabilities(rounded, images))
    return Sensitivity(divergences, count_weights(model))


def measure_divergence(model: nn.Module, other: nn.Module, images: np.ndarray) -> float:
    """Return how far the other network's answers are from the model's, in nats: 0 if equal.

    The mean over images of ``sum p * log(p / q)``, where p are the probabilities of the classes
    by the model and q by the other (Kullback & Leibler, 1951).

    Args:
        model: Returns logits.
        other: Returns logits of as many classes.
        images: (n, ...) float32.

    Raises:
        ValueError: There are no images, or they are not float32 or not finite.
    """
    return _diverge(log_probabilities(model, images), log_probabilities(other, images))


def log_probabilities(model: nn.Module, images: np.ndarray) -> Tensor:
    """Return the logarithms of the softmax of the logits: (n, classes) float64.

    Raises:
        ValueError: There are no images, they are not float32 or not finite, or the model does not
            take them.
    """
    calibrate.check_images(images, pixels=None)
    model = copy.deepcopy(model).eval()
    batches = torch.split(torch.from_numpy(images), BATCH)
    try:
        with torch.inference_mode():
            return torch.cat([F.log_softmax(model(batch).double(), dim=1) for batch in batches])
    except RuntimeError as error:
        raise calibrate.refuse_images(images, error) from None


def count_weights(model: nn.Module) -> dict[str, int]:
    """Return how many weights each layer has that can be rounded."""
    return {name: model.get_submodule(name).weight.numel() for name in find_layers(model)}  # type: ignore[operator]


def _diverge(answers: Tensor, others: Tensor) -> float:
    return float(F.kl_div(others, answers, reduction="batchmean", log_target=True).clamp(min=0))


def _count_norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
