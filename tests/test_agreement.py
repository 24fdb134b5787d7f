"""Two runners that answer alike, or not: planted logits, compared by hand."""

import numpy as np
import pytest

from course_utils import measure

IMAGES = np.zeros((250, 1, 2, 2), np.float32)
IMAGES[:, 0, 0, 0] = np.arange(250)  # the number of the image


def answer(images: np.ndarray, *, others: int = 0, shift: float = 0.0) -> np.ndarray:
    """Return logits 0 and 4 in three classes; another class for the first so many images."""
    numbers = images[:, 0, 0, 0].astype(int)
    logits = 4 * np.eye(3, dtype=np.float32)[(numbers + (numbers < others)) % 3]
    logits[numbers == 7] += np.float32(shift)
    return logits


def test_the_images_of_another_class_are_counted():
    found = measure.compare_answers(lambda batch: answer(batch, others=5), answer, IMAGES)
    assert found.same.value == pytest.approx(98)
    assert (found.same.unit, found.same.count) == ("%", 250)
    assert found.same.low < 98 < found.same.high
    assert found.same.note == "5 of 250 images get another class"
    assert found.difference.value == 100


def test_the_largest_difference_is_beside_the_largest_logit():
    found = measure.compare_answers(lambda batch: answer(batch, shift=-0.5), answer, IMAGES)
    assert found.same.value == 100
    assert found.difference.value == pytest.approx(12.5)
    assert found.difference.note == "of the largest logit"


def test_equal_answers_do_not_differ():
    found = measure.compare_answers(answer, answer, IMAGES)
    assert (found.same.value, found.difference.value) == (100, 0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda batch: answer(batch)[:, :2], r"shape \(250, 2\) cannot be compared"),
        (lambda batch: answer(batch)[:1], r"shape \(3, 3\) cannot be compared"),
        (lambda batch: answer(batch) * np.nan, "not finite"),
    ],
)
def test_answers_that_cannot_be_compared_are_named(run, message):
    with pytest.raises(ValueError, match=message):
        measure.compare_answers(run, answer, IMAGES)


def test_a_reference_of_nothing_but_zeros_is_named():
    with pytest.raises(ValueError, match="all of the reference are 0"):
        measure.compare_answers(answer, lambda batch: 0 * answer(batch), IMAGES)


def test_there_have_to_be_images():
    with pytest.raises(ValueError, match="no images to compare answers on"):
        measure.compare_answers(answer, answer, IMAGES[:0])
