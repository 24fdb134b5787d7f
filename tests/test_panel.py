"""The panel and the quiz, driven from Python: they say what the page says."""

import base64
import functools
import itertools
import json
import math
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from course_utils import lab, plots, progress, sweep
from course_utils.datasets import TextSplit
from course_utils.lab.details import Bars, Histogram, tell_detail
from course_utils.lab.panel import Panel
from course_utils.lab.quiz import Question, Quiz
from course_utils.lab.readouts import (
    Card,
    describe_setting,
    describe_size,
    format_size,
    format_value,
    make_cards,
)
from course_utils.lab.spec import Chart
from course_utils.measure import Measurement, Provenance, compare
from course_utils.sweep import Point, Sweep
from course_utils.sweep.classifier import Classification

BITS = [2, 4, 8]
SCHEMES = ["per channel", "per tensor"]
PNG = b"\x89PNG\r\n\x1a\n"
HERE = Provenance("measured", "a planted machine", "2026-01-31 12:00")
SETTINGS = [{"bits": bits, "scheme": scheme} for bits in BITS for scheme in SCHEMES]


def plant_speed(value, low, high) -> Measurement:
    return Measurement(value, "×", low, high, 30, HERE)


def plant_point(
    setting, accuracy, latency_ms, size_bytes, kernel="planted", remark="", gain=-2.5, speed=2.0
) -> Point:
    metrics = {
        "accuracy": Measurement(accuracy, "%", accuracy - 0.5, accuracy + 0.5, 4000, HERE),
        "gain": Measurement(gain, "points", gain - 0.7, gain + 0.7, 4000, HERE),
        "latency": Measurement(
            latency_ms, "ms", 0.9 * latency_ms, 1.2 * latency_ms, 150, HERE,
            fastest=0.8 * latency_ms, p95=1.5 * latency_ms, p99=1.8 * latency_ms,
        ),
        "speed": plant_speed(speed, 0.9 * speed, 1.2 * speed),
        "size": Measurement(size_bytes, "bytes", size_bytes, size_bytes, 1, HERE),
    }  # fmt: skip
    return Point(setting, metrics, "planted runtime", kernel, remark)


TITLES = {"latency": "latency of one image", "size": "size of what ships"}


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    """Let a point be measured again in a moment: what it finds is not the matter here."""
    monkeypatch.setattr(sweep.sweep, "compare", functools.partial(compare, rounds=2))


@pytest.fixture
def at(make_runner):
    def at(bits, scheme):
        return make_runner(right=3 * bits, size_bytes=100 * bits)

    return at


@pytest.fixture
def planted(at, tiny_split) -> Sweep:
    """Return a sweep whose numbers are known; measured again, it gives those of ``at``."""
    points = [
        plant_point(setting, 60.0 + 4 * n, 0.5 + 0.1 * n, 1024 * setting["bits"])
        for n, setting in enumerate(SETTINGS)
    ]
    against = {"bits": 8, "scheme": "per channel"}
    experiment = Classification(at, tiny_split)
    return Sweep({"bits": BITS, "scheme": SCHEMES}, points, against, experiment)


@pytest.fixture
def panel(planted) -> Panel:
    return Panel(planted, "Bits per weight")


@pytest.fixture
def guessing(planted):
    """Return a function that opens a panel which asks for a guess first, as on a new page."""

    def open_panel(name="Bits", **options) -> Panel:
        return Panel(planted, name, predict={"bits": 4, "scheme": "per tensor"}, **options)

    return open_panel


def send(panel: Panel, **message) -> None:
    """Do what the page does when it sends a message."""
    panel._handle_custom_msg(message, [])


# Driven over its domain


def test_at_first_the_baseline_is_chosen(panel, planted):
    assert panel.setting == planted.against


def test_every_setting_shows_its_own_point(panel, planted):
    for setting, point in zip(SETTINGS, planted.points, strict=True):
        panel.choose(**setting)
        assert panel.setting == setting
        assert panel.cards == make_cards(point, planted.baseline, TITLES)


def test_the_page_gets_the_same_words(panel):
    knobs = [range(len(knob["values"])) for knob in panel.spec["knobs"]]
    for n, indices in enumerate(itertools.product(*knobs)):
        panel.chosen = list(indices)  # what the page sets
        shown = panel.spec["points"][n]
        assert shown["cards"] == [card._asdict() for card in panel.cards]
        assert shown["said"].startswith(describe_setting(panel.setting))
        assert all(card.value in shown["said"] for card in panel.cards)
        row = panel.spec["rows"][n]
        assert row == [*map(str, panel.setting.values()), *(card.value for card in panel.cards)]
        assert len(row) == len(panel.spec["head"])


def test_the_page_gets_the_knobs(panel):
    assert panel.spec["knobs"] == [
        {
            "name": "bits",
            "values": ["2", "4", "8"],
            "shown": ["2 bits", "4 bits", "8 bits"],
            "isMenu": False,
            "isChoice": False,
        },
        {
            "name": "scheme",
            "values": SCHEMES,
            "shown": SCHEMES,
            "isMenu": False,
            "isChoice": True,
        },
    ]


@pytest.mark.parametrize(
    ("values", "is_choice"),
    [
        (["min-max", "99 %"], True),
        (["min-max", "99 %", "MSE", "entropy"], True),
        (["min-max", "99.9 %", "99 %", "MSE", "entropy"], False),
        (["one", "two", "three", "four", "five", "six"], False),
        ([2, 4, 8], False),
        ([0.5, 0.25], False),
        (["a word", 2], False),
    ],
)
def test_more_than_four_words_stand_on_a_slider(at, tiny_split, values, is_choice):
    points = [plant_point({"range": value}, 90.0, 1.0, 1000) for value in values]
    experiment = Classification(at, tiny_split)
    panel = Panel(Sweep({"range": values}, points, {"range": values[0]}, experiment), "Ranges")
    (knob,) = panel.spec["knobs"]
    assert knob["isChoice"] == is_choice
    assert knob["values"] == [str(value) for value in values]
    for value, shown in zip(values, knob["shown"], strict=True):
        assert shown == describe_setting({"range": value})
        panel.choose(range=value)
        assert panel.setting == {"range": value}


# A card more


def card_of(bits, scheme) -> Card:
    return Card("clipped values", f"{bits} in 1,000", f"with one scale {scheme}")


def test_texts_are_called_texts(planted, tiny_split):
    texts = TextSplit(tiny_split.images, tiny_split.labels, ("a text",) * len(tiny_split))
    experiment = Classification(planted.experiment.at, texts)
    panel = Panel(replace(planted, experiment=experiment), "Definitions")
    panel.choose(bits=2)
    accuracy, latency, *_ = panel.cards
    assert accuracy.note.count("texts") == 2
    assert "images" not in accuracy.note
    assert latency.title == "latency of one text"
    assert experiment.about.endswith("test texts each")


def test_a_readout_is_the_last_card_of_every_setting(planted):
    panel = Panel(planted, "Bits", readout=card_of)
    for setting, point in zip(SETTINGS, planted.points, strict=True):
        panel.choose(**setting)
        assert panel.cards == [*make_cards(point, planted.baseline, TITLES), card_of(**setting)]


def test_a_readout_is_on_the_page_too(planted):
    panel = Panel(planted, "Bits", readout=card_of)
    assert panel.spec["head"][-1] == "clipped values"
    assert len(panel.spec["head"]) == 2 + 5  # knobs and cards
    for setting, point, row in zip(SETTINGS, panel.spec["points"], panel.spec["rows"], strict=True):
        card = card_of(**setting)
        assert point["cards"][-1] == card._asdict()
        assert point["said"].endswith(f", clipped values {card.value}")
        assert row[-1] == card.value
        assert len(row) == len(panel.spec["head"])


def test_without_a_readout_there_are_four_cards(panel):
    assert [card.title for card in panel.cards] == [
        "accuracy", "latency of one image", "size of what ships", "what ran",
    ]  # fmt: skip


def test_one_knob_can_be_moved_alone(panel):
    panel.choose(scheme="per tensor")
    assert panel.setting == {"bits": 8, "scheme": "per tensor"}
    panel.choose(bits=2)
    assert panel.setting == {"bits": 2, "scheme": "per tensor"}


@pytest.mark.parametrize("setting", [{"bits": 5}, {"width": 4}, {"scheme": "per group"}])
def test_a_setting_that_does_not_exist_is_refused(panel, setting):
    before = panel.setting
    with pytest.raises(ValueError, match=r"was not measured; the knobs are .*'bits': \[2, 4, 8\]"):
        panel.choose(**setting)
    assert panel.setting == before


def test_a_prediction_for_a_setting_that_does_not_exist_is_refused(planted):
    with pytest.raises(ValueError, match="was not measured"):
        Panel(planted, "Bits", predict={"bits": 5, "scheme": "per tensor"})


def test_the_charts_reach_from_zero_to_above_the_highest_spread(panel, planted):
    for chart, metric in zip(panel.spec["charts"], ("accuracy", "latency"), strict=True):
        assert chart["low"] == 0
        assert chart["high"] >= max(getattr(point, metric).high for point in planted.points)
        assert metric in chart["title"]


def test_the_panel_says_where_its_numbers_are_from(panel):
    assert "measured: a planted machine, 2026-01-31 12:00" in panel.spec["provenance"]
    assert "; 30 test images each; " in panel.spec["provenance"]
    assert panel.spec["provenance"].endswith(
        "compared with 8 bits, per channel, the speed with its 99 % interval"
    )


# Any metrics


@pytest.fixture
def waiting(at, tiny_split) -> Sweep:
    """Return a sweep over one knob of metrics that are neither accuracy nor size."""

    def measurement(value, unit, note=""):
        return Measurement(value, unit, 0.9 * value, 1.2 * value, 50, HERE, note=note)

    points = [
        Point(
            {"load": load},
            {
                "latency": measurement(2.0 + load, "ms"),
                "worst": measurement(40.0 * load**2, "ms", note="of 50 requests"),
                "throughput": measurement(1234.5 * load, "images/s"),
            },
        )
        for load in (1, 2, 4)
    ]
    return Sweep({"load": [1, 2, 4]}, points, {"load": 1}, Classification(at, tiny_split))


TOGETHER = Chart("of one request (ms)", ("latency", "worst"), rule=(30.0, "one picture at 33 Hz"))


def test_a_chart_of_several_metrics_has_a_line_for_each(waiting):
    panel = Panel(waiting, "Load", charts=[TOGETHER, "throughput"])
    together, throughput = panel.spec["charts"]
    assert together["title"] == "of one request (ms)"
    assert [line["metric"] for line in together["lines"]] == ["latency", "worst"]
    assert [line["label"] for line in together["lines"]] == ["latency", "worst"]
    assert len({line["style"] for line in together["lines"]}) == 2
    assert together["rule"] == {"at": 30.0, "label": "one picture at 33 Hz"}
    assert together["high"] >= 1.2 * 640
    assert throughput["title"] == "throughput (images/s)"
    assert [line["metric"] for line in throughput["lines"]] == ["throughput"]
    assert throughput["rule"] is None
    lines = [line for chart in panel.spec["charts"] for line in chart["lines"]]
    numbers = np.frombuffer(panel.numbers, np.float32).reshape(3, -1, 3)
    for line in lines:  # a column of the buffer each
        drawn = numbers[:, line["column"]]
        found = [point.metrics[line["metric"]] for point in waiting.points]
        assert np.allclose(drawn, [(one.value, one.low, one.high) for one in found])
    assert sorted(line["column"] for line in lines) == list(range(numbers.shape[1])) == [0, 1, 2]


def test_lines_of_charts_with_one_metric_each_look_different(panel):
    styles = [line["style"] for chart in panel.spec["charts"] for line in chart["lines"]]
    assert len(set(styles)) == len(styles) == 2


def test_bytes_are_drawn_in_kibibytes(planted):
    panel = Panel(planted, "Sizes", charts=["size"])
    (drawn,) = panel.spec["charts"]
    assert drawn["title"] == "size (KiB)"
    assert [tick["at"] for tick in drawn["ticks"]] == [
        1024 * float(tick["label"]) for tick in drawn["ticks"]
    ]
    assert drawn["high"] >= max(point.size.value for point in planted.points)
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, planted, Chart("size (KiB)", ("size",)))
    heights = {height for line in ax.lines for height in line.get_ydata()}
    assert heights == {point.size.value / 1024 for point in planted.points}


def test_a_logarithmic_chart_reaches_over_all_values_in_powers_of_ten(waiting):
    chart = Chart("of one request (ms)", ("latency", "worst"), is_log=True)
    panel = Panel(waiting, "Load", charts=[chart])
    (drawn,) = panel.spec["charts"]
    assert drawn["isLog"]
    assert (drawn["low"], drawn["high"]) == (0, 3)  # 2.7 to 768 ms
    assert drawn["ticks"] == [
        {"at": 0, "label": "1"},
        {"at": 1, "label": "10"},
        {"at": 2, "label": "100"},
        {"at": 3, "label": "1000"},
    ]


@pytest.mark.parametrize("is_log", [False, True])
def test_an_interval_without_an_end_still_has_a_scale(planted, is_log):
    metrics = [
        {**point.metrics, "speed": plant_speed(2.0 + n, 0.0 if n else 1.9, math.inf)}
        for n, point in enumerate(planted.points)
    ]
    points = [Point(p.setting, m) for p, m in zip(planted.points, metrics, strict=True)]
    few = Sweep(planted.knobs, points, planted.against, planted.experiment)
    panel = Panel(few, "Speed", charts=[Chart("speed (×)", ("speed",), is_log)])
    (chart,) = panel.spec["charts"]
    highest = math.log10(7) if is_log else 7
    assert chart["low"] <= 0
    assert highest <= chart["high"] < math.inf
    assert all(math.isfinite(tick["at"]) for tick in chart["ticks"])
    assert panel.to_png().startswith(PNG)


def test_the_points_are_told_in_their_own_metrics(waiting):
    panel = Panel(waiting, "Load", charts=[TOGETHER, "throughput"])
    panel.choose(load=4)
    latency, worst, throughput = panel.cards
    assert (latency.title, latency.value) == ("latency of one image", "6.00 ms")
    assert worst == ("worst", "640.0 ms", "of 50 requests")
    assert throughput == ("throughput", "4,938 images/s", "")
    assert panel.alt().startswith(
        "Load: latency from 3.00 ms (1 load) to 6.00 ms (4 load), throughput from"
        " 1,234 images/s (1 load) to 4,938 images/s (4 load); "
    )


def test_a_guess_can_be_about_any_metric_that_is_drawn(waiting):
    options = {"charts": [TOGETHER, "throughput"], "predict": {"load": 4}}
    panel = Panel(waiting, "Load", **options, ask=["throughput", "worst"])
    worst, throughput = panel.spec["predict"]["fields"]
    assert (worst["name"], worst["unit"]) == ("worst", "ms")
    assert (throughput["name"], throughput["unit"]) == ("throughput", "images/s")
    assert worst["most"] > 640
    assert throughput["most"] > 4938
    assert panel.spec["predict"]["known"] == (
        "With 1 load: worst 40.0 ms and throughput 1,234 images/s. Move every slider."
    )
    assert panel.spec["predict"]["measured"] == "worst 640.0 ms and throughput 4,938 images/s"
    panel.commit(worst=160, throughput=4938)
    assert progress.last_prediction("Load") == {"worst": 160, "throughput": 4938}
    assert progress.report().endswith(
        "160.0 ms and 4,938 images/s; measured 640.0 ms and 4,938 images/s."
    )
    with pytest.raises(ValueError, match="A guess can be about latency or worst, not about"):
        Panel(waiting, "Load", charts=[TOGETHER], predict={"load": 4}, ask=["throughput"])


def test_without_a_choice_all_that_is_drawn_is_asked_for(waiting):
    panel = Panel(waiting, "Load", charts=[TOGETHER], predict={"load": 4})
    assert [field["name"] for field in panel.spec["predict"]["fields"]] == ["latency", "worst"]


@pytest.mark.parametrize(
    "chart",
    [
        "accuracy",
        "Latency",
        Chart("nothing", ()),
        Chart("one is not there", ("latency", "accuracy")),
        Chart("too many", ("latency", "worst", "throughput", "latency", "worst")),
    ],
)
def test_a_chart_of_metrics_that_are_not_there_is_refused(waiting, chart):
    there = r"A chart shows one to four of \['latency', 'worst', 'throughput'\], not \["
    with pytest.raises(ValueError, match=there):
        Panel(waiting, "Load", charts=[chart])


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (91.26, "%", "91.3 %"),
        (0.0, "%", "0.0 %"),
        (1e-9, "%", "< 0.1 %"),
        (0.0499, "%", "< 0.1 %"),
        (0.0501, "%", "0.1 %"),
        (0.0123, "ms", "0.012 ms"),
        (0.456, "ms", "0.46 ms"),
        (17.62, "ms", "17.6 ms"),
        (2512.3, "ms", "2,512 ms"),
        (1234567.8, "images/s", "1,234,568 images/s"),
        (2.0, "×", "2.00 ×"),
        (2048.0, "bytes", "2.0 KiB"),
    ],
)
def test_a_value_has_its_unit_and_about_three_digits(value, unit, said):
    assert format_value(Measurement(value, unit, value, value, 1, HERE)) == said


# The key: all that is drawn is named, and nothing else


def test_a_guess_that_nobody_asked_for_is_refused(planted):
    with pytest.raises(ValueError, match="asks for no prediction"):
        Panel(planted, "Bits").commit(accuracy=90.0, latency=1.0)


def test_the_key_of_two_knobs_names_the_other_choice(panel):
    assert panel.spec["key"] == ["+ measured again", "pale: the other choice"]


def test_the_key_names_the_prediction_where_there_is_one(guessing):
    assert guessing().spec["key"][:2] == ["× your prediction", "+ measured again"]


def test_the_key_names_the_levels_where_they_are_drawn(planted):
    key = Panel(planted, "Bits", detail=histogram_at).spec["key"]
    assert key[-1] == "vertical lines: the values that a number can take"


@pytest.mark.parametrize("count", [0, 65])
def test_the_key_is_silent_about_levels_that_are_not_drawn(planted, count):
    def detail(bits, scheme):
        return Histogram("weights", "weight", np.arange(3.0), np.ones(2), np.arange(float(count)))

    key = Panel(planted, "Bits", detail=detail).spec["key"]
    assert "vertical lines" not in " ".join(key)


def test_the_key_of_one_knob_names_no_other_choice(at, tiny_split):
    points = [plant_point({"bits": bits}, 90.0, 1.0, 1000) for bits in BITS]
    single = Sweep({"bits": BITS}, points, {"bits": 8}, Classification(at, tiny_split))
    assert Panel(single, "Bits").spec["key"] == ["+ measured again"]


# The words


def test_the_cards_of_an_example():
    baseline = plant_point({"bits": 32}, 92.0, 1.0, 409_600, "fp32")
    point = plant_point({"bits": 4}, 89.5, 0.5, 102_400, "int8", "no 4-bit kernel here")
    accuracy, latency, size, ran = make_cards(point, baseline, TITLES)
    assert accuracy == (
        "accuracy",
        "89.5 %",
        "± 0.5 on 4,000 images; −2.5 ± 0.7 points on the same images",
    )
    assert latency.value == "0.50 ms"
    assert latency.note == (
        "half of 150 runs took 0.45–0.60 ms, 95 % at most 0.75; 2.00× as fast (1.80–2.40)"
    )
    assert size == ("size of what ships", "100.0 KiB", "4.0× smaller")
    assert ran == ("what ran", "int8", "no 4-bit kernel here")


def test_the_cards_of_the_baseline_compare_it_with_nothing():
    baseline = plant_point({"bits": 32}, 92.0, 1.0, 409_600, "fp32")
    accuracy, latency, size, ran = make_cards(baseline, baseline, TITLES)
    assert accuracy.note == "± 0.5 on 4,000 images"
    assert latency.note == "half of 150 runs took 0.90–1.20 ms, 95 % at most 1.50"
    assert size.note == "the others are compared with this one"
    assert ran.note == "planted runtime"


def test_what_is_larger_is_called_larger():
    baseline, larger = (plant_point({"bits": n}, 90.0, 1.0, 1000 * n) for n in (1, 2))
    assert make_cards(larger, baseline, TITLES)[2].note == "2.0× larger"


@pytest.mark.parametrize(
    ("gain", "said"),
    [(1.25, "+1.2"), (-0.06, "−0.1"), (0.04, "±0.0"), (-0.04, "±0.0"), (0.0, "±0.0")],
)
def test_a_gain_has_its_sign(gain, said):
    baseline = plant_point({"bits": 32}, 90.0, 1.0, 1000)
    point = plant_point({"bits": 4}, 90.0, 1.0, 1000, gain=gain)
    card = make_cards(point, baseline, TITLES)[0]
    assert card.note == f"± 0.5 on 4,000 images; {said} ± 0.7 points on the same images"


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (1000, "the same size"),
        (1001, "0.1 % larger"),
        (999, "0.1 % smaller"),
        (1040, "4 % larger"),
        (250, "4.0× smaller"),
        (800, "1.2× smaller"),
        (3000, "3.0× larger"),
    ],
)
def test_a_size_beside_the_baseline_s(size_bytes, said):
    point, baseline = (plant_point({"bits": 4}, 90.0, 1.0, n) for n in (size_bytes, 1000))
    assert describe_size(point.size, baseline.size) == said


@pytest.mark.parametrize("difference", [1, -1, 40, -40])
def test_a_few_bytes_are_no_difference_in_size(difference):
    point, baseline = (plant_point({"bits": 4}, 90.0, 1.0, 100_000 + n) for n in (difference, 0))
    assert describe_size(point.size, baseline.size) == "the same size to a few bytes"


@pytest.mark.parametrize(("difference", "said"), [(60, "0.06 % larger"), (-60, "0.06 % smaller")])
def test_more_than_a_few_bytes_are_a_difference_in_size(difference, said):
    point, baseline = (plant_point({"bits": 4}, 90.0, 1.0, 100_000 + n) for n in (difference, 0))
    assert describe_size(point.size, baseline.size) == said


@pytest.mark.parametrize("size_bytes", [980, 1020])
def test_nothing_is_called_one_times_smaller_or_larger(size_bytes):
    point, baseline = (plant_point({"bits": 4}, 90.0, 1.0, n) for n in (size_bytes, 1000))
    assert not describe_size(point.size, baseline.size).startswith("1.0×")


def test_sizes_have_the_unit_that_suits_them():
    assert format_size(1023) == "1023 bytes"
    assert format_size(1024) == "1.0 KiB"
    assert format_size(2.5 * 2**20) == "2.50 MiB"


def test_a_setting_in_words():
    assert describe_setting({"bits": 4, "scheme": "per channel"}) == "4 bits, per channel"


# A prediction first


def test_without_a_prediction_everything_is_shown_at_once(panel):
    assert panel.revealed
    assert panel.guess == {}
    assert panel.spec["predict"] is None


def test_before_the_guess_nothing_is_revealed(guessing):
    panel = guessing()
    assert not panel.revealed
    assert panel.guess == {}
    assert panel.spec["predict"]["setting"] == "4 bits, per tensor"
    assert panel.spec["predict"]["point"] == SETTINGS.index({"bits": 4, "scheme": "per tensor"})
    assert [field["name"] for field in panel.spec["predict"]["fields"]] == ["accuracy", "latency"]
    assert panel.spec["predict"]["known"] == (
        "With 8 bits, per channel: accuracy 76.0 % and latency 0.90 ms. Move every slider."
    )
    assert panel.spec["predict"]["measured"] == (
        "accuracy 72.0 % and latency 0.80 ms (2.00× as fast (1.80–2.40))"
    )


def test_a_guess_reveals_the_curves_and_is_kept(guessing, planted):
    panel = guessing()
    panel.commit(accuracy=70, latency=0.4)
    assert panel.revealed
    assert panel.guess == {"accuracy": 70, "latency": 0.4}
    assert progress.last_prediction("Bits") == {"accuracy": 70, "latency": 0.4}
    point = planted.point(bits=4, scheme="per tensor")
    assert "4 bits, per tensor" in progress.report()
    assert f"measured {point.accuracy.value:.1f} %" in progress.report()


def test_a_guess_made_on_the_page_is_kept(guessing):
    panel = guessing()
    send(panel, do="guess", accuracy=66, latency=0.25)
    assert panel.revealed
    assert progress.last_prediction("Bits") == {"accuracy": 66, "latency": 0.25}


def test_opened_again_the_panel_shows_the_earlier_guess(guessing):
    guessing().commit(accuracy=70, latency=0.4)
    panel = guessing()
    assert panel.revealed
    assert panel.guess == {"accuracy": 70, "latency": 0.4}
    assert not guessing("Another lab").revealed


GUESS = {"accuracy": 70, "latency": 0.4}
KNOWN = {"accuracy": "accuracy 76.0 %", "latency": "latency 0.90 ms"}
MEASURED = {
    "accuracy": "accuracy 72.0 %",
    "latency": "latency 0.80 ms (2.00× as fast (1.80–2.40))",
}
REPORTED = {"accuracy": ("70.0 %", "72.0 %"), "latency": ("0.40 ms", "0.80 ms")}
EACH_METRIC = pytest.mark.parametrize("metric", ["accuracy", "latency"])


@EACH_METRIC
def test_a_panel_can_ask_for_one_metric_alone(guessing, metric):
    panel = guessing(ask=(metric,))
    predict = panel.spec["predict"]
    assert [field["name"] for field in predict["fields"]] == [metric]
    assert predict["known"] == f"With 8 bits, per channel: {KNOWN[metric]}. Move the slider."
    assert predict["measured"] == MEASURED[metric]


@pytest.mark.parametrize("ask", [("accuracy", "latency"), ("latency", "accuracy")])
def test_the_sliders_stand_in_the_same_order_however_they_are_asked_for(guessing, ask):
    predict = guessing(ask=ask).spec["predict"]
    assert [field["name"] for field in predict["fields"]] == ["accuracy", "latency"]
    assert predict["known"].endswith(" Move every slider.")
    assert predict["measured"] == " and ".join(MEASURED.values())


@EACH_METRIC
def test_a_guess_of_one_metric_is_kept_with_what_was_measured_of_it(guessing, metric):
    panel = guessing(ask=(metric,))
    panel.commit(**{metric: GUESS[metric]})
    assert panel.revealed
    assert panel.guess == progress.last_prediction("Bits") == {metric: GUESS[metric]}
    guessed, measured = REPORTED[metric]
    assert progress.report() == (
        f"Predicted in “Bits” for 4 bits, per tensor: {guessed}; measured {measured}."
    )


def test_a_guess_is_told_in_the_order_of_what_was_measured(guessing):
    guessing().commit(latency=0.4, accuracy=70)
    assert "70.0 % and 0.40 ms; measured 72.0 % and 0.80 ms." in progress.report()


@EACH_METRIC
def test_a_guess_of_one_metric_made_on_the_page_is_kept(guessing, metric):
    panel = guessing(ask=(metric,))
    send(panel, do="guess", **{metric: GUESS[metric]})
    assert panel.guess == progress.last_prediction("Bits") == {metric: GUESS[metric]}


@pytest.mark.parametrize(
    ("ask", "guess"),
    [
        (("accuracy",), {}),
        (("accuracy",), {"latency": 0.4}),
        (("accuracy",), GUESS),
        (("latency",), {"accuracy": 70}),
        (("latency",), GUESS),
        (("accuracy", "latency"), {}),
        (("accuracy", "latency"), {"accuracy": 70}),
        (("accuracy", "latency"), {"latency": 0.4}),
        (("accuracy", "latency"), {"accuracy": 70, "size": 3}),
        (("accuracy", "latency"), {**GUESS, "size": 3}),
    ],
)
def test_a_guess_of_something_else_than_was_asked_for_is_refused(guessing, ask, guess):
    panel = guessing(ask=ask)
    with pytest.raises(ValueError, match=f"This panel asks for {' and '.join(ask)}, not") as error:
        panel.commit(**guess)
    assert str(list(guess)) in str(error.value)
    assert not panel.revealed
    assert progress.last_prediction("Bits") is None


@pytest.mark.parametrize("ask", [(), ("size",), ("accuracy", "size"), ("Accuracy",), "accuracy"])
def test_a_metric_that_nobody_can_guess_is_refused(guessing, ask):
    with pytest.raises(ValueError, match="A guess can be about accuracy or latency, not about"):
        guessing(ask=ask)


@EACH_METRIC
def test_an_earlier_guess_that_lacks_what_is_asked_now_does_not_count(guessing, metric):
    guessing(ask=(metric,)).commit(**{metric: GUESS[metric]})
    panel = guessing()
    assert not panel.revealed
    assert panel.guess == {}
    panel.commit(**GUESS)
    assert guessing().guess == GUESS


@EACH_METRIC
def test_an_earlier_guess_of_more_than_is_asked_now_counts(guessing, metric):
    guessing().commit(**GUESS)
    panel = guessing(ask=(metric,))
    assert panel.revealed
    assert panel.guess[metric] == GUESS[metric]


def test_an_earlier_guess_of_the_other_metric_does_not_count(guessing):
    guessing(ask=("accuracy",)).commit(accuracy=70)
    assert not guessing(ask=("latency",)).revealed
    assert guessing(ask=("accuracy",)).revealed


def test_curves_shown_without_a_guess_are_no_prediction(guessing):
    panel = guessing()
    panel.revealed = True  # what the page sets when the learner skips the guess
    assert panel.guess == {}
    assert progress.last_prediction("Bits") is None
    assert not guessing().revealed


# Measuring again


def test_a_message_measures_the_chosen_point_again(panel, planted):
    before = planted.point(bits=4, scheme="per tensor")
    panel.choose(bits=4, scheme="per tensor")
    send(panel, do="measure", chosen=panel.chosen)
    assert not panel.again["busy"]
    text = panel.again["text"]
    assert "4 bits, per tensor" in text
    assert "accuracy 40.0 % (before 72.0 %)" in text  # right on 3 * 4 of 30 images
    assert f"(before {before.latency.value:.2f} ms)" in text
    assert text.endswith(" beside 8 bits, per channel, timed in turns just now.")
    said = ("× as fast (", "no difference found in speed", "too few rounds (")
    assert sum(words in text for words in said) == 1
    assert panel.again["values"].keys() == {"accuracy", "latency"}
    assert panel.again["values"]["accuracy"] == pytest.approx(40)
    assert panel.again["values"]["latency"] > 0
    assert panel.again["index"] == planted.points.index(before)
    assert panel.cards == make_cards(before, planted.baseline, TITLES)  # the sweep stays as it was


def test_the_page_names_the_setting_that_it_wants_measured(panel, planted):
    panel.choose(bits=8, scheme="per channel")
    send(panel, do="measure", chosen=[0, 1])  # its last change may come after this
    asked = {
        knob: values[at] for (knob, values), at in zip(planted.knobs.items(), [0, 1], strict=True)
    }
    assert describe_setting(asked) in panel.again["text"]
    assert panel.again["index"] == planted.points.index(planted.point(**asked))
    assert panel.setting == {"bits": 8, "scheme": "per channel"}


def test_measured_again_are_the_knobs_named_and_the_others_as_chosen(panel, planted):
    panel.choose(bits=8, scheme="per tensor")
    panel.measure_again(bits=4)
    measured = planted.points[panel.again["index"]].setting
    assert measured == {"bits": 4, "scheme": "per tensor"}


def test_what_the_sweep_lacks_cannot_be_measured_again(panel):
    with pytest.raises(ValueError, match="1000"):
        panel.measure_again(bits=1000)
    assert "1000" in panel.again["text"]
    assert not panel.again["busy"]


def test_while_it_measures_the_panel_says_so(panel):
    said = []
    panel.observe(lambda change: said.append(change["new"]), "again")
    panel.measure_again()
    assert [state["busy"] for state in said] == [True, False]
    assert "Measuring 8 bits, per channel" in said[0]["text"]


def test_while_a_cell_is_running_nothing_is_timed(panel, monkeypatch):
    built = []
    monkeypatch.setattr(Sweep, "measure_again", lambda *_, **setting: built.append(setting))
    panel._cell._running = True
    send(panel, do="measure", chosen=panel.chosen)
    assert built == []
    assert "A cell is running" in panel.again["text"]
    assert not panel.again["busy"]


def test_while_it_measures_a_second_press_does_nothing(panel, monkeypatch):
    presses = []

    def press_again(*_, **setting):
        presses.append(setting)
        panel.measure_again()
        raise RuntimeError("ends the first")

    monkeypatch.setattr(Sweep, "measure_again", press_again)
    with pytest.raises(RuntimeError, match="ends the first"):
        panel.measure_again()
    assert len(presses) == 1


def test_an_exception_while_measuring_again_is_shown(planted):
    def fail(bits, scheme):
        raise RuntimeError("the kernel went away")

    experiment = Classification(fail, planted.experiment.on)
    panel = Panel(Sweep(planted.knobs, planted.points, planted.against, experiment), "Bits")
    with pytest.raises(RuntimeError, match="the kernel went away"):
        panel.measure_again()
    assert "the kernel went away" in panel.again["text"]
    assert not panel.again["busy"]
    panel.again = {}
    # The button works again, and a message ends no kernel.
    send(panel, do="measure", chosen=panel.chosen)
    assert "the kernel went away" in panel.again["text"]


# The numbers that are drawn


def expected_curves(planted: Sweep) -> np.ndarray:
    return np.array(
        [
            [p.accuracy.value, p.accuracy.low, p.accuracy.high,
             p.latency.value, p.latency.low, p.latency.high]
            for p in planted.points
        ],
        np.float32,
    )  # fmt: skip


def test_the_buffer_holds_the_measured_values(panel, planted):
    numbers = np.frombuffer(panel.numbers, np.float32)
    assert np.array_equal(numbers.reshape(len(planted.points), 6), expected_curves(planted))
    assert panel.spec["detail"] is None


def histogram_at(bits, scheme):
    counts = np.array([1, bits, 5, SCHEMES.index(scheme)])
    levels = np.arange(2.0**bits)  # 256 for 8 bits: too many to draw
    return Histogram(f"{bits} bits, {scheme}", "weight", np.linspace(-1, 1, 5), counts, levels)


def unpack_details(panel: Panel) -> tuple[np.ndarray, ...]:
    """Return what the page reads: heights of bars, levels and limits; a row for each point."""
    detail, count = panel.spec["detail"], len(panel.spec["points"])
    numbers = np.frombuffer(panel.numbers, np.float32)
    widths = [detail["bins"], detail["levels"], 2]
    rows = numbers[6 * count :].reshape(count, sum(widths))
    heights, levels, limits = np.split(rows, np.cumsum(widths)[:-1], axis=1)
    return heights, levels, limits


def test_the_buffer_holds_the_details_of_every_setting(planted):
    panel = Panel(planted, "Bits", detail=histogram_at)
    detail, count = panel.spec["detail"], len(planted.points)
    curves = np.frombuffer(panel.numbers, np.float32)[: 6 * count].reshape(count, 6)
    assert np.array_equal(curves, expected_curves(planted))
    heights, levels, limits = unpack_details(panel)
    for n, setting in enumerate(SETTINGS):
        histogram = histogram_at(**setting)
        assert np.array_equal(heights[n], histogram.counts)
        drawn = histogram.levels if len(histogram.levels) <= 64 else []
        assert np.array_equal(levels[n][~np.isnan(levels[n])], drawn)
        assert detail["titles"][n] == histogram.title
    assert np.isnan(limits).all()
    assert (detail["low"], detail["high"]) == (-1, 1)
    assert detail["most"] == 8  # the highest count of all
    assert all(-1 <= tick["at"] <= 1 for tick in detail["ticks"])
    assert all(float(tick["label"]) == pytest.approx(tick["at"]) for tick in detail["ticks"])


def clipped_at(bits, scheme):
    """Return a histogram with limits for one of the schemes alone."""
    limits = (-0.5, bits / 10) if scheme == "per tensor" else None
    counts = np.array([1, bits, 5, 0])
    return Histogram("activations", "x", np.linspace(-1, 1, 5), counts, np.arange(99.0), limits)


def test_the_buffer_holds_the_limits_where_there_are_some(planted):
    panel = Panel(planted, "Bits", detail=clipped_at)
    heights, levels, limits = unpack_details(panel)
    assert np.isnan(levels).all()
    for n, setting in enumerate(SETTINGS):
        expected = clipped_at(**setting)
        assert np.array_equal(heights[n], expected.counts)
        ends = expected.limits or (np.nan, np.nan)
        assert np.allclose(limits[n], ends, equal_nan=True)


def test_the_key_names_the_limits_where_there_are_some(planted):
    shaded = "shaded: outside of the range, clipped"
    assert Panel(planted, "Bits", detail=clipped_at).spec["key"][-1] == shaded
    assert shaded not in Panel(planted, "Bits", detail=histogram_at).spec["key"]
    assert shaded not in Panel(planted, "Bits").spec["key"]


POWERS = np.array([0.01, 0.1, 1.0, 10.0, 300.0])


def log_at(bits, scheme):
    """Return a logarithmic histogram, with a limit and a level that a logarithm cannot show."""
    counts = np.array([0, bits, 99, 10_000 - 1])
    levels = np.array([-1.0, 0.0, 0.1, 100.0])
    return Histogram("weights", "size", POWERS, counts, levels, (-3.0, 10.0 * bits), is_log=True)


def test_a_logarithmic_histogram_is_placed_in_powers_of_ten(planted):
    panel = Panel(planted, "Bits", detail=log_at)
    detail = panel.spec["detail"]
    heights, levels, limits = unpack_details(panel)
    for n, setting in enumerate(SETTINGS):
        bits = setting["bits"]
        assert np.allclose(heights[n], [0, np.log10(1 + bits), 2, 4])
        assert np.allclose(levels[n][:4], [-2, -2, -1, 2])
        assert np.isnan(levels[n][4:]).all()
        assert np.allclose(limits[n], [-2, np.log10(10 * bits)])
    assert detail["most"] == pytest.approx(4)
    assert detail["low"] == pytest.approx(-2)
    assert detail["high"] == pytest.approx(np.log10(300))
    for tick in detail["ticks"]:
        assert detail["low"] <= tick["at"] <= detail["high"]
        assert float(tick["label"]) == pytest.approx(10 ** tick["at"], rel=0.01)
    assert {tick["label"] for tick in detail["ticks"]} >= {"0.01", "0.1", "1", "10", "100"}


def test_the_height_and_place_of_an_example():
    linear = Histogram("a", "x", POWERS, np.array([0, 9, 99, 5]), np.empty(0))
    assert linear.heights().tolist() == [0, 9, 99, 5]
    assert linear.place([-1.0, 0.0, 20.0]).tolist() == [-1, 0, 20]
    logarithmic = Histogram("a", "x", POWERS, linear.counts, np.empty(0), is_log=True)
    assert np.allclose(logarithmic.heights(), [0, 1, 2, np.log10(6)])
    assert np.allclose(logarithmic.place([-1.0, 0.0, 0.1, 1.0, 1000.0]), [-2, -2, -1, 0, 3])


# Bars instead


LAYERS = ["stem", "block2.shortcut.0", "encoder.layers.11.attention.output.dense"]


def bars_at(bits, scheme):
    """Return bars of up to 8; those of the last layer are no whole numbers."""
    values = [bits, 2, bits / 3 if scheme == "per tensor" else 8]
    title = f"{bits} bits, {scheme}"
    return Bars(title, "bits of each weight", dict(zip(LAYERS, values, strict=True)))


def test_the_buffer_holds_the_bars_of_every_setting(planted):
    panel = Panel(planted, "Bits", detail=bars_at)
    detail, count = panel.spec["detail"], len(planted.points)
    numbers = np.frombuffer(panel.numbers, np.float32)
    assert np.array_equal(numbers[: 6 * count].reshape(count, 6), expected_curves(planted))
    rows = numbers[6 * count :].reshape(count, len(LAYERS))
    for n, setting in enumerate(SETTINGS):
        bars = bars_at(**setting)
        assert np.allclose(rows[n], list(bars.values.values()))
        assert detail["titles"][n] == bars.title
        assert detail["words"][n] == list(bars.words().items())
        assert detail["said"][n] == tell_detail(bars)
    assert detail["kind"] == "bars"
    assert detail["axis"] == "bits of each weight"
    assert detail["high"] == 8
    assert [tick["label"] for tick in detail["ticks"]] == ["0", "2", "4", "6", "8"]


def test_bars_add_nothing_to_the_key(planted):
    assert Panel(planted, "Bits", detail=bars_at).spec["key"] == Panel(planted, "Bits").spec["key"]


@pytest.mark.parametrize("detail", [bars_at, histogram_at])
def test_the_picture_of_the_chosen_setting_can_be_read_in_python(planted, detail):
    panel = Panel(planted, "Bits", detail=detail)
    for setting in SETTINGS:
        panel.choose(**setting)
        assert tell_detail(panel.detail) == tell_detail(detail(**setting))
        assert np.array_equal(panel.detail.row(), detail(**setting).row(), equal_nan=True)
    assert Panel(planted, "Bits").detail is None


def test_pictures_of_two_kinds_are_refused(planted):
    def detail(bits, scheme):
        return (bars_at if bits == 4 else histogram_at)(bits, scheme)

    with pytest.raises(ValueError, match=r"show the same kind of picture, not"):
        Panel(planted, "Bits", detail=detail)


def test_bars_of_other_names_at_some_setting_are_refused(planted):
    def detail(bits, scheme):
        return Bars("widths", "bits", {"stem": 1, "head" if bits < 8 else "tail": 2})

    with pytest.raises(ValueError, match=r"the same bars in the same order.*'head'.*'tail'"):
        Panel(planted, "Bits", detail=detail)


def test_the_sentence_tells_the_bars_of_the_picture(planted):
    predict = {"bits": 4, "scheme": "per tensor"}
    for options, setting in (({}, planted.against), ({"predict": predict}, predict)):
        sentence = Panel(planted, "Bits", detail=bars_at, **options).alt()
        assert f"; {tell_detail(bars_at(**setting))}; measured: " in sentence
    told = Panel(planted, "Bits", detail=histogram_at).alt()
    assert told == Panel(planted, "Bits").alt()


# The static twin


@pytest.mark.parametrize("detail", [None, histogram_at, clipped_at, log_at, bars_at])
def test_the_picture_is_the_same_for_every_setting(planted, detail):
    panel = Panel(planted, "Bits", detail=detail)
    sizes = set()
    for setting in (SETTINGS[0], SETTINGS[-1]):
        panel.choose(**setting)
        picture = panel.to_png()
        assert picture.startswith(PNG)
        sizes.add(struct.unpack(">II", picture[16:24]))
    assert len(sizes) == 1
    ((width, height),) = sizes
    assert width > height > 100


@pytest.mark.parametrize("predict", [None, {"bits": 2, "scheme": "per tensor"}])
def test_the_picture_shows_the_detail_of_the_prediction_or_the_baseline(
    planted, monkeypatch, predict
):
    drawn = []
    draw = plots.draw_panel
    monkeypatch.setattr(plots, "draw_panel", lambda *given: drawn.append(given[-1]) or draw(*given))
    Panel(planted, "Bits", predict=predict, detail=histogram_at).to_png()
    (detail,) = drawn
    expected = predict or planted.against
    assert detail.title == f"{expected['bits']} bits, {expected['scheme']}"


def test_without_a_kernel_the_panel_is_a_picture_and_a_sentence(panel):
    data, _ = panel._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(PNG)
    sentence = data["text/plain"]
    assert "\n" not in sentence
    assert sentence.startswith("Bits per weight: accuracy from 60.0 % (2 bits, per channel)")
    assert "to 80.0 % (8 bits, per tensor), latency from 0.50 ms (2 bits, per channel)" in sentence
    assert sentence.endswith("measured: a planted machine, 2026-01-31 12:00.")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_lab_does_not_wait_for_torch():
    source = (
        "import sys, course_utils.lab; print('torch' in sys.modules, 'anywidget' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["False", "True"]


# Computed points, many choices, and settings that do not exist


class Formula(Classification):
    """An experiment that measures nothing."""

    is_measured = False


COMPUTED = Provenance("computed", "operations / peak")
DEVICES = [f"device {n}" for n in range(6)]
MANY = {"batch": [1, 8, 64], "device": DEVICES, "network": ["A", "B"], "format": ["fp16", "fp8"]}
ABSENT = "no arithmetic in fp8"


def has_fp8(setting) -> bool:
    return setting["device"] in DEVICES[:2]


def estimate(value, unit, note="") -> Measurement:
    return Measurement(value, unit, value, value, 1, COMPUTED, note=note)


def plant_estimate(n, setting) -> Point:
    is_there = setting["format"] == "fp16" or has_fp8(setting)
    value = 1.0 + n if is_there else math.nan
    metrics = {
        "latency": estimate(value, "ms", "a lower bound"),
        "throughput": estimate(1000 / value, "images/s"),
    }
    told = ("tensor cores", "") if is_there else ("", ABSENT)
    return Point(setting, metrics, "a formula", *told)


@pytest.fixture
def computed(at, tiny_split) -> Sweep:
    """Return 72 computed points, a third of which do not exist."""
    settings = [dict(zip(MANY, row, strict=True)) for row in itertools.product(*MANY.values())]
    points = [plant_estimate(n, setting) for n, setting in enumerate(settings)]
    against = {"batch": 8, "device": "device 3", "network": "A", "format": "fp16"}
    return Sweep(MANY, points, against, Formula(at, tiny_split))


CHARTS = [Chart("latency (ms)", ("latency",), is_log=True), "throughput"]
NOWHERE = {"batch": 8, "device": "device 3", "network": "A", "format": "fp8"}


def test_computed_points_are_not_measured_again(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS)
    assert not panel.spec["isMeasured"]
    assert not any("measured" in sign for sign in panel.spec["key"])
    assert "measured" not in panel.alt()
    assert panel.spec["provenance"].startswith("computed: operations / peak; ")
    with pytest.raises(ValueError, match="“Estimates” are computed, so there is nothing to"):
        panel.measure_again()
    assert panel.again == {}


def test_a_measured_panel_says_so(panel):
    assert panel.spec["isMeasured"]


def test_a_computed_latency_is_told_without_runs(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS)
    latency, throughput, ran = panel.cards
    assert latency.note == "a lower bound"
    assert throughput.note == ""
    assert ran == ("what ran", "tensor cores", "a formula")


def test_a_guess_of_something_computed_is_kept_as_such(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS, predict=computed.against, ask=["latency"])
    assert panel.spec["key"][0] == "× your prediction"
    panel.commit(latency=3)
    found = format_value(computed.baseline.latency)
    assert progress.report().endswith(f": 3.00 ms; computed {found}.")


def test_of_many_choices_only_the_near_ones_are_pale(computed):
    spec = Panel(computed, "Estimates", charts=CHARTS).spec
    assert spec["isCrowded"]
    assert spec["key"] == ["pale: choices that differ from the bold one in one thing"]


@pytest.mark.parametrize(("count", "is_crowded"), [(1, False), (8, False), (9, True)])
def test_more_than_eight_choices_are_many(at, tiny_split, count, is_crowded):
    names = [f"s{n}" for n in range(count)]
    settings = [{"bits": bits, "scheme": name} for bits in BITS for name in names]
    points = [plant_point(setting, 90.0, 1.0, 1000) for setting in settings]
    sweep = Sweep(
        {"bits": BITS, "scheme": names}, points, settings[0], Classification(at, tiny_split)
    )
    assert Panel(sweep, "Bits").spec["isCrowded"] == is_crowded


def test_what_does_not_exist_has_a_dash_and_its_reason(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS)
    panel.choose(**NOWHERE)
    assert panel.cards == [
        Card("latency of one image", "–", ABSENT),
        Card("throughput", "–", ABSENT),
        Card("what ran", "–", ABSENT),
    ]
    place = computed.points.index(computed.point(**NOWHERE))
    assert panel.spec["points"][place]["said"] == (
        "8 batch, device 3, A, fp8: latency of one image none, throughput none, what ran none;"
        f" {ABSENT}"
    )
    assert panel.spec["rows"][place] == ["8", "device 3", "A", "fp8", "–", "–", "–"]
    for point, shown in zip(computed.points, panel.spec["points"], strict=True):
        assert len(shown["cards"]) == 3
        assert (ABSENT in shown["said"]) == math.isnan(point.latency.value)


def test_the_page_gets_gaps_as_nan_and_scales_without_them(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS)
    numbers = np.frombuffer(panel.numbers, np.float32).reshape(len(computed.points), 6)
    is_gap = [math.isnan(point.latency.value) for point in computed.points]
    assert sum(is_gap) == 24
    assert np.array_equal(np.isnan(numbers), np.repeat(np.array(is_gap)[:, None], 6, axis=1))
    latency, throughput = panel.spec["charts"]
    assert (latency["low"], latency["high"]) == (0, 2)  # 1 to 71 ms
    assert throughput["high"] == 1000
    json.dumps(panel.spec, allow_nan=False)


def test_the_extremes_are_those_of_what_exists(computed):
    sentence = Panel(computed, "Estimates", charts=CHARTS).alt()
    assert sentence.startswith(
        "Estimates: latency from 1.00 ms (1 batch, device 0, A, fp16) to 71.0 ms (64 batch,"
        " device 5, B, fp16), and none at 24 of 72 settings, throughput from "
    )
    assert "nan" not in sentence
    assert Panel(computed, "Estimates", charts=CHARTS).to_png().startswith(PNG)


@pytest.mark.parametrize("wrong", ["predict", "against"])
def test_what_does_not_exist_is_not_asked_for(computed, wrong):
    predict = {**computed.against, "batch": 1}
    if wrong == "predict":
        predict = NOWHERE
    else:
        computed = replace(computed, against=NOWHERE)
    with pytest.raises(ValueError, match="8 batch, device 3, A, fp8 has no latency: let the"):
        Panel(computed, "Estimates", charts=CHARTS, predict=predict, ask=["latency"])


def test_a_chart_without_any_value_is_refused(computed):
    points = [
        replace(one, metrics={**one.metrics, "cost": estimate(math.nan, "€")})
        for one in computed.points
    ]
    with pytest.raises(ValueError, match="No point has a value of cost: leave it out"):
        Panel(replace(computed, points=points), "Estimates", charts=["latency", "cost"])


def test_a_guess_is_made_on_a_scale_of_what_exists(computed):
    panel = Panel(
        computed, "Estimates", charts=["latency"], predict=computed.against, ask=["latency"]
    )
    (field,) = panel.spec["predict"]["fields"]
    assert 71 <= field["most"] < 150


def test_a_point_measured_again_is_told_without_what_it_lacks(planted, monkeypatch):
    def lose(point: Point) -> Point:
        latency = replace(point.latency, value=math.nan)
        return replace(point, metrics={**point.metrics, "latency": latency})

    monkeypatch.setattr(Sweep, "measure_again", lambda sweep, **at: lose(sweep.point(**at)))
    panel = Panel(planted, "Bits per weight")
    panel.measure_again()
    assert set(panel.again["values"]) == {"accuracy"}
    assert "nan" not in panel.again["text"]


# A guess on a scale in powers of ten


def ask_on_log_axis(sweep, metric, **options):
    """Return the scale of a guess about a metric that is drawn in powers of ten, and its chart."""
    chart = Chart("in powers of ten", (metric,), is_log=True, **options)
    panel = Panel(sweep, "Powers", charts=[chart], predict=sweep.against)
    (field,), (drawn,) = panel.spec["predict"]["fields"], panel.spec["charts"]
    return field, drawn


@pytest.mark.parametrize("lowest", [0.0003, 0.3, 60.0])
def test_a_logarithmic_guess_has_stops_over_the_whole_axis_of_its_chart(waiting, lowest):
    field, chart = ask_on_log_axis(waiting, "worst", rule=(lowest, "a level"))
    values = field["values"]
    assert len(values) == len(set(values)) >= 90
    assert len(values) <= 201
    assert values == sorted(values)
    assert (values[0], values[-1]) == pytest.approx((10 ** chart["low"], 10 ** chart["high"]))
    assert all(value == float(f"{value:.1e}") for value in values)  # two digits
    ratios = np.divide(values[1:], values[:-1])
    assert ratios.max() < 1.13  # some guess is near whatever is found


def test_a_right_answer_stands_near_the_middle_of_a_logarithmic_slider(waiting):
    field, chart = ask_on_log_axis(waiting, "worst", rule=(0.01, "a level"))
    assert (chart["low"], chart["high"]) == (-2, 3)
    place = field["values"].index(1.0)  # in the second of five decades
    assert 0.3 < place / len(field["values"]) < 0.45
    assert field["unit"] == "ms"


def test_bytes_are_guessed_in_the_kibibytes_of_the_axis(planted):
    field, chart = ask_on_log_axis(planted, "size")
    assert (field["unit"], field["per"]) == ("KiB", 1024)
    kibibytes = [value / field["per"] for value in field["values"]]
    assert (kibibytes[0], kibibytes[-1]) == (1.0, 10.0)
    assert kibibytes[0] == pytest.approx(10 ** chart["low"] / 1024)
    assert all(shown == float(f"{shown:.1e}") for shown in kibibytes)


def test_what_is_counted_is_guessed_in_whole_numbers(waiting):
    counted = [
        Point(point.setting, {"busy": estimate(3.0 * n + 1, "cells")})
        for n, point in enumerate(waiting.points)
    ]
    field, _ = ask_on_log_axis(replace(waiting, points=counted), "busy")
    assert field["values"] == [*range(1, 11)]


def test_only_what_is_drawn_in_powers_of_ten_is_guessed_so(waiting):
    charts = [Chart("worst (ms)", ("worst",), is_log=True), "latency"]
    panel = Panel(waiting, "Both", charts=charts, predict={"load": 4})
    worst, latency = panel.spec["predict"]["fields"]
    assert "values" in worst
    assert latency == {"name": "latency", "unit": "ms", "most": 6.0, "step": 0.06, "digits": 2}


def test_a_guess_made_on_a_logarithmic_slider_is_kept_as_a_value(waiting):
    def open_panel() -> Panel:
        chart = Chart("worst (ms)", ("worst",), is_log=True)
        return Panel(waiting, "Powers", charts=[chart], predict={"load": 4})

    panel = open_panel()
    send(panel, do="guess", worst=66)
    assert panel.revealed
    assert panel.guess == progress.last_prediction("Powers") == {"worst": 66}
    assert progress.report().endswith(": 66.0 ms; measured 640.0 ms.")
    again = open_panel()
    assert again.revealed
    assert again.guess == {"worst": 66}


# Menus


def test_a_menu_is_made_only_where_it_is_asked_for(computed):
    plain, menu = (Panel(computed, "E", charts=CHARTS, menus=m) for m in ((), ["device"]))
    looks = [[(k["isMenu"], k["isChoice"]) for k in one.spec["knobs"]] for one in (plain, menu)]
    assert looks[0] == [(False, False), (False, False), (False, True), (False, True)]
    assert looks[1] == [(False, False), (True, False), (False, True), (False, True)]


@pytest.mark.parametrize("menus", [["Device"], ["device", "batches"], "device"])
def test_a_menu_for_no_knob_is_refused(computed, menus):
    with pytest.raises(ValueError, match=r"A menu can be for one of \['batch', 'device', "):
        Panel(computed, "Estimates", charts=CHARTS, menus=menus)


# Roofs and cells instead


def roof_at(batch, device, network, format):
    title = f"{network} on {device}, {format}"
    if format == "fp8" and device not in DEVICES[:2]:
        return lab.Roof(title, "operations a byte", math.nan, math.nan, {})
    layers = {
        f"{network}{n}": (1.0 + n, 2.0 * batch, 0.25) for n in range(2 if network == "A" else 4)
    }
    return lab.Roof(title, "operations a byte", 100.0 * batch, 10.0, layers)


def test_shorter_rows_of_pictures_end_in_nan(computed):
    panel = Panel(computed, "Estimates", charts=CHARTS, detail=roof_at)
    pictures = np.frombuffer(panel.numbers, np.float32)[6 * len(computed.points) :]
    rows = pictures.reshape(len(computed.points), 2 + 3 * 4)
    for row, point in zip(rows, computed.points, strict=True):
        expected = roof_at(**point.setting).row()
        assert np.allclose(row[: len(expected)], expected, equal_nan=True)
        assert np.isnan(row[len(expected) :]).all()
    assert panel.spec["detail"]["names"] == [["A0", "A1"], ["B0", "B1", "B2", "B3"], []]
    assert panel.spec["key"][-1] == "the larger, the more of the time"
    assert "ridge: 80 operations a byte; computed: " in panel.alt()
    assert panel.to_png().startswith(PNG)


def test_cells_of_every_setting_are_in_the_buffer(planted):
    def detail(bits, scheme):
        values = np.where(np.arange(6).reshape(2, 3) < bits, 0.5 * bits, math.nan)
        return lab.Cells(f"{bits} bits, {scheme}", "columns", values)

    panel = Panel(planted, "Bits", detail=detail)
    rows = np.frombuffer(panel.numbers, np.float32)[6 * len(SETTINGS) :].reshape(-1, 6)
    for row, setting, texts in zip(rows, SETTINGS, panel.spec["detail"]["texts"], strict=True):
        assert np.array_equal(row, detail(**setting).row(), equal_nan=True)
        assert [text != "" for text in texts] == [not math.isnan(value) for value in row]
    assert panel.spec["key"][-2:] == ["filled: a busy cell", "dashed: an idle one"]
    assert "; 8 bits, per channel: busy: 6 of 6 cells; measured: " in panel.alt()
    assert panel.to_png().startswith(PNG)


# The quiz


@pytest.fixture
def quiz() -> Quiz:
    return lab.Quiz(
        "Quantization",
        [
            lab.Question("How many <integers>?", [("7", "Too few."), ("15", "Yes.")], right=1),
            lab.Question("Is it faster?", [("yes", "It depends."), ("no", "So it is.")], right=1),
        ],
    )


def test_at_first_nothing_is_answered(quiz):
    assert quiz.picked == [-1, -1]
    assert quiz.score == 0
    assert quiz.feedback() == ["", ""]


def test_every_answer_has_its_feedback(quiz):
    quiz.picked = [0, -1]
    assert (quiz.score, quiz.feedback()) == (0, ["Too few.", ""])
    quiz.picked = [1, -1]
    assert (quiz.score, quiz.feedback()) == (1, ["Yes.", ""])
    quiz.picked = [1, 1]
    assert (quiz.score, quiz.feedback()) == (2, ["Yes.", "So it is."])


def test_answers_are_kept_once_each(quiz):
    assert "question" not in progress.report()
    quiz.picked = [0, -1]
    quiz.picked = [0, 0]
    quiz.picked = [1, 0]
    first, second = progress.report().splitlines()
    assert "Quantization, question 1" in first
    assert ": solved, 2 tries" in first
    assert "Quantization, question 2" in second
    assert "not solved yet, 1 " in second


@pytest.mark.parametrize("right", [-1, 2])
def test_a_question_whose_right_answer_does_not_exist_is_refused(right):
    with pytest.raises(ValueError, match=f"'Which\\?' has no answer number {right}"):
        Question("Which?", [("this", "Yes."), ("that", "No.")], right)


def test_without_a_kernel_the_quiz_shows_its_questions(quiz):
    data, _ = quiz._repr_mimebundle_()
    assert data["text/plain"] == "Quantization: 2 questions. Run the cell to answer them."
    assert "How many &lt;integers&gt;?" in data["text/html"]
    assert "<li>15</li>" in data["text/html"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"bits": 1}, "1 bit"),
        ({"bits": 2}, "2 bits"),
        ({"images a call": 1, "network": "MLP"}, "1 image a call, MLP"),
        ({"images a call": 32}, "32 images a call"),
        ({"% load": 1}, "1 % load"),
    ],
)
def test_one_of_something_is_said_in_the_singular(setting, said):
    assert describe_setting(setting) == said


@pytest.mark.parametrize(("count", "is_told"), [(99, False), (100, True)])
def test_a_tail_is_told_of_a_hundred_runs_and_more(count, is_told):
    point = plant_point({"bits": 4}, 90.0, 1.0, 1000)
    latency = replace(point.latency, count=count)
    card = make_cards(replace(point, metrics={**point.metrics, "latency": latency}), point, {})[1]
    assert ("95 % at most" in card.note) == is_told
