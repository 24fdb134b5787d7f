"""Bars beside the curves: what they hold, say and draw. Histograms: see test_panel."""

import math

import pytest

from course_utils import plots
from course_utils.lab.details import (
    MOST_LETTERS,
    Bars,
    describe_details,
    shorten,
    tell_detail,
)

LONG = "encoder.layers.11.attention.output.dense"


def bars(**values) -> Bars:
    return Bars("one for each layer", "bits", values)


@pytest.mark.parametrize(
    "values", [{}, {"a": -1}, {"a": 2, "b": math.nan}, {"a": math.inf}, {"a": -0.001}]
)
def test_what_cannot_be_a_bar_is_refused(values):
    with pytest.raises(ValueError, match="Bars need values of 0 or more, at least one; not"):
        Bars("widths", "bits", values)


@pytest.mark.parametrize(
    ("value", "said"),
    [(8, "8"), (2.0, "2"), (0, "0"), (36864, "36,864"), (2.5, "2.5"), (0.012345, "0.0123")],
)
def test_a_value_is_written_in_full_or_in_three_digits(value, said):
    assert bars(stem=value).words() == {"stem": said}


def test_bars_are_told_with_their_names():
    told = tell_detail(bars(stem=8, head=4.25))
    assert told == "one for each layer: stem 8, head 4.25"


@pytest.mark.parametrize("high", [1, 3, 7, 8, 9, 0.02, 1234])
def test_the_axis_reaches_from_zero_over_all_bars(high):
    shared = describe_details([bars(stem=0, head=high / 2), bars(stem=high, head=0)])
    ticks = [tick["at"] for tick in shared["ticks"]]
    assert ticks[0] == 0
    assert ticks[-1] == shared["high"]
    assert high <= shared["high"] <= 2 * high
    assert all(float(tick["label"]) == pytest.approx(tick["at"]) for tick in shared["ticks"])


def test_bars_of_nothing_but_zeros_still_have_an_axis():
    assert describe_details([bars(stem=0)])["high"] == 1


@pytest.mark.parametrize("name", ["stem", "block2.shortcut.0", "x" * MOST_LETTERS])
def test_a_name_that_fits_stays_whole(name):
    assert shorten(name) == name


def test_a_long_name_keeps_its_end():
    assert len(shorten(LONG)) == MOST_LETTERS
    assert shorten(LONG).startswith("…")
    assert LONG.endswith(shorten(LONG)[1:])


def test_long_names_are_whole_in_words_and_short_beside_the_bars():
    shared = describe_details([Bars("widths", "bits", {LONG: 3})])
    assert shared["names"] == [shorten(LONG)]
    assert shared["words"] == [[(LONG, "3")]]


def test_the_bars_are_drawn_in_their_order():
    (ax,) = plots.new_axes()
    detail = Bars("48 KiB, one for each layer", "bits", {"stem": 3, LONG: 8, "head": 2.5})
    detail.draw(ax)
    assert [bar.get_width() for bar in ax.patches] == [3, 8, 2.5]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["stem", shorten(LONG), "head"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    assert {text.get_text() for text in ax.texts} == {"3", "8", "2.5"}
    assert ax.get_xlabel() == "bits"
    assert ax.get_title() == "48 KiB\none for each layer"


def test_names_that_look_alike_when_short_keep_their_own_bars():
    (ax,) = plots.new_axes()
    Bars("widths", "bits", {f"decoder.{LONG}": 3, f"another.{LONG}": 8}).draw(ax)
    assert [bar.get_width() for bar in ax.patches] == [3, 8]
