"""Lesson 01 as a learner meets it: batches and offered load, with charts of several lines."""

import re
from pathlib import Path

import pytest
from lab_page import LabPage, read_solution
from panel_page import PanelOnPage
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

BATCHES, LOADS = "Images a call", "Offered load"


@pytest.fixture
def batches(inference_basics: LabPage) -> PanelOnPage:
    return PanelOnPage(inference_basics, BATCHES)


@pytest.fixture
def loads(inference_basics: LabPage) -> PanelOnPage:
    return PanelOnPage(inference_basics, LOADS)


def test_a_guess_of_the_throughput_is_told_beside_what_was_measured(batches: PanelOnPage) -> None:
    expect(batches.root.locator("form")).to_be_visible()
    assert batches.root.locator(".im-card").count() == 0
    batches.slider("throughput").focus()
    batches.page.keyboard.press("ArrowRight")
    batches.root.get_by_role("button", name="Commit my guess").click()
    outcome = batches.root.locator(".im-outcome")
    expect(outcome).to_contain_text("you predicted")
    expect(outcome).to_contain_text("images/s; measured: throughput")
    assert batches.root.locator(".im-guess").count() == 1
    assert batches.root.locator("svg").count() == 3


@pytest.mark.parametrize("name", [BATCHES, LOADS])
def test_the_page_shows_what_python_knows_over_the_domain(
    inference_basics: LabPage, name: str
) -> None:
    panel = PanelOnPage(inference_basics, name)
    panel.reveal()
    knob = {BATCHES: "images a call", LOADS: "% load"}[name]
    seen = set()
    for choice in panel.root.get_by_role("radio").all():
        choice.check()
        panel.slider(knob).focus()
        for key in ("Home", "ArrowRight", "End"):
            panel.page.keyboard.press(key)
            setting, cards = panel.asked_of_python()
            assert panel.cards() == cards
            seen.add(tuple(setting.values()))
            panel.slider(knob).focus()
    assert len(seen) == 2 * 3


def test_a_mouse_drag_moves_dots_bars_and_cards(loads: PanelOnPage) -> None:
    loads.reveal()
    loads.root.get_by_role("radio").first.check()
    box = loads.steady_box(loads.slider("% load"))
    middle = box["y"] + box["height"] / 2
    loads.page.mouse.move(box["x"] + 8, middle)
    loads.page.mouse.down()
    dots, bars, values = set(), set(), set()
    for step in range(1, 13):
        loads.page.mouse.move(box["x"] + 8 + step * (box["width"] - 16) / 12, middle)
        dots.add(loads.root.locator("svg g[transform]").first.get_attribute("transform"))
        bars.add(loads.root.locator(".im-bars").get_attribute("d"))
        values.add(loads.cards()[0][1])
    loads.page.mouse.up()
    assert min(map(len, (dots, bars, values))) >= 6


def test_three_percentiles_are_named_and_the_deadline_is_drawn(loads: PanelOnPage) -> None:
    loads.reveal()
    chart = loads.root.get_by_role("img", name="latency (ms)").first
    for word in ("p50", "p95", "p99", "deadline"):
        expect(chart.get_by_text(word, exact=True)).to_be_visible()
    heights = [
        chart.get_by_text(word, exact=True).bounding_box()["y"] for word in ("p50", "p95", "p99")
    ]
    assert heights == sorted(heights, reverse=True)
    assert chart.locator(".im-dot").count() == 3
    expect(loads.root.get_by_text("shaded: later than 10 ms")).to_be_visible()


def test_a_load_can_be_offered_again(loads: PanelOnPage) -> None:
    loads.reveal()
    status = loads.measure_again()
    for word in ("p50", "p95", "p99", "in time"):
        expect(status).to_contain_text(word)
    assert loads.root.locator(".im-fresh").count() == 4


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(inference_basics: LabPage, pictures: Path, theme: str) -> None:
    inference_basics.set_theme(theme)
    for number, name in enumerate((BATCHES, LOADS)):
        panel = PanelOnPage(inference_basics, name)
        panel.reveal()
        panel.root.scroll_into_view_if_needed()
        panel.root.screenshot(path=pictures / f"01_lab{number + 1}_{theme.lower()}.png")
        assert panel.violations() == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("percentile", "sorted(samples_ms)", "list(samples_ms)", "in which they were measured"),
        ("largest_batch", ">= 0.99", "> 0.99", "exactly 99 % of the calls are in time is dropped"),
        ("name_flaws", "nothing ran", "none", "Look at B again"),
    ],
    ids=["percentile", "largest_batch", "name_flaws"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    inference_basics: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    solution = read_solution("01_inference_basics", name)
    assert right in solution
    expect(inference_basics.answer(solution.replace(right, wrong))).to_contain_text(hint)
    said = inference_basics.answer(solution)
    expect(said).to_contain_text(re.compile("✔ .*right"))


def test_nothing_came_from_outside_and_nothing_broke(inference_basics: LabPage) -> None:
    assert inference_basics.outside == []
    assert inference_basics.errors == []
