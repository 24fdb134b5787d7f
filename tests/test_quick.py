"""A quick look measures less, says so, and is never taken for a whole one."""

import numpy as np
import pytest

from course_utils import quick, sweep
from course_utils.datasets import Split

BOTH = {"right": [10, 20]}


@pytest.fixture
def large(tiny_split) -> Split:
    """Return 4,200 images for the runners of ``make_runner``."""
    return Split(np.tile(tiny_split.images, (140, 1, 1, 1)), np.tile(tiny_split.labels, 140))


@pytest.fixture
def at(make_runner):
    return lambda right: make_runner(right=right)


def measure_both(at, on):
    return sweep.measure(at, over=BOTH, on=on, against={"right": 10}, rounds=10)


def count_images(measured) -> set[int]:
    return {point.accuracy.count for point in measured.points}


@pytest.mark.parametrize(
    ("value", "is_quick"), [("1", True), ("yes", True), ("0", False), ("", False)]
)
def test_the_environment_asks_for_it(monkeypatch, value, is_quick):
    monkeypatch.setenv(quick.VARIABLE, value)
    assert quick.is_asked_for() == is_quick
    assert (quick.choose_seconds(8.0) < 8.0) == is_quick


def test_nobody_asks_for_it_by_default(large):
    assert not quick.is_asked_for()
    assert quick.choose_images(large) is large
    assert quick.choose_seconds(8.0) == 8.0


def test_it_takes_the_first_images_and_a_small_split_whole(monkeypatch, large, tiny_split):
    monkeypatch.setenv(quick.VARIABLE, "1")
    chosen = quick.choose_images(large)
    assert len(chosen) == quick.MOST_IMAGES
    assert (chosen.images == large.images[: quick.MOST_IMAGES]).all()
    assert (chosen.labels == large.labels[: quick.MOST_IMAGES]).all()
    assert quick.choose_images(tiny_split) is tiny_split


def test_a_sweep_counts_on_fewer_images_and_says_so(monkeypatch, at, large, capsys):
    monkeypatch.setenv(quick.VARIABLE, "1")
    assert count_images(measure_both(at, large)) == {quick.MOST_IMAGES}
    told = capsys.readouterr().out
    assert f"{quick.MOST_IMAGES:,} test images each" in told
    assert f"A quick look, as {quick.VARIABLE} asks." in told


def test_accuracies_over_seeds_are_counted_on_fewer_images_too(monkeypatch, at, large):
    monkeypatch.setenv(quick.VARIABLE, "1")
    measured = sweep.measure_seeds(
        lambda right: [at(right)], over=BOTH, on=large, against={"right": 10}
    )
    assert {point.metrics["mean accuracy"].count for point in measured.points} == {
        quick.MOST_IMAGES
    }


@pytest.mark.parametrize("few", [True, False])
def test_what_a_quick_look_has_kept_is_not_taken_for_a_whole_one(
    monkeypatch, at, large, tiny_split, capsys, few
):
    on = tiny_split if few else large
    monkeypatch.setenv(quick.VARIABLE, "1")
    measure_both(at, on)
    monkeypatch.delenv(quick.VARIABLE)
    capsys.readouterr()
    assert count_images(measure_both(at, on)) == {len(on)}
    told = capsys.readouterr().out
    assert "just now" in told
    assert "quick" not in told
