"""Seeds: the mean of networks that differ by chance alone, its spread, and a sweep of it."""

import numpy as np
import pytest

from course_utils import measure, plots, sweep
from course_utils.lab import Chart, Panel
from course_utils.measure import Measurement, Provenance

SIZES = [1, 2]
RIGHT = {1: (10, 14, 12), 2: (20, 21, 22)}  # of 30 images, for each seed


def some_right(*counts: int) -> list[np.ndarray]:
    return [np.arange(30) < count for count in counts]


def test_the_mean_goes_from_the_worst_seed_to_the_best():
    found = measure.summarize_seeds(some_right(12, 15, 18))
    assert (found.low, found.value, found.high) == pytest.approx((40, 50, 60))
    assert (found.unit, found.count) == ("%", 30)
    assert found.note == "3 seeds: 40.00, 50.00, 60.00"
    assert found.provenance.kind == "measured"


def test_one_seed_has_no_spread_and_none_at_all_no_mean():
    found = measure.summarize_seeds(some_right(3))
    assert found.low == found.value == found.high == pytest.approx(10)
    assert found.note == "one seed: 10.00"
    with pytest.raises(ValueError, match="at least one network"):
        measure.summarize_seeds([])


def test_two_means_are_compared_seed_against_seed():
    taught, alone = (measure.summarize_seeds(some_right(*c)) for c in ((18, 21, 24), (12, 15, 15)))
    ahead = measure.compare_seeds(taught, alone)
    assert ahead.value == pytest.approx(70 - 140 / 3)
    assert ahead.low == pytest.approx(60 - 50)  # the worst of the one, the best of the other
    assert ahead.high == pytest.approx(80 - 40)
    assert ahead.unit == "points"
    assert ahead.note == "seed against seed from +10.00 to +40.00"
    behind = measure.compare_seeds(alone, taught)
    assert (behind.low, behind.high) == pytest.approx((-ahead.high, -ahead.low))


@pytest.fixture
def log(tmp_path):
    """Return a file with a line for each call of a runner; a list would change the cache's key."""
    file = tmp_path / "called.txt"
    file.touch()
    return file


@pytest.fixture
def measured(make_runner, tiny_split, log):
    """Return a function that does the same sweep each time it is called."""
    made = {size: tuple(make_runner(right=right) for right in RIGHT[size]) for size in SIZES}

    def at(size, image):
        with log.open("a") as file:
            file.write(f"{size} {image}\n")
        return made[size]

    def also(size, image):
        origin = Provenance("computed", "the size")
        return {"doubled": Measurement(2.0 * size, "bits", 1.0, 4.0, 1, origin, note=image)}

    def measure_it():
        return sweep.measure_seeds(
            at,
            over={"size": SIZES, "image": ["shirt", "coat"]},
            on=tiny_split,
            against={"size": 1, "image": "shirt"},
            also=also,
        )

    return measure_it


def test_a_sweep_finds_the_mean_of_all_seeds_and_what_else_is_asked_for(measured):
    found = measured()
    for size in SIZES:
        for image in ("shirt", "coat"):
            point = found.point(size=size, image=image)
            mean = point.metrics["mean accuracy"]
            assert mean.value == pytest.approx(100 * sum(RIGHT[size]) / 90)
            assert mean.low == pytest.approx(100 * min(RIGHT[size]) / 30)
            assert mean.high == pytest.approx(100 * max(RIGHT[size]) / 30)
            assert mean.count == 30
            assert (point.doubled.value, point.doubled.note) == (2 * size, image)
            assert "speed" not in point.metrics
    assert "for each seed" in found.experiment.about


def test_it_is_kept_and_read_back(measured, log, capsys):
    first = measured()
    calls = len(log.read_text().splitlines())
    again = measured()
    assert len(log.read_text().splitlines()) == calls
    assert [p.metrics for p in again.points] == [p.metrics for p in first.points]
    assert "measured on this machine just now" in capsys.readouterr().out


def test_the_same_runners_are_counted_once(measured, monkeypatch):
    counted = []
    really_find = measure.find_right
    monkeypatch.setattr(
        "course_utils.sweep.seeds.find_right",
        lambda runner, *rest: counted.append(runner) or really_find(runner, *rest),
    )
    found = measured()
    assert len(counted) == 2 * 3  # two sizes, three seeds, whatever the image
    now = found.measure_again(size=2, image="coat")
    assert len(counted) == 3 * 3
    assert now.metrics["mean accuracy"].value == pytest.approx(70)


def test_a_panel_shows_the_seeds(measured):
    panel = Panel(measured(), "Seeds", charts=["mean accuracy", "doubled"])
    panel.choose(size=2, image="coat")
    cards = {card.title: card for card in panel.cards}
    assert cards["mean accuracy"].value == "70.0 %"
    assert cards["mean accuracy"].note == "3 seeds: 66.67, 70.00, 73.33"
    assert cards["doubled"].note == "coat"
    panel.measure_again()
    assert "mean accuracy 70.0 % (before 70.0 %)" in panel.again["text"]
    assert "doubled" not in panel.again["text"]  # it is computed
    assert set(panel.again["values"]) == {"mean accuracy"}


# An axis that does not begin at 0


def test_an_axis_that_does_not_begin_at_0_says_so(measured):
    chart = Chart("mean accuracy (%)", ("mean accuracy",), starts_at=30)
    (drawn,) = Panel(measured(), "Seeds", charts=[chart]).spec["charts"]
    assert drawn["title"] == "mean accuracy (%), from 30 up"
    assert drawn["low"] == drawn["ticks"][0]["at"] == 30
    assert drawn["high"] >= 100 * 22 / 30
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, measured(), chart)
    assert ax.get_ylim()[0] == 30
    assert "from 30 up" in ax.get_ylabel()


def test_an_axis_reaches_below_0_where_values_do(measured):
    found = measured()
    origin = Provenance("computed", "planted")
    for number, point in enumerate(found.points):
        point.metrics["gain"] = Measurement(number - 2.0, "points", number - 3.5, 2.0, 9, origin)
    chart = Chart("gain (points)", ("gain",))
    (drawn,) = Panel(found, "Gains", charts=[chart]).spec["charts"]
    assert drawn["low"] <= -3.5
    assert drawn["high"] >= 2
    assert drawn["title"] == "gain (points)"
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, found, chart)
    assert ax.get_ylim()[0] <= -3.5


def test_a_logarithmic_axis_of_sizes_counts_kibibytes(measured):
    found = measured()
    origin = Provenance("computed", "planted")
    for point, kib in zip(found.points, (2, 20, 300, 4000), strict=True):
        size = 1024.0 * kib
        point.metrics["size"] = Measurement(size, "bytes", size, size, 1, origin)
    chart = Chart("size (KiB)", ("size",), is_log=True)
    (drawn,) = Panel(found, "Sizes", charts=[chart]).spec["charts"]
    assert [tick["label"] for tick in drawn["ticks"]] == ["1", "10", "100", "1000", "10000"]
    assert [10 ** tick["at"] for tick in drawn["ticks"]] == pytest.approx(
        [1024 * 10**power for power in range(5)]
    )
    assert 10 ** drawn["low"] <= 2 * 1024
    assert 10 ** drawn["high"] >= 4000 * 1024
    (ax,) = plots.new_axes()
    plots.plot_chart(ax, found, chart)
    assert 4000 < ax.get_ylim()[1] < 10_000


def test_a_surface_has_the_colour_of_the_class_that_is_likely(make_runner):
    (ax,) = plots.new_axes()
    probabilities = np.zeros((4, 4, 3))
    probabilities[:, :2, 0] = probabilities[:, 2:, 1] = 1
    points, labels = np.array([[-1.0, 0.0], [1.0, 0.0], [1.5, 0.5]]), np.array([0, 1, 1])
    plots.plot_surface(ax, probabilities, 2.0, points, labels)
    (image,) = ax.get_images()
    colours = image.get_array()
    assert colours.shape == (4, 4, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 2
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert [len(line.get_xdata()) for line in ax.lines] == [1, 2]
    assert len({line.get_marker() for line in ax.lines}) == 2
