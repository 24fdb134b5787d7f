"""Lesson 05 as a learner meets it: softened answers as bars, sizes and layers of students."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bars_page import BarsOnPage
from lab_page import LabPage
from panel_page import Cards, PanelOnPage
from playwright.sync_api import Locator, expect
from quiz_page import expect_quiz_to_answer

from course_utils.datasets import FASHION_CLASSES
from course_utils.distill import load_students

pytestmark = pytest.mark.browser

LESSON = "05_distillation"
TEMPERATURE, SIZE, LAYERS = "Temperature", "Size of the student", "Layers of the student"
SHIRT, TROUSERS = "a shirt like a coat", "trousers"
SLIDERS = {TEMPERATURE: "temperature", SIZE: "thousand parameters", LAYERS: "layers"}
TEMPERATURES = [1, 2, 4, 7, 12, 20]
THOUSANDS = [3.1, 6.7, 14.5, 21.2, 59.7, 1226.4]
STOPS = {
    TEMPERATURE: [f"T = {temperature}" for temperature in TEMPERATURES],
    SIZE: [f"{thousands} thousand parameters" for thousands in THOUSANDS],
    LAYERS: ["0 layers", "1 layer", "2 layers", "3 layers", "4 layers"],
}
LAST = {  # after a drag to the end for each choice
    TEMPERATURE: {"temperature": "T = 20", "image": TROUSERS},
    SIZE: {"thousand parameters": 1226.4},
    LAYERS: {"layers": 4},
}
EACH_PANEL = pytest.mark.parametrize("name", SLIDERS)


def show(lesson: LabPage, name: str, choice: str | None, steps: int) -> PanelOnPage:
    panel = PanelOnPage(lesson, name)
    panel.move(SLIDERS[name], steps, choice)
    return panel


def tell_measured(asked: list[str], cards: Cards) -> str:
    """Return what a panel should say about a guess, put together from the cards."""
    told = {title: value for title, value, _ in cards}
    for title, value, note in cards:
        if title.startswith("latency of one"):
            speed = note.split("; ")[-1]
            told |= {"latency": f"{value} ({speed})", "speed": f"{speed.split('×')[0]} ×"}
    return " and ".join(f"{metric} {told[metric]}" for metric in asked)


def chart_named(panel: PanelOnPage, name: str) -> Locator:
    return panel.root.get_by_role("img", name=name, exact=True)


def value_at(chart: Locator, height: float) -> float:
    """Return the value that a height in a chart stands for, by the ticks of its axis."""
    grid = [float(line.get_attribute("y1")) for line in chart.locator(".im-grid").all()]
    ticks = [float(tick) for tick in chart.locator("text[text-anchor=end]").all_text_contents()]
    return float(np.polyval(np.polyfit(grid, ticks, 1), height))


def level_line(chart: Locator) -> float:
    """Return at which height the level line of a chart is drawn."""
    first, last = (float(chart.locator(".im-limit").get_attribute(end)) for end in ("y1", "y2"))
    assert first == last
    return first


@pytest.mark.parametrize(
    ("name", "asked", "told_as", "setting"),
    [
        (TEMPERATURE, ["mean accuracy"], "51 %", {"temperature": "T = 4", "image": SHIRT}),
        (SIZE, ["taught", "latency"], r"51 % and [\d,]+(\.\d+)? ms", {"thousand parameters": 14.5}),
        (LAYERS, ["accuracy", "speed"], r"51 % and [\d,]+(\.\d+)? ×", {"layers": 2}),
    ],
    ids=SLIDERS,
)
def test_a_guess_is_told_beside_what_was_measured(
    distillation: LabPage, name: str, asked: list[str], told_as: str, setting: dict[str, Any]
) -> None:
    panel = PanelOnPage(distillation, name)
    told, outcome = panel.guess(*asked)
    assert re.fullmatch(told_as, told)
    in_python, cards = panel.asked_of_python()
    assert in_python == setting
    measured = tell_measured(asked, cards)
    expect(outcome).to_contain_text(f"you predicted {told}; measured: {measured}")


@EACH_PANEL
def test_a_drag_needs_no_python_and_shows_what_it_knows(distillation: LabPage, name: str) -> None:
    panel = PanelOnPage(distillation, name)
    panel.reveal()
    seen, known = panel.drag_over_domain(SLIDERS[name])
    assert seen == known
    assert len(seen) == (2 if name == TEMPERATURE else 1)
    assert all(len(set(map(tuple, drag))) == len(STOPS[name]) for drag in seen)
    assert panel.asked_of_python() == (LAST[name], seen[-1][-1])


@EACH_PANEL
def test_a_mouse_takes_the_slider_past_every_stop(distillation: LabPage, name: str) -> None:
    choices = [SHIRT, TROUSERS] if name == TEMPERATURE else [None]
    panel = show(distillation, name, choices[0], 1)
    all_cards, _ = panel.known_to_python()
    stop = panel.root.locator("output").first
    seen = panel.drag_by_mouse(SLIDERS[name], lambda: (stop.text_content(), panel.cards()))
    assert seen == list(zip(STOPS[name], all_cards[:: len(choices)], strict=True))
    setting, cards = panel.asked_of_python()
    assert setting == {**LAST[name], **({"image": SHIRT} if name == TEMPERATURE else {})}
    assert cards == seen[-1][1]


def test_another_image_changes_the_teachers_answer_and_no_student(distillation: LabPage) -> None:
    panel = PanelOnPage(distillation, TEMPERATURE)
    panel.reveal()
    of_shirt, of_trousers = panel.drag_each_choice("temperature", panel.cards)
    changed = {
        one[0]
        for shirt, trousers in zip(of_shirt, of_trousers, strict=True)
        for one, other in zip(shirt, trousers, strict=True)
        if one != other
    }
    assert changed == {"entropy"}


def test_the_bars_are_one_answer_at_six_temperatures(distillation: LabPage) -> None:
    panel = BarsOnPage(distillation, TEMPERATURE)
    panel.reveal()
    all_cards, pictures = panel.known_to_python()
    for place, drag in enumerate(panel.drag_each_choice("temperature", panel.bars)):
        told = [{name: share for name, share, _ in bars} for bars in drag]
        assert told == [words for _, words in pictures[place::2]]
        assert all(tuple(shares) == FASHION_CLASSES for shares in told)
        pixels = np.array([[length for *_, length in bars] for bars in drag])
        drawn = pixels / pixels.sum(axis=1, keepdims=True)  # (temperatures, classes)
        written = [[float(share) for share in shares.values()] for shares in told]
        assert np.allclose(100 * drawn, written, atol=0.5)
        for temperature, shares in zip(TEMPERATURES, drawn, strict=True):
            powers = drawn[TEMPERATURES.index(7)] ** (7 / temperature)
            assert np.allclose(shares, powers / powers.sum(), atol=0.005), temperature
        bits = -(drawn * np.log2(drawn)).sum(axis=1)
        entropies = [dict(card[:2] for card in cards)["entropy"] for cards in all_cards[place::2]]
        assert np.allclose(bits, [float(told.split(" ")[0]) for told in entropies], atol=0.02)
    assert panel.rows() == told[-1]
    panel.root.get_by_text("The bars as a table").click()  # closes it


def test_the_shirt_is_half_a_coat_at_1_and_nearly_anything_at_20(distillation: LabPage) -> None:
    panel = BarsOnPage(distillation, TEMPERATURE)
    panel.move("temperature", 0, SHIRT)
    sharp, *_, soft = (
        {name: float(share) for name, share, _ in bars}
        for bars in panel.drag_without_python("temperature", panel.bars)
    )
    *others, second, first = sorted(sharp, key=sharp.__getitem__)
    assert {first, second} == {"shirt", "coat"}
    assert min(sharp["shirt"], sharp["coat"]) > 30
    assert max(sharp[name] for name in others) < 10
    assert max(soft.values()) < 1.5 * min(soft.values())


@pytest.mark.parametrize(
    ("name", "title", "start", "drawn"),
    [
        (TEMPERATURE, "mean accuracy (%)", 85, ["mean accuracy"]),
        (SIZE, "accuracy (%)", 86, ["alone", "taught"]),
        (LAYERS, "accuracy (%)", 70, ["accuracy"]),
    ],
    ids=SLIDERS,
)
def test_an_axis_that_does_not_begin_at_0_says_so_and_hides_nothing(
    distillation: LabPage, name: str, title: str, start: int, drawn: list[str]
) -> None:
    panel = PanelOnPage(distillation, name)
    panel.reveal()
    heading = f"{title}, from {start} up"
    chart = chart_named(panel, heading)
    expect(chart.locator(".im-title")).to_have_text(heading)
    expect(panel.root.get_by_role("img", name=re.compile(r"from \S+ up"))).to_have_count(1)
    bottom = float(chart.locator(".im-cursor").get_attribute("y2"))
    assert np.isclose(value_at(chart, bottom), start, atol=0.01)
    all_cards, _ = panel.known_to_python()
    told = [
        f"{value}; {note}" if "seed" in note else value  # the note has each of the seeds
        for cards in all_cards
        for metric, value, note in cards
        if metric in drawn
    ]
    assert len(told) == len(drawn) * len(all_cards)
    assert min(float(number) for one in told for number in re.findall(r"\d+\.\d+", one)) >= start


def test_the_level_line_of_the_temperatures_is_the_mean_of_the_twins(distillation: LabPage) -> None:
    panel = PanelOnPage(distillation, TEMPERATURE)
    panel.reveal()
    chart = chart_named(panel, "mean accuracy (%), from 85 up")
    expect(chart.get_by_text("alone, mean of three", exact=True)).to_be_visible()
    twins = [
        student.about["test_accuracy"]
        for name, student in load_students("students_fashion_few").items()
        if name.startswith("few_alone_seed")
    ]
    assert len(twins) == 3
    assert np.isclose(value_at(chart, level_line(chart)), 100 * np.mean(twins), atol=0.1)


def test_the_last_size_is_the_teacher_and_stands_on_its_level_line(distillation: LabPage) -> None:
    panel = show(distillation, SIZE, None, len(THOUSANDS) - 1)
    shown = {title: value for title, value, _ in panel.cards()}
    assert shown["alone"] == shown["taught"]
    counted, known = (float(shown[card].removesuffix(" %")) for card in ("accuracy", "taught"))
    assert np.isclose(counted, known, atol=1)  # a quick look counts it on fewer images
    chart = chart_named(panel, "accuracy (%), from 86 up")
    expect(chart.get_by_text("the teacher", exact=True)).to_be_visible()
    moved = [dot.get_attribute("transform") for dot in chart.locator("g[transform]").all()]
    heights = [float(re.search(r",([\d.]+)\)", one)[1]) for one in moved]
    assert len(heights) == 2  # alone and taught
    assert np.allclose(heights, level_line(chart), atol=0.01)


@pytest.mark.parametrize(
    ("name", "choice", "setting", "metrics"),
    [
        (TEMPERATURE, SHIRT, "T = 2, a shirt like a coat", ["mean accuracy"]),
        (LAYERS, None, "1 layer", ["accuracy", "speed", "size"]),
    ],
    ids=[TEMPERATURE, LAYERS],
)
def test_a_student_is_measured_again(
    distillation: LabPage, name: str, choice: str | None, setting: str, metrics: list[str]
) -> None:
    panel = show(distillation, name, choice, 1)
    status = panel.measure_again()
    expect(status).to_contain_text(f"{setting}: {metrics[0]}")
    expect(status).to_contain_text(re.compile(rf"{metrics[0]} ([\d.]+ %) \(before \1\)"))
    for metric in metrics[1:]:
        expect(status).to_contain_text(re.compile(rf"{metric} [\d.]+ \S+ \(before [\d.]+ \S+\)"))
    is_timed = "timed in turns just now" in (status.text_content() or "")
    assert is_timed == (name == LAYERS)
    assert panel.root.locator(".im-fresh").count() == len(metrics)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("entropy_at", "np.log2(likely)", "np.log(likely)", "The entropy is not in bits"),
        ("distillation_loss", "temperature**2 * ", "", "The soft part is not scaled"),
        ("choose_student", "> spread", "> 0", "differ by more than that"),
    ],
    ids=["entropy_at", "distillation_loss", "choose_student"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    distillation: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    distillation.answer_wrongly_then_rightly(LESSON, name, right, wrong, hint)


def test_the_quiz_answers_every_pick(distillation: LabPage, pictures: Path) -> None:
    wrong = "A right answer more often", "The teacher itself learned from labels"
    right = "Which other classes are likely", "how near the image is to which border"
    picture = pictures / "05_quiz.png"
    expect_quiz_to_answer(distillation, "Distillation", wrong, right, picture)


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(distillation: LabPage, pictures: Path, theme: str) -> None:
    distillation.set_theme(theme)
    shown = [(TEMPERATURE, SHIRT, 2), (SIZE, None, 2), (LAYERS, None, 2)]
    for number, where in enumerate(shown, start=1):
        panel = show(distillation, *where)
        panel.photograph(pictures / f"05_lab{number}_{theme.lower()}.png")
    assert panel.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
@EACH_PANEL
def test_every_text_is_readable_and_nothing_is_cut_off(
    distillation: LabPage, pictures: Path, name: str, width: int
) -> None:
    panel = show(distillation, name, TROUSERS if name == TEMPERATURE else None, 0)
    picture = pictures / f"05_lab{[*SLIDERS].index(name) + 1}_{width}px.png"
    assert panel.unreadable_at(width, picture) == []


def test_nothing_came_from_outside_and_nothing_broke(distillation: LabPage) -> None:
    assert distillation.outside == []
    assert distillation.errors == []
