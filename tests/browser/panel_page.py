"""Words for what a learner does with a panel on the page."""

import ast
import contextlib
import re
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from lab_page import LabPage
from playwright.sync_api import Locator, expect


class PanelOnPage:
    """A panel of a lesson, as a learner meets it."""

    def __init__(self, lab: LabPage, name: str) -> None:
        self.lab = lab
        self.page = lab.page
        self.name = name
        self.root = lab.page.get_by_role("region", name=name, exact=True)

    def reveal(self) -> None:
        """Have the curves shown, if the panel still asks for a guess."""
        with contextlib.suppress(AssertionError):
            expect(self.root.locator("form")).to_be_visible(timeout=2000)
            self.root.get_by_role("button", name="Show me").click()
        expect(self.root.locator(".im-cards")).to_be_visible()

    def slider(self, name: str) -> Locator:
        return self.root.get_by_role("slider", name=name)

    def steady_box(self, name: str) -> dict[str, float]:
        """Scroll to a slider and return its place on the page once nothing moves any more."""
        last, box = None, None
        while box is None or box != last:
            self.slider(name).scroll_into_view_if_needed()
            self.page.wait_for_timeout(300)
            last, box = box, self.slider(name).bounding_box()
        return dict(box)

    def cards(self) -> list[tuple[str, str, str]]:
        """Return title, value and note of each card, read off the page."""
        found = []
        for card in self.root.locator(".im-card").all():
            title, value, note = card.locator("div").all_text_contents()
            found.append((title, value, note))
        return found

    def asked_of_python(self) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
        """Run the last cell, which prints settings and cards as the kernel knows them."""
        cell = self.page.locator(".jp-CodeCell").last
        before = cell.locator(".jp-InputPrompt").text_content()
        cell.locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"))
        self.lab.wait_idle(30)
        told = ast.literal_eval(cell.locator(".jp-OutputArea-output pre").text_content())
        setting, cards = told[self.name]
        return setting, cards

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong with the course's widgets on the page."""
        results = Axe().run(self.page, context={"include": [[".im-panel"]]})
        return [
            f"{violation['id']}: {node['html']}"
            for violation in results.response["violations"]
            for node in violation["nodes"]
        ]
