"""Static figures: they draw the numbers that they are given."""

import base64
import itertools
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from course_utils import plots
from course_utils.lab import Bars, Chart, Histogram
from course_utils.layer_times import LayerTime
from course_utils.measure import Measurement, Provenance
from course_utils.roofline import Roofline
from course_utils.sweep import Point, Sweep
from course_utils.sweep.classifier import Classification

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
            {
                "accuracy": measurement(50.0 + n, "%"),
                "latency": measurement(0.1 * (n + 1), "ms"),
                "longest": measurement(0.5 * (n + 1), "ms"),
            },
        )
        for n, setting in enumerate(settings)
    ]
    experiment = Classification(lambda: None, on=None)  # what is drawn is in the points
    return Sweep(knobs, points, settings[-1], experiment)


ACCURACY = Chart("accuracy (%)", ("accuracy",))
LATENCY = Chart("latency (ms)", ("latency",))
BOTH = Chart("one call (ms)", ("latency", "longest"))


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


@pytest.mark.parametrize("chart", [ACCURACY, LATENCY])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_metric_has_a_line_for_each_choice(chart, count):
    schemes = [f"scheme {n}" for n in range(count)]
    sweep = plant_sweep(*schemes)
    (ax,) = plots.new_axes()
    assert plots.plot_chart(ax, sweep, chart) is ax
    assert [line.get_label() for line in ax.lines] == schemes
    (metric,) = chart.metrics
    for line, scheme in zip(ax.lines, schemes, strict=True):
        points = [sweep.point(bits=bits, scheme=scheme) for bits in BITS]
        assert list(line.get_ydata()) == [point.metrics[metric].value for point in points]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == schemes


def test_several_metrics_on_one_chart_have_a_line_each():
    sweep = plant_sweep()
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, sweep, BOTH)
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    for line, metric in zip(ax.lines, BOTH.metrics, strict=True):
        assert list(line.get_ydata()) == [point.metrics[metric].value for point in sweep.points]
    assert ax.get_title() == "latency solid, longest dashed"
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.get_ylabel() == "one call (ms)"


def test_of_several_metrics_the_colour_tells_the_choice_and_the_dash_the_metric():
    sweep = plant_sweep("a", "b")
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, sweep, BOTH)
    order = [(scheme, metric) for scheme in ("a", "b") for metric in BOTH.metrics]
    for line, (scheme, metric) in zip(ax.lines, order, strict=True):
        points = [sweep.point(bits=bits, scheme=scheme) for bits in BITS]
        assert list(line.get_ydata()) == [point.metrics[metric].value for point in points]
    looks = {
        key: (line.get_color(), line.get_linestyle())
        for key, line in zip(order, ax.lines, strict=True)
    }
    for n, feature in enumerate(("choice", "metric")):
        of_each = {(key[n], look[n]) for key, look in looks.items()}
        assert len(of_each) == len(dict(of_each)) == 2, feature
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_lines_differ_in_more_than_their_colour():
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_sweep("a", "b", "c", "d"), ACCURACY)
    for feature in ("get_color", "get_linestyle", "get_marker"):
        assert len({getattr(line, feature)() for line in ax.lines}) == 4


def test_a_single_knob_has_one_line_and_no_legend():
    (ax,) = plots.new_axes()
    sweep = plant_sweep()
    plots.plot_chart(ax, sweep, ACCURACY)
    (line,) = ax.lines
    assert list(line.get_ydata()) == [point.accuracy.value for point in sweep.points]
    assert ax.get_legend() is None


@pytest.mark.parametrize("chart", [ACCURACY, LATENCY])
def test_the_axes_are_labelled_with_knob_and_title(chart):
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_sweep("a", "b"), chart)
    assert ax.get_ylabel() == chart.title
    assert ax.get_xlabel() == "bits"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "4", "8"]
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] == 0


def test_a_logarithmic_chart_is_drawn_in_powers_of_ten():
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_sweep(), Chart("latency (ms)", ("latency",), is_log=True))
    assert ax.get_yscale() == "log"
    assert 0 < ax.get_ylim()[0] < 0.1  # below the lowest value
    assert plots.figure_png(ax.figure).startswith(PNG)


@pytest.mark.parametrize("is_log", [False, True])
def test_a_rule_is_a_level_line_with_its_name(is_log):
    (ax,) = plots.new_axes()
    chart = Chart("latency (ms)", ("latency",), is_log, rule=(0.25, "a picture of 4000 a second"))
    plots.plot_chart(ax, plant_sweep(), chart)
    curve, rule = ax.lines
    assert list(curve.get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert set(rule.get_ydata()) == {0.25}
    (name,) = ax.texts
    assert name.get_text() == "a picture of 4000 a second"
    assert name.get_position()[1] == 0.25


def test_without_a_rule_there_is_no_level_line():
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_sweep(), LATENCY)
    assert len(ax.lines) == 1
    assert len(ax.texts) == 0


def test_the_band_reaches_from_the_low_to_the_high_end_of_the_spread():
    (ax,) = plots.new_axes()
    sweep = plant_sweep()
    plots.plot_chart(ax, sweep, LATENCY)
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


@pytest.mark.parametrize("charts", [[ACCURACY], [ACCURACY, LATENCY], [LATENCY, BOTH, ACCURACY]])
def test_a_panel_s_picture_shows_its_charts_and_a_detail(charts):
    sweep = plant_sweep("a", "b")
    titles = [chart.title for chart in charts]
    figure = plots.draw_panel(sweep, charts, None)
    assert [ax.get_ylabel() for ax in figure.axes] == titles
    detail = Histogram("weights", "weight", np.arange(4.0), np.arange(3), np.arange(2.0))
    figure = plots.draw_panel(sweep, charts, detail)
    assert [ax.get_ylabel() for ax in figure.axes] == [*titles, "count"]
    (steps,) = figure.axes[-1].patches
    assert np.array_equal(steps.get_data().values, detail.counts)
    figure = plots.draw_panel(sweep, charts, Bars("widths", "bits", {"stem": 3, "head": 8}))
    *curves, bars = figure.axes
    assert [ax.get_ylabel() for ax in curves] == titles
    assert bar_lengths(bars) == {"stem": 3, "head": 8}


# Many choices, and values that are not there


def plant_many(devices: int, precisions: int = 2, missing: tuple[str, ...] = ()) -> Sweep:
    """Return a sweep over bits, devices and precisions; some devices lack the second."""
    knobs = {
        "bits": BITS,
        "device": [f"device {n}" for n in range(devices)],
        "precision": [f"fp{32 >> n}" for n in range(precisions)],
    }
    settings = [dict(zip(knobs, row, strict=True)) for row in itertools.product(*knobs.values())]
    points = []
    for n, setting in enumerate(settings):
        is_there = setting["precision"] == "fp32" or setting["device"] not in missing
        value = 1.0 + n if is_there else np.nan
        metrics = {"latency": measurement(value, "ms"), "cost": measurement(2 * value, "€")}
        points.append(Point(setting, metrics))
    against = {"bits": 4, "device": f"device {devices - 1}", "precision": "fp16"}
    return Sweep(knobs, points, against, Classification(lambda: None, on=None))


@pytest.mark.parametrize(("devices", "drawn"), [(5, 5), (9, 9), (12, 9)])
def test_of_many_choices_those_are_drawn_that_differ_from_the_baseline_in_one_knob(devices, drawn):
    sweep = plant_many(devices)
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, sweep, LATENCY)
    names = [line.get_label() for line in ax.lines]
    assert len(names) == len(ax.get_legend().get_texts()) == drawn
    assert names[-1] == sweep.against["device"]
    for line, name in zip(ax.lines, names, strict=True):
        points = [sweep.point(bits=bits, device=name, precision="fp16") for bits in BITS]
        assert list(line.get_ydata()) == [point.latency.value for point in points]
    assert ax.get_title() == "precision: fp16"
    looks = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert len(set(looks)) == len({line.get_marker() for line in ax.lines}) == drawn


def test_eight_choices_are_drawn_each():
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_many(4), LATENCY)
    assert len(ax.lines) == 8
    assert ax.lines[0].get_label() == "device 0, fp32"
    assert ax.get_title() == ""


def test_the_title_tells_the_dashes_and_what_is_held():
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, plant_many(5), Chart("latency and cost", ("latency", "cost")))
    assert ax.get_title() == "precision: fp16\nlatency solid, cost dashed"


@pytest.mark.parametrize("is_log", [False, True])
def test_a_line_has_gaps_where_there_is_no_value(is_log):
    sweep = plant_many(2, missing=("device 1",))
    gone = sweep.point(bits=4, device="device 0", precision="fp32")
    gone.metrics["latency"] = measurement(np.nan, "ms")
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, sweep, Chart("latency (ms)", ("latency",), is_log))
    drawn = {line.get_label(): np.isnan(line.get_ydata()).tolist() for line in ax.lines}
    assert drawn == {
        "device 0, fp32": [False, True, False],
        "device 0, fp16": [False] * 3,
        "device 1, fp32": [False] * 3,
        "device 1, fp16, no latency": [True] * 3,
    }
    low, high = ax.get_ylim()
    assert low < 1
    assert 11 < high < 40
    assert plots.figure_png(ax.figure).startswith(PNG)


def test_many_lines_are_named_once_below_all_charts():
    detail = Bars("widths", "bits", {"stem": 3})
    charts = [LATENCY, Chart("cost (€)", ("cost",))]
    few, many = (plots.draw_panel(plant_many(n), charts, detail) for n in (4, 5))
    assert [len(figure.legends) for figure in (few, many)] == [0, 1]
    assert all(ax.get_legend() is not None for ax in few.axes[:2])
    assert all(ax.get_legend() is None for ax in many.axes)
    names = [text.get_text() for text in many.legends[0].get_texts()]
    assert names == [f"device {n}" for n in range(5)]
    assert plots.figure_png(many).startswith(PNG)


# The roofline, and bars


def plant_roofline() -> Roofline:
    peaks = {"fp32": measurement(100.0, "GFLOP/s"), "int8": measurement(400.0, "GOP/s")}
    levels = {"memory": measurement(10.0, "GB/s"), "small cache": measurement(50.0, "GB/s")}
    return Roofline(peaks, levels)


def plant_layers() -> list[LayerTime]:
    latency = measurement(0.5, "ms")
    return [
        LayerTime("stem", "fp32", "Conv", 10_000_000, 1_000_000, latency),
        LayerTime("head", "int8", "QGemm", 1_000_000, 2_000_000, latency),
    ]


def named_lines(ax) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        line.get_label(): line.get_data()
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }


def test_a_roofline_has_a_flat_roof_a_kind_and_a_slope_a_level():
    (ax,) = plots.new_axes()
    assert plots.plot_roofline(ax, plant_roofline()) is ax
    lines = named_lines(ax)
    assert list(lines) == [
        "fp32: 100 GFLOP/s", "int8: 400 GOP/s", "memory: 10 GB/s", "small cache: 50 GB/s"
    ]  # fmt: skip
    for label, peak in (("fp32: 100 GFLOP/s", 100), ("int8: 400 GOP/s", 400)):
        intensities, rates = lines[label]
        assert set(rates) == {peak}
        assert intensities[0] == peak / 50  # where the steepest slope meets it
    for label, bandwidth in (("memory: 10 GB/s", 10), ("small cache: 50 GB/s", 50)):
        intensities, rates = lines[label]
        assert np.allclose(rates, bandwidth * np.array(intensities))
        assert rates[-1] == pytest.approx(400)  # up to the highest roof
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "operations for each byte moved"
    assert ax.get_ylabel() == "billion operations a second"


def test_layers_are_points_with_a_marker_for_their_group():
    (ax,) = plots.new_axes()
    stem, head = plant_layers()
    plots.plot_roofline(ax, plant_roofline(), {"one": [stem], "two": [head, head]}, named=["head"])
    points = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
    assert [list(p.get_xdata()) for p in points] == [[10.0], [0.5, 0.5]]
    assert [list(p.get_ydata()) for p in points] == [
        [pytest.approx(20.0)], [pytest.approx(2.0), pytest.approx(2.0)]
    ]  # fmt: skip
    assert [p.get_label() for p in points] == ["one", "two"]
    assert len({point.get_marker() for point in points}) == 2
    assert len({point.get_color() for point in points}) == 2
    assert [text.get_text() for text in ax.texts] == ["head", "head"]
    assert [text.xy for text in ax.texts] == [(0.5, pytest.approx(2))] * 2
    left, right = ax.get_xlim()
    assert left < 0.5 < 10.0 < right
    assert plots.figure_png(ax.figure).startswith(PNG)


def test_a_roofline_needs_no_layers():
    (ax,) = plots.new_axes()
    plots.plot_roofline(ax, plant_roofline())
    assert len(ax.texts) == 0
    assert plots.figure_png(ax.figure).startswith(PNG)


def bar_lengths(ax) -> dict[str, float]:
    names = [label.get_text() for label in ax.get_yticklabels()]
    return dict(zip(names, [bar.get_width() for bar in ax.patches], strict=True))


def test_bars_stand_with_the_largest_on_top_and_their_numbers_beside_them():
    (ax,) = plots.new_axes()
    assert plots.plot_bars(ax, {"a": 1.0, "b": 3.25, "c": 0.0}, "ms") is ax
    assert list(bar_lengths(ax).items()) == [("b", 3.25), ("a", 1.0), ("c", 0.0)]
    assert ax.yaxis_inverted()
    assert [text.get_text() for text in ax.texts] == ["3.25", "1", "0"]
    assert ax.get_xlabel() == "ms"


def test_bars_can_keep_the_order_that_they_are_given_in():
    (ax,) = plots.new_axes()
    plots.plot_bars(ax, {"a": 1.0, "b": 3.25, "c": 1234.0}, "ms", in_order=True)
    assert list(bar_lengths(ax).items()) == [("a", 1.0), ("b", 3.25), ("c", 1234.0)]
    assert ax.yaxis_inverted()
    assert [text.get_text() for text in ax.texts] == ["1", "3.25", "1,234"]


@pytest.mark.parametrize("values", [{}, {"a": -1.0}, {"a": float("nan")}])
def test_bars_need_values_of_0_or_more(values):
    (ax,) = plots.new_axes()
    with pytest.raises(ValueError, match="values of 0 or more, at least one"):
        plots.plot_bars(ax, values, "ms")
