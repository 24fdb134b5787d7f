"""Check of the exercise in lesson 06 on the arithmetic intensity of a convolution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

INTENSITY_CASES = [
    (5, 12, 40, 3, 14, 10, 4),  # no two mistakes give the same here
    (1, 3, 64, 7, 112, 112, 2),
    (64, 256, 512, 1, 7, 7, 1),
    (1, 16, 16, 5, 1, 32, 4),
    (256, 512, 512, 3, 7, 7, 2),
]


def check_intensity(attempt: Callable[[int, int, int, int, int, int, int], float]) -> Outcome:
    """Check a function that returns the operations for each byte that a convolution moves.

    Args:
        attempt: Takes the batch, the channels in and out, the side of the kernel, height and
            width of the images, and the bytes of a value; returns operations per byte.
    """
    return judge(
        "Arithmetic intensity",
        attempt,
        lambda *case: _count(*case).intensity,
        INTENSITY_CASES,
        _is_close,
        INTENSITY_MISTAKES,
    )


@dataclass(frozen=True)
class _Counts:
    """What a convolution computes, and the values that it moves."""

    macs: float
    weights: float
    inputs: float
    outputs: float
    bytes_per_value: float

    @property
    def bytes_moved(self) -> float:
        return self.bytes_per_value * (self.weights + self.inputs + self.outputs)

    @property
    def intensity(self) -> float:
        return 2 * self.macs / self.bytes_moved


def _count(
    batch: float,
    channels_in: int,
    channels_out: int,
    kernel: float,
    height: int,
    width: int,
    bytes_per_value: float,
) -> _Counts:
    pixels = batch * height * width
    weights = channels_in * channels_out * kernel**2
    inputs, outputs = pixels * channels_in, pixels * channels_out
    return _Counts(pixels * weights, weights, inputs, outputs, bytes_per_value)


def _is_close(given: Any, right: float) -> bool:
    return math.isclose(to_number(given), right, rel_tol=1e-4)


def _returns(*wrong: Callable[[_Counts], float]) -> Callable[..., bool]:
    """Return the question whether the result is made of the right counts in a wrong way."""
    return lambda given, right, *case: any(
        _is_close(given, compute(_count(*case))) for compute in wrong
    )


def _counts(*wrong: Callable[..., _Counts]) -> Callable[..., bool]:
    """Return the question whether something was counted wrongly.

    Args:
        wrong: Each takes the right counts and the arguments, and returns other counts.
    """
    return lambda given, right, *case: any(
        _is_close(given, count(_count(*case), *case).intensity) for count in wrong
    )


def _takes_for(*exchanged: Callable[..., tuple[Any, ...]]) -> Callable[..., bool]:
    """Return the question whether arguments were misread, in some or all of the counts.

    Args:
        exchanged: Each takes the arguments and returns others, by which operations, weights,
            activations, or everything is counted.
    """

    def is_made(given: Any, right: float, *case: Any) -> bool:
        counts = _count(*case)
        for exchange in exchanged:
            other = _count(*exchange(*case))
            for parts in (
                ("macs", "weights", "inputs", "outputs"),
                ("macs", "weights"),
                ("inputs", "outputs"),
                *((part,) for part in ("macs", "weights", "inputs", "outputs")),
            ):
                mixed = replace(counts, **{part: getattr(other, part) for part in parts})
                if _is_close(given, mixed.intensity):
                    return True
        return False

    return is_made


INTENSITY_MISTAKES = [
    Mistake("no number", lambda given, *_: math.isnan(to_number(given)),
            "It should return one number, and this is none.",
            "One convolution has one intensity. Print what comes back."),
    Mistake("rounded",
            lambda given, right, *_: to_number(given) in (math.floor(right), math.ceil(right)),
            "The result is rounded to a whole number.", "`/` or `//`? Nobody asked for `int`."),
    Mistake("multiply-adds not doubled", _returns(lambda c: c.macs / c.bytes_moved),
            "A multiply-add counts as one operation here.",
            "It is a multiplication and an addition. How does the task count it?"),
    Mistake("bytes per operation",
            _returns(lambda c: 1 / c.intensity, lambda c: c.bytes_moved / c.macs),
            "This is the other way round: bytes for each operation.",
            "What stands above the line of the fraction?"),
    Mistake("values for bytes",
            _returns(lambda c: c.intensity * c.bytes_per_value,
                     lambda c: c.intensity * c.bytes_per_value**2),
            "`bytes_per_value` does not come in where it should.",
            "With twice as many bytes for each value: does the intensity rise, stay or fall?"),
    Mistake("bits for bytes", _returns(lambda c: c.intensity / 8, lambda c: c.intensity * 8),
            "There is a factor of 8 between your result and the right one.",
            "A byte has 8 bits, but did anybody ask for bits?"),
    Mistake("operations alone", _returns(lambda c: 2 * c.macs, lambda c: c.macs),
            "These are the operations.", "The task asks how many of them there are for each byte."),
    Mistake("bytes alone",
            _returns(lambda c: c.bytes_moved, lambda c: c.bytes_moved / c.bytes_per_value),
            "This is what is moved.", "The task asks for operations. How do the two go together?"),
    Mistake("weights left out", _counts(lambda c, *_: replace(c, weights=0)),
            "The weights are not among your bytes.", "What else is read, besides the images?"),
    Mistake("activations left out", _counts(lambda c, *_: replace(c, inputs=0, outputs=0)),
            "Your bytes are those of the weights only.",
            "What does a layer read besides its weights, and what does it write?"),
    Mistake("input left out", _counts(lambda c, *_: replace(c, inputs=0)),
            "The input is not among your bytes.", "What is a convolution applied to?"),
    Mistake("output left out", _counts(lambda c, *_: replace(c, outputs=0)),
            "The output is not among your bytes.", "Where do the results go?"),
    Mistake("weights for each image",
            _counts(lambda c, batch, *_: replace(c, weights=batch * c.weights)),
            "Your result is the same for every batch.",
            "A batch of 100 images: how often do the weights have to be read?"),
    Mistake("batch left out in places", _takes_for(lambda batch, *others: (1, *others)),
            "The batch is missing in some of your counts.",
            "Which of operations, weights, input and output grow with the batch?"),
    Mistake("kernel not squared",
            _takes_for(lambda b, i, o, kernel, *others: (b, i, o, kernel**0.5, *others)),
            "A kernel of side 3 has more than three places.",
            "How many pixels of a channel go into one value of the output?"),
    Mistake("kernel left out", _takes_for(lambda b, i, o, kernel, *others: (b, i, o, 1, *others)),
            "Somewhere you count as if the kernel had a single place.",
            "How many pixels of a channel does it cover? Look at operations and weights."),
    Mistake("one side of the image",
            _takes_for(lambda b, i, o, k, height, width, size: (b, i, o, k, height, 1, size),
                       lambda b, i, o, k, height, width, size: (b, i, o, k, 1, width, size)),
            "You count a row or a column where there is an image.",
            "How many pixels has an image of 14 × 10?"),
    Mistake("image as a square",
            _takes_for(lambda b, i, o, k, height, width, size: (b, i, o, k, height, height, size),
                       lambda b, i, o, k, height, width, size: (b, i, o, k, width, width, size)),
            "You take the image for a square.", "Are both `height` and `width` in your count?"),
    Mistake("image left out",
            _takes_for(lambda b, i, o, k, height, width, size: (b, i, o, k, 1, 1, size)),
            "Height and width are missing in some of your counts.",
            "How often is the kernel applied to one image?"),
    Mistake("channels mistaken",
            _takes_for(lambda b, i, o, *others: (b, i, i, *others),
                       lambda b, i, o, *others: (b, o, o, *others)),
            "Channels in and channels out are mixed up.",
            "Which of the two has the input, which the output, and how do weights connect them?"),
    Mistake("channels left out",
            _takes_for(lambda b, i, o, *others: (b, 1, o, *others),
                       lambda b, i, o, *others: (b, i, 1, *others)),
            "The channels are missing in some of your counts.",
            "How many values of the input go into one value of the output? Count all channels."),
    Mistake("no padding",
            _counts(lambda c, b, i, o, k, height, width, size: replace(
                _count(b, i, o, k, height - k + 1, width - k + 1, size), inputs=c.inputs)),
            "You let the image shrink by the kernel.",
            "How large is the output, says the task?"),
    Mistake("padding read",
            _counts(lambda c, b, i, o, k, height, width, size: replace(
                c, inputs=b * i * (height + k - 1) * (width + k - 1))),
            "You count the padding among the bytes of the input.",
            "The zeros around an image: does anybody have to fetch them?"),
    Mistake("bias counted",
            _counts(lambda c, b, i, o, *_: replace(c, weights=c.weights + o)),
            "You count a bias among the weights.", "Has this convolution one?"),
]  # fmt: skip
