"""A width for each layer: few bits where they do little harm, more where they are needed.

What rounding several layers does is taken to be the sum of what each does alone. That is an
assumption: errors of layers may cancel or amplify each other (CLADO: Deng et al., 2023, arXiv
2307.05657, goes without it). A search along the front of the best settings: ZeroQ (Cai et al.,
2020, arXiv 2001.00281).
"""

import math

from torch import nn

from course_utils.quantize.integers import FLOAT_BITS, LARGEST_BITS, SMALLEST_BITS
from course_utils.quantize.sensitivity import Sensitivity, count_weights
from course_utils.quantize.weights import Widths, spread_widths


def count_weight_bytes(model: nn.Module, widths: Widths) -> int:
    """Return how many bytes the weights take, each layer packed without gaps.

    Biases and the scale of each channel come on top, in float32.

    Args:
        model: Only its shapes are used.
        widths: 2 to 16 bits, or 32; one for all layers, or one by the name of each.

    Raises:
        ValueError: A width is none of these, or the layers are not those of the model.
    """
    counts = count_weights(model)
    spread = spread_widths(model, widths)
    allowed = {*range(SMALLEST_BITS, LARGEST_BITS + 1), FLOAT_BITS}
    strange = ", ".join(
        f"{bits} for {name!r}" for name, bits in spread.items() if bits not in allowed
    )
    if strange:
        raise ValueError(
            f"Weights take {SMALLEST_BITS} to {LARGEST_BITS} bits, or {FLOAT_BITS}; not {strange}."
        )
    return sum(_count_bytes(counts[name], bits) for name, bits in spread.items())


def widest_uniform(sensitivity: Sensitivity, budget_bytes: float) -> int:
    """Return the widest of the measured widths at which all weights fit into a budget.

    Raises:
        ValueError: Not even the narrowest does.
    """
    _check_budget(sensitivity, budget_bytes)
    return max(bits for bits in sensitivity.widths if _sum(sensitivity, bits) <= budget_bytes)


def choose_widths(sensitivity: Sensitivity, budget_bytes: float) -> dict[str, int]:
    """Return a width for each layer, step by step: a greedy search.

    All layers start at the widest. Again and again the layer is made one step narrower that
    adds the least divergence for each bit saved, until all fit into the budget.

    Raises:
        ValueError: Not even the narrowest widths fit.
    """
    _check_budget(sensitivity, budget_bytes)
    divergences, counts = sensitivity.divergences, sensitivity.weight_counts
    narrower = dict(zip(sensitivity.widths[1:], sensitivity.widths, strict=False))
    chosen = dict.fromkeys(divergences, sensitivity.widths[-1])

    def price(layer: str) -> float:
        wide, narrow = chosen[layer], narrower[chosen[layer]]
        added = divergences[layer][narrow] - divergences[layer][wide]
        return added / (counts[layer] * (wide - narrow))

    while sum(_count_bytes(counts[layer], bits) for layer, bits in chosen.items()) > budget_bytes:
        cheapest = min((layer for layer in chosen if chosen[layer] in narrower), key=price)
        chosen[cheapest] = narrower[chosen[cheapest]]
    return chosen


def choose_widths_exactly(sensitivity: Sensitivity, budget_bytes: float) -> dict[str, int]:
    """Return the widths with the least sum of divergences of all that fit into a budget.

    Layer by layer every width is tried with every setting of the layers before. A setting is
    dropped if another is no larger and diverges no more, so that few remain.

    Raises:
        ValueError: Not even the narrowest widths fit.
    """
    _check_budget(sensitivity, budget_bytes)
    front: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]  # bytes, divergence, widths
    for layer, by_width in sensitivity.divergences.items():
        count = sensitivity.weight_counts[layer]
        tried = [
            (size_bytes + _count_bytes(count, bits), divergence + more, (*widths, bits))
            for size_bytes, divergence, widths in front
            for bits, more in by_width.items()
        ]
        front, least = [], math.inf
        for setting in sorted(tried):  # by size, and those of one size by divergence
            if setting[0] <= budget_bytes and setting[1] < least:
                front.append(setting)
                least = setting[1]
    return dict(zip(sensitivity.divergences, front[-1][2], strict=True))


def _count_bytes(count: int, bits: int) -> int:
    return math.ceil(count * bits / 8)


def _sum(sensitivity: Sensitivity, bits: int) -> int:
    return sum(_count_bytes(count, bits) for count in sensitivity.weight_counts.values())


def _check_budget(sensitivity: Sensitivity, budget_bytes: float) -> None:
    narrowest = sensitivity.widths[0]
    least = _sum(sensitivity, narrowest)
    if not budget_bytes >= least:
        raise ValueError(
            f"The weights do not fit into {budget_bytes:,} bytes: with {narrowest} bits each they"
            f" take {least:,}, the least possible."
        )
