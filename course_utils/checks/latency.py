"""Check of the exercise in lesson 01 on percentiles."""

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import fmean, median
from typing import Any
from unittest import mock

import numpy as np
import torch

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

LIBRARIES = [
    (np, "percentile"), (np, "quantile"), (np, "nanpercentile"), (np, "nanquantile"),
    (statistics, "quantiles"), (torch, "quantile"), (torch, "nanquantile"),
    (torch.Tensor, "quantile"), (torch.Tensor, "nanquantile"),
]  # fmt: skip


def check_percentile(attempt: Callable[[list[float], float], float]) -> Outcome:
    """Check a function that interpolates a percentile between the two nearest sorted samples.

    That is definition 7 of Hyndman and Fan (1996), the one that NumPy takes by default. While
    it is checked, the percentiles of NumPy, PyTorch and ``statistics`` refuse to work.

    Args:
        attempt: Takes samples in milliseconds and a percent in 0 … 100; returns milliseconds.
    """
    cases = [
        ([14.0, 25.0, 40.0, 12.0, 11.0, 10.0, 17.0], 80),  # no two mistakes give the same here
        ([9.0, 3.0, 8.0, 5.0, 4.0], 75),  # the place is a whole number
        ([6.0, 2.0], 50),
        ([3.1, 2.9, 3.0, 44.0, 3.2, 2.8, 3.0, 3.3, 3.1, 3.0, 2.9], 99.9),
        ([5.0, 7.0, 4.0], 100),
        ([5.0, 7.0, 4.0], 0),
        ([7.5], 99),
    ]
    with _no_libraries():
        return judge(
            "A percentile by hand",
            attempt,
            _percentile,
            cases,
            _same,
            PERCENTILE_MISTAKES,
            must_keep_arguments=True,
        )


class _RefusedError(Exception):
    """A library was asked for what is to be done by hand."""


@contextmanager
def _no_libraries() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise _RefusedError

    with ExitStack() as stack:
        for library, name in LIBRARIES:
            stack.enter_context(mock.patch.object(library, name, refuse))
        yield


def _same(given: Any, right: float) -> bool:
    return math.isclose(to_number(given), right, rel_tol=1e-4)


def _returns(*wrong: Callable[..., float]) -> Callable[..., bool]:
    """Return the question whether the result is what one of these functions returns."""
    return lambda given, right, *case: any(_same(given, function(*case)) for function in wrong)


def _place(samples: list[float], percent: float) -> float:
    return (len(samples) - 1) * percent / 100


def _at(samples: list[float], place: float) -> float:
    """Interpolate between the samples, in the order that they have."""
    low, high = samples[math.floor(place)], samples[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def _percentile(samples: list[float], percent: float) -> float:
    return _at(sorted(samples), _place(samples, percent))


def _below(samples: list[float], percent: float) -> float:
    return samples[math.floor(_place(samples, percent))]


def _above(samples: list[float], percent: float) -> float:
    return samples[math.ceil(_place(samples, percent))]


PERCENTILE_MISTAKES = [
    Mistake(
        "from a library",
        lambda given, right, x, percent: isinstance(given, _RefusedError),
        "A library does the work here; while this check runs, it refuses to.",
        "By hand it is four lines: sort, find the place, take its neighbours, go between them.",
        of_failures=True,
    ),
    Mistake(
        "percent as a fraction",
        lambda given, right, x, percent: (
            _place(x, percent) < len(x) - 2
            and (isinstance(given, IndexError) or _same(given, max(x)))
        ),
        "The place that you look at lies far beyond the last sample.",
        "percent runs from 0 to 100, not from 0 to 1.",
        of_failures=True,
    ),
    Mistake(
        "beyond the end",
        lambda given, right, x, percent: isinstance(given, IndexError),
        "At the last sample it fails: nothing stands on the right of it.",
        "Try one sample, and percent = 100. Is the neighbour on the right needed there?",
        of_failures=True,
    ),
    Mistake(
        "no number",
        lambda given, right, x, percent: math.isnan(to_number(given)),
        "It should return one number, and this is none.",
        "Look at what comes back: `percentile([6.0, 2.0], 50)`.",
    ),
    Mistake(
        "not sorted",
        _returns(lambda x, percent: _at(x, _place(x, percent)), _below, _above),
        "You took the samples in the order in which they were measured.",
        "A percentile asks how many samples are smaller. In which order is that easy to see?",
    ),
    Mistake(
        "the place",
        _returns(_place),
        "This is the place among the sorted samples, not the time that stands there.",
        "Return milliseconds.",
    ),
    Mistake(
        "rounded down",
        _returns(lambda x, percent: _below(sorted(x), percent)),
        "This is the sample just below the place: the rest of the place is lost.",
        "The rest says how far to go from this sample towards the next one.",
    ),
    Mistake(
        "rounded up",
        _returns(lambda x, percent: _above(sorted(x), percent)),
        "This is the sample just above the place: the nearest rank.",
        "When the place lies between two samples, so does the result.",
    ),
    Mistake(
        "another place",
        _returns(
            lambda x, percent: _at(sorted(x), len(x) * percent / 100),
            lambda x, percent: _at(sorted(x), len(x) * percent / 100 - 1),
            lambda x, percent: _at(sorted(x), len(x) * percent / 100 - 0.5),
            lambda x, percent: _at(sorted(x), (len(x) + 1) * percent / 100 - 1),
        ),
        "You interpolate, but at a place that is a little off.",
        "Percent 0 is the place 0 of the first sample. Which place is percent 100?",
    ),
    Mistake(
        "the other end",
        _returns(lambda x, percent: _percentile(x, 100 - percent)),
        "You count from the other end: your 99th percentile is nearly the fastest call.",
        "Which way did you sort, and from which end do you count?",
    ),
    Mistake(
        "mean",
        _returns(lambda x, percent: fmean(x)),
        "This is the mean.",
        "A percentile depends on the order of the samples and on two of them, not on all.",
    ),
    Mistake(
        "median",
        _returns(lambda x, percent: median(x)),
        "This is the median, whatever percent is asked for.",
        "Where does percent come into your function?",
    ),
    Mistake(
        "shares exchanged",
        lambda given, right, x, percent: _same(
            given, _below(sorted(x), percent) + _above(sorted(x), percent) - right
        ),
        "The two neighbours are right, but each has the share of the other.",
        "At the place 4.8, is the result nearer to the sample at 4 or to the one at 5?",
    ),
    Mistake(
        "half-way",
        _returns(lambda x, p: (_below(sorted(x), p) + _above(sorted(x), p)) / 2),
        "This is the middle between the two neighbours.",
        "At the place 4.8, how much of the way from 4 to 5 is behind you?",
    ),
    Mistake(
        "shares of 0",
        lambda given, right, x, percent: to_number(given) == 0,
        "When the place is a whole number, both neighbours get the share 0.",
        "How far apart are `floor` and `ceil` of 3.0?",
    ),
]
