"""Bars beside the curves of a panel: those of the chosen point, readable on every page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bars_page import BarsOnPage
from lab_page import LabPage, open_cells
from playwright.sync_api import Browser, expect

from course_utils.lab import Panel
from course_utils.lab.details import tell_detail

pytestmark = pytest.mark.browser

LAYERS = [
    "stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.shortcut.0",
    "block3.conv1", "block3.conv2", "block3.shortcut.0", "head",
]  # fmt: skip
PLANTED = f"""
from course_utils import lab
from course_utils.measure import Measurement, Provenance
from course_utils.sweep import Point, Sweep
from course_utils.sweep.classifier import Classification

HERE = Provenance("measured", "a planted machine", "2026-01-31 12:00")
KNOBS = {{"kibibytes": [40, 50, 60, 70, 80], "widths": ["one for all", "one for each layer"]}}


def bars_at(kibibytes, widths):
    n = KNOBS["kibibytes"].index(kibibytes)
    mixed = widths != "one for all"
    shown = {{layer: 2 + (n + mixed * k) % 7 for k, layer in enumerate({LAYERS})}}
    return lab.Bars(f"weights in {{kibibytes}} KiB, {{widths}}", "bits of each weight", shown)


def plant(kibibytes, widths):
    accuracy = kibibytes + (10 if widths == "one for each layer" else 0)
    metrics = {{
        "accuracy": Measurement(accuracy, "%", accuracy - 1, accuracy + 1, 4000, HERE),
        "gain": Measurement(accuracy - 80, "points", accuracy - 81, accuracy - 79, 4000, HERE),
        "size": Measurement(1024 * kibibytes, "bytes", 0, 2000 * kibibytes, 1, HERE),
    }}
    return Point({{"kibibytes": kibibytes, "widths": widths}}, metrics)


points = [plant(k, w) for k in KNOBS["kibibytes"] for w in KNOBS["widths"]]
experiment = Classification(None, range(4000))
planted = Sweep(KNOBS, points, points[-2].setting, experiment)
panel = lab.Panel(planted, "A width for each layer", charts=["accuracy", "size"], detail=bars_at)
"""
ASK_PYTHON = "print({panel._name: (panel.setting, [tuple(card) for card in panel.cards])})"


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    """Run a notebook with a panel over planted points."""
    sources = [PLANTED + "panel", ASK_PYTHON]
    with open_cells(browser, tmp_path_factory.mktemp("bars"), sources, height=1200) as page:
        yield page


@pytest.fixture
def shown(lab: LabPage) -> BarsOnPage:
    return BarsOnPage(lab, "A width for each layer")


@pytest.fixture
def in_python() -> Panel:
    """Return the same panel without a page."""
    namespace: dict[str, Panel] = {}
    exec(PLANTED, namespace)
    return namespace["panel"]


def test_the_bars_are_those_of_the_chosen_point(shown: BarsOnPage, in_python: Panel) -> None:
    lengths = set()
    for widths in ("one for all", "one for each layer"):
        shown.root.get_by_role("radio", name=widths).check()
        shown.slider("kibibytes").focus()
        for kibibytes, key in ((40, "Home"), *((n, "ArrowRight") for n in (50, 60, 70, 80))):
            shown.page.keyboard.press(key)
            in_python.choose(kibibytes=kibibytes, widths=widths)
            words = in_python.detail.words()
            drawn = shown.bars()
            assert [name for name, *_ in drawn] == LAYERS
            assert {name: value for name, value, _ in drawn} == words == shown.rows()
            lengths |= {(int(value), round(length)) for _, value, length in drawn}
            expect(shown.picture.locator(".im-title")).to_have_text(in_python.detail.title)
            expect(shown.picture).to_have_attribute("aria-label", tell_detail(in_python.detail))
        assert shown.asked_of_python()[0] == in_python.setting
    pixels = dict(lengths)
    assert len(pixels) == len(lengths) == 7  # 2 to 8 bits, each always as long
    assert all(abs(pixels[bits] - bits * pixels[8] / 8) <= 1 for bits in pixels)


def test_a_drag_ends_with_the_bars_of_the_point_under_the_mouse(
    shown: BarsOnPage, in_python: Panel
) -> None:
    shown.root.get_by_role("radio", name="one for each layer").check()
    shown.throw_by_mouse("kibibytes", to_start=True)
    in_python.choose(kibibytes=40, widths="one for each layer")
    assert shown.asked_of_python()[0] == in_python.setting
    assert {name: value for name, value, _ in shown.bars()} == in_python.detail.words()


def test_the_table_of_the_bars_opens_by_keyboard(shown: BarsOnPage) -> None:
    details = shown.root.locator("details").last
    details.evaluate("node => node.open = false")
    shown.root.get_by_text("The bars as a table").focus()
    shown.page.keyboard.press("Enter")
    expect(details.locator("table")).to_be_visible()
    expect(details.locator("thead")).to_contain_text("bits of each weight")
    shown.page.keyboard.press("Enter")


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    shown: BarsOnPage, lab: LabPage, pictures: Path, theme: str
) -> None:
    lab.set_theme(theme)
    shown.root.get_by_role("radio", name="one for each layer").check()
    shown.slider("kibibytes").focus()
    shown.page.keyboard.press("End")
    shown.root.screenshot(path=pictures / f"bars_{theme.lower()}.png")
    shown.rows()  # opens them
    assert shown.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
def test_every_name_is_readable_and_nothing_is_cut_off(
    shown: BarsOnPage, pictures: Path, width: int
) -> None:
    assert shown.unreadable_at(width, pictures / f"bars_{width}px.png") == []


def test_nothing_came_from_outside_and_nothing_broke(lab: LabPage) -> None:
    assert lab.outside == []
    assert lab.errors == []
