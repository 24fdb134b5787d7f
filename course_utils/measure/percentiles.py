"""How well a percentile is known: by counting, and for values that come in company."""

import math

import numpy as np

CONFIDENCE = 0.95  # of the interval of a percentile
STRETCHES = 20


def count_independent(is_above: np.ndarray) -> int:
    """Return how many independent requests tell as much of a share as these, in their order.

    It follows from how far the shares of 20 stretches scatter (batch means: Conway, 1963).
    """
    stretches = np.array_split(is_above, min(STRETCHES, len(is_above)))
    share, shares = is_above.mean(), [stretch.mean() for stretch in stretches]
    variance = np.var(shares) / max(len(shares) - 1, 1)
    least = share * (1 - share) / len(is_above)  # that of independent ones
    return len(is_above) if variance <= least else max(int(len(is_above) * least / variance), 1)


def find_interval_ranks(count: int, share: float) -> tuple[int, int]:
    """Return which of ``count`` sorted values, from 1, enclose a quantile 95 times in 100.

    How many values lie below the quantile is binomial (Thompson, 1936). 0 or ``count + 1`` mean
    that so few values do not bound it on that side.
    """
    steps = np.log(np.arange(count, 0, -1) / np.arange(1, count + 1) * share / (1 - share))
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + count * math.log1p(-share)
    at_most = np.cumsum(np.exp(logs))  # the chance that so many, or fewer, lie below
    tail = (1 - CONFIDENCE) / 2
    return int(np.searchsorted(at_most, tail, "right")), int(np.searchsorted(at_most, 1 - tail)) + 1
