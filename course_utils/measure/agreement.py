"""Do two runners answer alike? Image by image: an equal accuracy may hide different answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from course_utils.measure.accuracy import summarize_accuracy
from course_utils.measure.measurement import Measurement, measured_now

BATCH = 100


@dataclass(frozen=True)
class Agreement:
    """How alike two runners answer the same images.

    Attributes:
        same: Percentage of the images that both put into the same class, with its standard error.
        difference: Largest difference of a logit, in percent of the largest logit of the reference.
    """

    same: Measurement
    difference: Measurement


def compare_answers(
    run: Callable[[np.ndarray], np.ndarray],
    reference: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
) -> Agreement:
    """Compare the answers of a runner with those of a reference, such as PyTorch's.

    Args:
        run: Images (n, ...) -> logits (n, classes).
        reference: Likewise.
        images: At least one.

    Raises:
        ValueError: There are no images, or the two do not return logits of one shape, or some of
            them are not finite, or those of the reference are all 0.
    """
    if len(images) == 0:
        raise ValueError("There are no images to compare answers on.")
    starts = range(0, len(images), BATCH)
    logits, expected = (
        np.concatenate([one(images[start : start + BATCH]) for start in starts])
        for one in (run, reference)
    )
    if logits.shape != expected.shape or logits.shape[:1] != (len(images),) or logits.ndim != 2:
        raise ValueError(
            f"Answers of shape {logits.shape} cannot be compared with answers of shape"
            f" {expected.shape}; logits (images, classes) were expected for {len(images)} images."
        )
    largest = float(np.abs(expected).max())
    if not (np.isfinite(logits).all() and np.isfinite(largest) and largest > 0):
        raise ValueError("Some logits are not finite, or all of the reference are 0.")
    found = summarize_accuracy(logits.argmax(axis=1) == expected.argmax(axis=1))
    other = round(found.count * (100 - found.value) / 100)
    same = replace(found, note=f"{other:,} of {found.count:,} images get another class")
    percent = 100 * float(np.abs(logits - expected).max()) / largest
    difference = Measurement(
        percent, "%", percent, percent, found.count, measured_now(), note="of the largest logit"
    )
    return Agreement(same, difference)
