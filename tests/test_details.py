"""Pictures beside the curves: what they hold, say and draw. Histograms: see test_panel."""

import json
import math

import numpy as np
import pytest

from course_utils import plots
from course_utils.lab import Cells, Roof
from course_utils.lab.cells import write_number
from course_utils.lab.details import (
    MOST_LETTERS,
    Bars,
    describe_details,
    shorten,
    tell_detail,
)

PNG = b"\x89PNG\r\n\x1a\n"
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


# Layers under a roof

LAYERS = {"stem": (2.0, 10.0, 0.5), "body": (40.0, 300.0, 0.3), "head": (0.5, 2.5, 0.2)}


def roof(layers=LAYERS, peak=400.0, bandwidth=20.0, title="ResNet on T4, fp16") -> Roof:
    return Roof(title, "operations for each byte moved", peak, bandwidth, layers)


def no_roof() -> Roof:
    return roof({}, math.nan, math.nan, "nothing runs here")


def test_a_roof_is_told_by_what_binds_its_layers():
    assert roof().ridge == 20
    assert tell_detail(roof()) == (
        "ResNet on T4, fp16: bound by memory: 2 of 3 layers, 70 % of the time,"
        " longest: stem, 50 %, ridge: 20 operations for each byte moved"
    )


@pytest.mark.parametrize(
    ("intensity", "said"),
    [(19.9, "1 of 1 layer, 100 % of the time"), (20.0, "0 of 1 layer, 0 % of the time")],
)
def test_a_layer_at_the_ridge_is_not_bound_by_memory(intensity, said):
    words = roof({"stem": (intensity, 300.0, 1.0)}).words()
    assert words["bound by memory:"] == said


def test_a_roof_without_layers_tells_its_ridge_and_no_roof_tells_nothing():
    assert roof({}).words() == {"ridge:": "20 operations for each byte moved"}
    assert no_roof().words() == {}
    assert tell_detail(no_roof()) == "nothing runs here"


@pytest.mark.parametrize("peak", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("which", ["peak", "bandwidth"])
def test_a_roof_of_nothing_is_refused(peak, which):
    with pytest.raises(ValueError, match="needs a peak and a bandwidth above 0, or NaN and no"):
        roof(**{which: peak})


@pytest.mark.parametrize("number", [0.0, -1.0])
def test_only_nan_says_that_there_is_no_roof(number):
    with pytest.raises(ValueError, match="needs a peak and a bandwidth above 0"):
        roof({}, peak=number)


@pytest.mark.parametrize(
    "layer",
    [
        (0.0, 1.0, 0.5), (1.0, 0.0, 0.5), (math.nan, 1.0, 0.5), (1.0, math.inf, 0.5),
        (-1.0, 1.0, 0.5), (1.0, 1.0, 1.01), (1.0, 1.0, -0.1), (1.0, 1.0, math.nan),
    ],
)  # fmt: skip
def test_a_layer_that_has_no_place_under_the_roof_is_named(layer):
    with pytest.raises(ValueError, match=r"Layer 'flatten' cannot be drawn: .* Leave out"):
        roof({"stem": (1.0, 1.0, 0.5), "flatten": layer})


def test_the_row_of_a_roof_holds_its_layers_in_their_order():
    assert roof().row().tolist() == [400, 20, 2, 10, 0.5, 40, 300, 0.3, 0.5, 2.5, 0.2]
    assert roof({}).row().tolist() == [400, 20]
    assert np.isnan(no_roof().row()).tolist() == [True, True]


def test_each_list_of_names_is_kept_once():
    others = {"one": (1.0, 5.0, 1.0)}
    details = [roof(), roof(others), no_roof(), roof(peak=800.0), roof(others, bandwidth=50.0)]
    shared = describe_details(details)
    assert shared["kind"] == "roof"
    assert shared["names"] == [["stem", "body", "head"], ["one"], []]
    assert shared["lists"] == [0, 1, 2, 0, 1]
    assert shared["ridges"] == ["20", "20", "", "40", "8"]
    assert shared["said"] == [tell_detail(detail) for detail in details]
    json.dumps(shared, allow_nan=False)


def test_one_scale_in_powers_of_ten_holds_all_roofs_and_layers():
    details = [roof(), roof({"far": (3e5, 3e-3, 1.0)}, peak=7e6, bandwidth=100.0), no_roof()]
    shared = describe_details(details)
    x, y = shared["x"], shared["y"]
    for detail in details[:2]:
        for intensity, rate, _ in detail.layers.values():
            assert x["low"] <= math.log10(intensity) <= x["high"]
            assert y["low"] <= math.log10(rate) <= y["high"]
        assert x["low"] < math.log10(detail.ridge) < x["high"]
        assert math.log10(detail.peak) < y["high"]
    assert y["title"] == "10⁹ operations a second"
    labels = {tick["at"]: tick["label"] for tick in y["ticks"]}
    assert labels[0] == "1"
    assert labels[4] == "10000"
    assert labels[6] == "10⁶"
    assert len(labels) <= 9


@pytest.mark.parametrize("details", [[no_roof()], [roof({})]])
def test_there_is_a_scale_without_layers_too(details):
    shared = describe_details(details)
    for axis in (shared["x"], shared["y"]):
        assert axis["low"] < axis["high"]
        assert len(axis["ticks"]) >= 2


def test_a_roof_is_drawn_with_a_marker_for_each_side_of_the_ridge():
    (ax,) = plots.new_axes()
    roof().draw(ax)
    line, ridge = ax.lines
    assert list(line.get_xdata())[1] == 20
    assert list(line.get_ydata())[1:] == [400, 400]
    assert line.get_ydata()[0] == pytest.approx(20 * line.get_xdata()[0])
    assert set(ridge.get_xdata()) == {20}
    by_memory, by_arithmetic = ax.collections
    assert by_memory.get_offsets().tolist() == [[2, 10], [0.5, 2.5]]
    assert by_arithmetic.get_offsets().tolist() == [[40, 300]]
    assert by_memory.get_sizes()[0] > by_memory.get_sizes()[1]  # as its share of the time
    assert len({len(dots.get_paths()[0].vertices) for dots in ax.collections}) == 2
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["bound by memory", "bound by arithmetic"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_title() == "ResNet on T4\nfp16"
    assert plots.figure_png(ax.figure).startswith(PNG)


def test_a_roof_alone_and_no_roof_are_drawn_too():
    bare, empty = plots.new_axes(2)
    roof({}).draw(bare)
    no_roof().draw(empty)
    assert len(bare.lines) == 2
    assert len(empty.lines) == 0
    assert empty.get_title() == "nothing runs here"
    assert plots.figure_png(bare.figure).startswith(PNG)


# Cells

NAN = math.nan


def cells(values) -> Cells:
    return Cells("cycle 3, computes", "columns of the weights", np.array(values, float))


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0], [[[1.0]]], [[1.0, math.inf]], 3.0])
def test_what_is_no_grid_is_refused(values):
    with pytest.raises(ValueError, match="need an array of rows and columns"):
        cells(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1, NAN], [0, -2.5]], "cycle 3, computes: busy: 3 of 4 cells"),
        ([[NAN]], "cycle 3, computes: busy: 0 of 1 cell"),
    ],
)
def test_cells_are_told_by_how_many_are_busy(values, said):
    assert tell_detail(cells(values)) == said


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.0, "3"), (-0.0, "0"), (0.123456, "0.1235"), (-12.3456, "−12.35"), (98765.0, "98760"),
        (1234567.0, "1.235e+06"),
    ],
)  # fmt: skip
def test_a_number_in_a_cell_has_at_most_four_digits(value, written):
    assert write_number(value) == written


def test_cells_hold_their_numbers_row_by_row():
    first, second = cells([[1, NAN, 2], [NAN, 0, 12.3456]]), cells(np.full((2, 3), NAN))
    assert np.array_equal(first.row(), [1, NAN, 2, NAN, 0, 12.3456], equal_nan=True)
    shared = describe_details([first, second])
    assert (shared["kind"], shared["rows"], shared["columns"]) == ("cells", 2, 3)
    assert shared["texts"] == [["1", "", "2", "", "0", "12.35"], [""] * 6]
    json.dumps(shared, allow_nan=False)


@pytest.mark.parametrize(
    ("shape", "is_numbered"), [((8, 8), True), ((9, 8), False), ((1, 9), False)]
)
def test_only_few_cells_are_numbered(shape, is_numbered):
    detail = cells(np.ones(shape))
    assert bool(describe_details([detail])["texts"]) == is_numbered
    (ax,) = plots.new_axes()
    detail.draw(ax)
    assert len(ax.texts) == is_numbered * shape[0] * shape[1]


def test_grids_of_several_shapes_are_refused():
    with pytest.raises(ValueError, match="same shape, but there are 1 × 2 and 2 × 1 cells"):
        describe_details([cells([[1, 2]]), cells([[1], [2]])])


@pytest.mark.parametrize("value", [NAN, 1234.5])
def test_a_grid_of_nothing_but_idle_or_busy_cells_is_drawn(value):
    (ax,) = plots.new_axes()
    cells(np.full((1, 1), value)).draw(ax)
    assert sum(len(squares.get_paths()) for squares in ax.collections) == 1
    assert plots.figure_png(ax.figure).startswith(PNG)


def test_busy_cells_are_filled_and_idle_ones_dashed():
    (ax,) = plots.new_axes()
    cells([[7, NAN, 2], [NAN, NAN, NAN]]).draw(ax)
    busy, idle = ax.collections
    assert len(busy.get_paths()) == 2
    assert len(idle.get_paths()) == 4
    assert busy.get_facecolor().shape[0] > 0
    assert idle.get_facecolor().shape[0] == 0
    assert busy.get_linestyle() != idle.get_linestyle()
    written = {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}
    assert written == {"7": (0.5, 0.5), "2": (2.5, 0.5)}
    assert ax.get_ylim() == (2, 0)  # the first row on top
    assert ax.get_xlabel() == "columns of the weights"
    assert plots.figure_png(ax.figure).startswith(PNG)
