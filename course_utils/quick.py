"""A quick look: with ``INFERENCE_MEASURED_QUICK=1`` a lesson measures less, and is done sooner.

It is for tests, which ask whether a lesson works and not how large its numbers are. What is shown
is measured all the same, with wider intervals, and a sweep says that it took a quick look; but the
text of a lesson expects the numbers of a full run.
"""

import os

from course_utils.datasets import Split

VARIABLE = "INFERENCE_MEASURED_QUICK"
MOST_IMAGES = 4000  # for the accuracy at a setting of a sweep
SHARE_OF_TIME = 0.25


def is_asked_for() -> bool:
    """Return whether the environment asks for a quick look."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def choose_images(split: Split) -> Split:
    """Return the images to count an accuracy on: for a quick look the first 4000."""
    return split.first(MOST_IMAGES) if is_asked_for() and len(split) > MOST_IMAGES else split


def choose_seconds(limit_s: float) -> float:
    """Return the time limit of a comparison: for a quick look a quarter of it."""
    return SHARE_OF_TIME * limit_s if is_asked_for() else limit_s
