"""Static figures: they draw the numbers that they are given."""

import base64
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from course_utils import plots
from course_utils.lab import Histogram
from course_utils.measure import Measurement, Provenance
from course_utils.sweep import Point, Sweep

PNG = b"\x89PNG\r\n\x1a\n"
HERE = Provenance("measured", "a planted machine")
BITS = [2, 4, 8]


def measurement(value: float, unit: str) -> Measurement:
    return Measurement(value, unit, 0.9 * value, 1.2 * value, 100, HERE)


def plant_sweep(*schemes: str) -> Sweep:
    """Return a sweep over the bits, and over the schemes if there are any."""
    knobs = {"bits": BITS} | ({"scheme": list(schemes)} if schemes else {})
    settings = [
        {"bits": bits} | ({"scheme": scheme} if scheme else {})
        for bits in BITS
        for scheme in schemes or [""]
    ]
    points = [
        Point(
            setting,
            accuracy=measurement(50.0 + n, "%"),
            gain=measurement(1.0 + n, "points"),
            latency=measurement(0.1 * (n + 1), "ms"),
            speed=measurement(1.0 + n, "×"),
            size=measurement(1000.0, "bytes"),
            runtime="planted",
            kernel="planted",
            remark="",
        )
        for n, setting in enumerate(settings)
    ]
    return Sweep(knobs, points, settings[-1], at=lambda: None, on=None)


def test_a_figure_becomes_a_png_of_its_size():
    (ax,) = plots.new_axes(width=5.0, height=2.0)
    picture = plots.figure_png(ax.figure, dpi=100)
    assert picture.startswith(PNG)
    assert struct.unpack(">II", picture[16:24]) == (500, 200)


def test_axes_stand_side_by_side_on_one_figure():
    axes = plots.new_axes(3)
    assert len(axes) == 3
    assert len({ax.figure for ax in axes}) == 1
    assert isinstance(axes[0].figure, Figure)
    assert plots.new_axes()[0].figure is not axes[0].figure


def test_a_picture_comes_with_its_description():
    (ax,) = plots.new_axes()
    data, _ = plots.Picture(ax, "A line that rises.")._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(PNG)
    assert data["text/plain"] == "A line that rises."


@pytest.mark.parametrize("metric", ["accuracy", "latency"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_metric_has_a_line_for_each_choice(metric, count):
    schemes = [f"scheme {n}" for n in range(count)]
    sweep = plant_sweep(*schemes)
    (ax,) = plots.new_axes()
    assert plots.plot_metric(ax, sweep, metric) is ax
    assert [line.get_label() for line in ax.lines] == schemes
    for line, scheme in zip(ax.lines, schemes, strict=True):
        points = [sweep.point(bits=bits, scheme=scheme) for bits in BITS]
        assert list(line.get_ydata()) == [getattr(point, metric).value for point in points]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == schemes


def test_lines_differ_in_more_than_their_colour():
    (ax,) = plots.new_axes()
    plots.plot_metric(ax, plant_sweep("a", "b", "c", "d"), "accuracy")
    for feature in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, feature)() for line in ax.lines}) == 4


def test_a_single_knob_has_one_line_and_no_legend():
    (ax,) = plots.new_axes()
    sweep = plant_sweep()
    plots.plot_metric(ax, sweep, "accuracy")
    (line,) = ax.lines
    assert list(line.get_ydata()) == [point.accuracy.value for point in sweep.points]
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("metric", "label"), [("accuracy", "accuracy (%)"), ("latency", "latency (ms)")]
)
def test_the_axes_are_labelled_with_knob_metric_and_unit(metric, label):
    (ax,) = plots.new_axes()
    plots.plot_metric(ax, plant_sweep("a", "b"), metric)
    assert ax.get_ylabel() == label
    assert ax.get_xlabel() == "bits"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "4", "8"]
    assert ax.get_ylim()[0] == 0


def test_the_band_reaches_from_the_low_to_the_high_end_of_the_spread():
    (ax,) = plots.new_axes()
    sweep = plant_sweep()
    plots.plot_metric(ax, sweep, "latency")
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    for place, point in enumerate(sweep.points):
        heights = corners[corners[:, 0] == place, 1]
        assert heights.min() == pytest.approx(point.latency.low)
        assert heights.max() == pytest.approx(point.latency.high)


def test_lines_over_the_same_values_are_named():
    (ax,) = plots.new_axes()
    x = np.arange(4.0)
    plots.plot_lines(ax, x, {"theory": 6 * x, "layer": 6 * x - 5})
    theory, layer = ax.lines
    assert (theory.get_label(), layer.get_label()) == ("theory", "layer")
    assert np.array_equal(layer.get_ydata(), 6 * x - 5)


@pytest.mark.parametrize(("levels", "drawn"), [(15, 15), (64, 64), (65, 0), (0, 0)])
def test_a_histogram_shows_its_levels_if_they_are_few(levels, drawn):
    (ax,) = plots.new_axes()
    counts = np.array([1, 5, 2])
    histogram = Histogram(
        "weights, 4 bits", "weight", np.linspace(-1, 1, 4), counts, np.linspace(-1, 1, levels)
    )
    plots.plot_histogram(ax, histogram)
    (steps,) = ax.patches
    assert np.array_equal(steps.get_data().values, counts)
    assert sum(len(lines.get_segments()) for lines in ax.collections) == drawn
    assert ax.get_xlabel() == "weight"
    assert ax.get_title().replace(",", "").split() == ["weights", "4", "bits"]


COUNTS = np.array([10, 1000, 0, 3])
EVEN, POWERS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([0.01, 0.1, 1.0, 10.0, 100.0])


def shaded(ax) -> list[tuple[float, float]]:
    """Return from where to where each shaded part reaches."""
    _, *parts = ax.patches  # the first are the steps
    boxes = [part.get_extents().transformed(ax.transData.inverted()) for part in parts]
    return [(box.x0, box.x1) for box in boxes]


@pytest.mark.parametrize(
    ("limits", "parts"),
    [((-1.0, 1.5), [(-2, -1), (1.5, 2)]), ((0.0, 0.5), [(-2, 0), (0.5, 2)]),
     ((-2.0, 2.0), [(-2, -2), (2, 2)]), ((-7.0, 9.0), [(-2, -2), (2, 2)])],
)  # fmt: skip
def test_what_is_clipped_is_shaded_from_the_limit_to_the_edge(limits, parts):
    (ax,) = plots.new_axes()
    ax.margins(x=0)
    plots.plot_histogram(ax, Histogram("a", "x", EVEN, COUNTS, np.arange(99.0), limits))
    assert np.allclose(shaded(ax), parts)
    assert np.allclose(ax.get_xlim(), (-2, 2))


def test_nothing_is_shaded_without_limits():
    (ax,) = plots.new_axes()
    plots.plot_histogram(ax, Histogram("a", "x", EVEN, COUNTS, np.arange(99.0)))
    assert shaded(ax) == []
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")


@pytest.mark.parametrize("limits", [(0.1, 20.0), (-5.0, 20.0), (0.0, 1e9)])
def test_a_logarithmic_histogram_shows_the_counts_and_its_limits(limits):
    (ax,) = plots.new_axes()
    levels = np.array([0.1, 1.0])
    plots.plot_histogram(ax, Histogram("a", "x", POWERS, COUNTS, levels, limits, is_log=True))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlim() == (0.01, 100)
    assert 0 < ax.get_ylim()[0] < 1  # one value is a bar that is seen
    assert np.array_equal(ax.patches[0].get_data().values, COUNTS)
    expected = [(0.01, max(limits[0], 0.01)), (min(limits[1], 100), 100)]
    assert np.allclose(shaded(ax), expected)
    (lines,) = ax.collections
    assert [segment[0][0] for segment in lines.get_segments()] == [0.1, 1]
    assert plots.figure_png(ax.figure).startswith(PNG)


def test_a_panel_s_picture_shows_accuracy_latency_and_a_detail():
    sweep = plant_sweep("a", "b")
    figure = plots.draw_panel(sweep, None)
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy (%)", "latency (ms)"]
    detail = Histogram("weights", "weight", np.arange(4.0), np.arange(3), np.arange(2.0))
    figure = plots.draw_panel(sweep, detail)
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy (%)", "latency (ms)", "count"]
    (steps,) = figure.axes[2].patches
    assert np.array_equal(steps.get_data().values, detail.counts)
