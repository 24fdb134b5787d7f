"""A guess on the page: a slider in powers of ten where the chart is drawn so, and an even one."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_page import LabPage, open_cells
from panel_page import PanelOnPage, to_number
from playwright.sync_api import Browser, Locator, expect

pytestmark = pytest.mark.browser

NAME = "From a sensor to a server"
PLANTED = f"""
from course_utils import lab, progress
from course_utils.measure import Measurement, Provenance
from course_utils.sweep import Point, Sweep
from course_utils.sweep.classifier import Classification

HERE = Provenance("measured", "a planted machine", "2026-01-31 12:00")
MILLISECONDS = [0.004, 1.3, 66.0, 2984.0]


def plant(n, ms):
    share = 100 / 20.0**n
    metrics = {{
        "share": Measurement(share, "%", share, share, 4000, HERE),
        "latency": Measurement(ms, "ms", ms, ms, 50, HERE),
        "memory": Measurement(2e5 * ms, "bytes", 2e5 * ms, 2e5 * ms, 1, HERE),
    }}
    return Point({{"device": n}}, metrics)


points = [plant(n, ms) for n, ms in enumerate(MILLISECONDS)]
experiment = Classification(None, range(4000))
planted = Sweep({{"device": [0, 1, 2, 3]}}, points, points[3].setting, experiment)
charts = [
    "share",
    lab.Chart("one image (ms)", ("latency",), is_log=True),
    lab.Chart("memory (KiB)", ("memory",), is_log=True),
]


def open_panel():
    return lab.Panel(planted, {NAME!r}, charts=charts, predict={{"device": 2}})


panel = open_panel()
"""
ASK_PYTHON = f"""
kept = progress.last_prediction({NAME!r})
print({{panel._name: (panel.guess, kept, [tuple(card) for card in panel.cards])}})
"""
HEARD = ["20 %", "66 ms", "13,000 KiB"]  # what a guess is told as


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    """Run a notebook with a panel that asks for three guesses."""
    sources = [PLANTED + "panel", "# opened again here", ASK_PYTHON]
    with open_cells(browser, tmp_path_factory.mktemp("guess"), sources) as page:
        yield page


@pytest.fixture
def panel(lab: LabPage) -> PanelOnPage:
    return PanelOnPage(lab, NAME)


def told(slider: Locator) -> str:
    return slider.get_attribute("aria-valuetext") or ""


def walk(panel: PanelOnPage, name: str) -> list[str]:
    """Take a slider by keyboard from its start to its end; return the words of each stop."""
    slider = panel.slider(name)
    shown = slider.locator("xpath=following-sibling::output")
    slider.focus()
    panel.page.keyboard.press("Home")
    heard = [told(slider)]
    while True:
        panel.page.keyboard.press("ArrowRight")
        if told(slider) == heard[-1]:
            return heard
        heard.append(told(slider))
        assert shown.text_content() == heard[-1]


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_the_question_is_accessible_in_both_themes(
    panel: PanelOnPage, lab: LabPage, pictures: Path, theme: str
) -> None:
    lab.set_theme(theme)
    panel.photograph(pictures / f"guess_{theme.lower()}.png")
    assert panel.violations() == []


@pytest.mark.parametrize(
    ("name", "unit", "first", "last"),
    [("latency", "ms", "0.001", "10,000"), ("memory", "KiB", "0.1", "1,000,000")],
)
def test_each_decade_has_as_much_room_on_the_slider(
    panel: PanelOnPage, name: str, unit: str, first: str, last: str
) -> None:
    heard = walk(panel, name)
    assert (heard[0], heard[-1]) == (f"{first} {unit}", f"{last} {unit}")
    assert 100 <= len(heard) == len(set(heard)) <= 201
    numbers = [to_number(words) for words in heard]
    ratios = [after / before for before, after in itertools.pairwise(numbers)]
    assert 1 < min(ratios) <= max(ratios) < 1.13
    decades = round(numbers[-1] / numbers[0])
    below = sum(number < 10 * numbers[0] for number in numbers)
    assert abs(below - len(numbers) / (len(str(decades)) - 1)) <= 4


def test_an_even_chart_is_guessed_on_an_even_slider(panel: PanelOnPage) -> None:
    assert walk(panel, "share") == [f"{percent} %" for percent in range(101)]


def test_a_guess_by_keyboard_comes_to_python_as_a_value(panel: PanelOnPage) -> None:
    for name, words in zip(("share", "latency", "memory"), HEARD, strict=True):
        slider = panel.slider(name)
        slider.focus()
        panel.page.keyboard.press("Home")
        while told(slider) != words:
            before = told(slider)
            panel.page.keyboard.press("ArrowRight")
            assert told(slider) != before, f"{words} cannot be guessed"
    panel.root.get_by_role("button", name="Commit my guess").focus()
    panel.page.keyboard.press("Enter")
    outcome = panel.root.locator(".im-outcome")
    expect(outcome).to_have_text(
        f"For 2 device you predicted {' and '.join(HEARD)}; measured:"
        " share 0.2 % and latency 66.0 ms and memory 12.59 MiB."
    )
    guess, kept, _ = panel._told_by_python()
    assert guess == kept == {"share": 20, "latency": 66, "memory": 13000 * 1024}


def test_the_guess_is_marked_where_the_axis_says(panel: PanelOnPage, pictures: Path) -> None:
    expect(panel.root.locator(".im-guess")).to_have_count(3)
    chart = panel.root.get_by_role("img", name="one image (ms)", exact=True)
    panel.move("device", 2)
    cross = chart.locator(".im-guess").bounding_box()
    dot = chart.locator(".im-dot").bounding_box()  # of the point that was guessed rightly
    for at, size in (("x", "width"), ("y", "height")):
        assert abs(cross[at] + cross[size] / 2 - dot[at] - dot[size] / 2) < 1
    panel.photograph(pictures / "guess_outcome.png")


def test_a_share_that_is_nearly_nothing_is_not_called_nothing(panel: PanelOnPage) -> None:
    panel.move("device", 3)
    assert panel.cards()[0][1] == "< 0.1 %"
    expect(panel.root.locator(".im-spoken")).to_contain_text("share < 0.1 %")
    _, _, cards = panel._told_by_python()
    assert panel.cards() == cards


def test_opened_again_the_panel_tells_the_same_guess(lab: LabPage) -> None:
    cell = lab.page.locator(".jp-CodeCell").nth(1)
    cell.locator(".cm-content").click()
    lab.page.keyboard.press("Control+a")
    lab.page.keyboard.insert_text("open_panel()")
    lab.page.keyboard.press("Control+Enter")
    again = cell.get_by_role("region", name=NAME, exact=True)
    expect(again.locator(".im-outcome")).to_contain_text(f"you predicted {' and '.join(HEARD)};")
    expect(again.locator(".im-guess")).to_have_count(3)


def test_nothing_came_from_outside_and_nothing_broke(lab: LabPage) -> None:
    assert lab.outside == []
    assert lab.errors == []
