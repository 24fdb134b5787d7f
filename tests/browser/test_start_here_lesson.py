"""Lesson 00 as a newcomer meets it."""

from pathlib import Path

import pytest
from lab_page import LabPage
from panel_page import PanelOnPage
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

PANEL = "Units in the first hidden layer"


@pytest.fixture
def panel(start_here: LabPage) -> PanelOnPage:
    return PanelOnPage(start_here, PANEL)


def test_show_me_skips_the_guess(panel: PanelOnPage) -> None:
    expect(panel.root.locator("form")).to_be_visible()
    assert panel.root.locator("svg").count() == 0
    panel.root.get_by_role("button", name="Show me").click()
    expect(panel.root.locator(".im-cards")).to_be_visible()
    assert panel.root.locator(".im-outcome").count() == 0


def test_the_page_shows_what_python_knows_at_both_ends(panel: PanelOnPage) -> None:
    panel.reveal()
    for key, units in (("Home", 10), ("End", 300)):
        panel.slider("units").focus()
        panel.page.keyboard.press(key)
        setting, cards = panel.asked_of_python()
        assert setting == {"units": units}
        assert panel.cards() == cards


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    panel: PanelOnPage, start_here: LabPage, pictures: Path, theme: str
) -> None:
    panel.reveal()
    start_here.set_theme(theme)
    panel.root.scroll_into_view_if_needed()
    panel.root.screenshot(path=pictures / f"00_panel_{theme.lower()}.png")
    assert panel.violations() == []


def test_the_machine_is_described_in_words(start_here: LabPage) -> None:
    expect(start_here.page.get_by_text("Vector instructions:").first).to_be_visible()


def test_nothing_came_from_outside_and_nothing_broke(start_here: LabPage) -> None:
    assert start_here.outside == []
    assert start_here.errors == []
