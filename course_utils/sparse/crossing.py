"""Where does a speed that was measured at some sparsities cross 1? And how sure is that?"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.measure import Measurement

TINY = 1e-9  # a ratio of 0 or infinity has no logarithm


@dataclass(frozen=True)
class BreakEven:
    """From which share of zeros on the sparse kernel is quicker.

    Attributes:
        value: The share; infinite if it is slower at the largest that was measured, and minus
            infinite if it is quicker at all of them.
        low: Lower end of the 99 % interval, likewise.
        high: Upper end.
        measured: The smallest and the largest share that was measured.
    """

    value: float
    low: float
    high: float
    measured: tuple[float, float]

    @property
    def is_found(self) -> bool:
        """Whether it lies within what was measured, interval and all."""
        return math.isfinite(self.low) and math.isfinite(self.value) and math.isfinite(self.high)

    def __str__(self) -> str:
        least, most = (f"{100 * share:g} %" for share in self.measured)
        low = f"{100 * self.low:.1f} %" if self.low > -math.inf else f"below {least}"
        high = f"{100 * self.high:.1f} %" if self.high < math.inf else f"above {most}"
        if self.value == math.inf:
            doubt = f" (the interval begins at {low})" * (self.low < math.inf)
            return f"never, up to {most} zeros{doubt}"
        if self.value == -math.inf:
            doubt = f" (the interval ends at {high})" * (self.high > -math.inf)
            return f"at {least} zeros already{doubt}"
        return f"from {100 * self.value:.1f} % zeros ({low} to {high})"


def find_break_even(sparsities: Sequence[float], speeds: Sequence[Measurement]) -> BreakEven:
    """Return where speeds cross 1, and where the ends of their intervals do.

    Args:
        sparsities: Shares of zeros, rising, below 1.
        speeds: How many times as fast as the dense kernel the sparse one is at each.

    Raises:
        ValueError: These are not as many, or not as described.
    """
    low, value, high = (
        interpolate_crossing(sparsities, [getattr(speed, end) for speed in speeds])
        for end in ("high", "value", "low")
    )
    return BreakEven(value, low, high, (sparsities[0], sparsities[-1]))


def interpolate_crossing(sparsities: Sequence[float], ratios: Sequence[float]) -> float:
    """Return from which sparsity on all ratios are at least 1.

    Between two sparsities the logarithm of the ratio is taken as a straight line over that of the
    share of values left: exact where a kernel's time is in proportion to a power of that share.

    Returns:
        Infinite if the last ratio is below 1; minus infinite if none is.

    Raises:
        ValueError: There are no ratios or not as many as sparsities, these do not rise or are not
            within 0 and 1, or a ratio is negative.
    """
    is_rising = all(one < other for one, other in itertools.pairwise(sparsities))
    is_positive = all(ratio >= 0 for ratio in ratios)
    if not (len(ratios) == len(sparsities) > 0 and is_rising and is_positive):
        raise ValueError(f"{ratios} at {sparsities}: one ratio for each is needed, these rising.")
    if not 0 <= sparsities[0] <= sparsities[-1] < 1:
        raise ValueError(f"Sparsities are shares of zeros from 0 to below 1, not {sparsities}.")
    slower = [index for index, ratio in enumerate(ratios) if ratio < 1]
    if not slower:
        return -math.inf
    if slower[-1] == len(ratios) - 1:
        return math.inf
    ends = slice(slower[-1], slower[-1] + 2)
    start, stop = (math.log(max(ratio, TINY)) for ratio in ratios[ends])
    first, second = (math.log1p(-share) for share in sparsities[ends])
    return -math.expm1(first + (second - first) * start / (start - min(stop, -math.log(TINY))))
