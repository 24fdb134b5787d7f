"""Words for what a learner does with a panel on the page."""

import ast
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from lab_page import LabPage
from playwright.sync_api import Locator, expect

Cards = list[tuple[str, str, str]]  # title, value and note of each
Seen = TypeVar("Seen")

READ_BOXES = """(node, tag) => [...node.querySelectorAll(tag)].map((part) => {
  const {left, right, top, bottom} = part.getBoundingClientRect();
  return {left, right, top, bottom, middle: (top + bottom) / 2, text: part.textContent};
})"""
READ_FRAME = "node => node.getBoundingClientRect().toJSON()"
LEAST_LETTER = 10  # pixels from the top of a line of text to its bottom


class PanelOnPage:
    """A panel of a lesson, as a learner meets it."""

    def __init__(self, lab: LabPage, name: str) -> None:
        self.lab = lab
        self.page = lab.page
        self.name = name
        self.root = lab.page.get_by_role("region", name=name, exact=True)

    def reveal(self) -> None:
        """Have the curves shown, if the panel still asks for a guess."""
        expect(self.root.locator("form, .im-cards")).to_be_visible(timeout=10_000)
        if self.root.locator("form").count():
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

    def drag_without_python(self, name: str, look: Callable[[], Seen]) -> list[Seen]:
        """Take a slider by keyboard from its start to its end while all kernels are held still.

        Returns:
            What ``look`` returned at each step.
        """
        slider = self.slider(name)
        steps = int(slider.get_attribute("max") or 0)
        slider.focus()
        seen = []
        with self.lab.server.paused():
            for key in ("Home", *["ArrowRight"] * steps):
                self.page.keyboard.press(key)
                seen.append(look())
        return seen

    def cards(self) -> Cards:
        """Return title, value and note of each card, read off the page."""
        found = []
        for card in self.root.locator(".im-card").all():
            title, value, note = card.locator("div").all_text_contents()
            found.append((title, value, note))
        return found

    def asked_of_python(self) -> tuple[dict[str, Any], Cards]:
        """Return the setting and the cards as the kernel knows them."""
        setting, cards, *_ = self._told_by_python()
        return setting, cards

    def known_to_python(self) -> tuple[list[Cards], list[tuple[str, dict[str, str]]]]:
        """Return the cards of all points, and the title and the words of all pictures."""
        _, _, all_cards, pictures = self._told_by_python()
        return all_cards, pictures

    def _told_by_python(self) -> tuple[Any, ...]:
        """Run the last cell, which prints what the kernel knows of each panel."""
        cell = self.page.locator(".jp-CodeCell").last
        before = cell.locator(".jp-InputPrompt").text_content()
        cell.locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"))
        self.lab.wait_idle(30)
        told = ast.literal_eval(cell.locator(".jp-OutputArea-output pre").text_content())
        return tuple(told[self.name])

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong with the course's widgets on the page."""
        results = Axe().run(self.page, context={"include": [[".im-panel"]]})
        return [
            f"{violation['id']}: {node['html']}"
            for violation in results.response["violations"]
            for node in violation["nodes"]
        ]

    def unreadable_at(self, width: int, picture: Path) -> list[str]:
        """Return what is tiny, cut off or covered in a page so many pixels wide; keep a picture."""
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": width, "height": 1400})
        self.root.scroll_into_view_if_needed()
        found = self.unreadable_texts()
        if not self.root.evaluate("node => node.scrollWidth <= node.clientWidth + 1"):
            found.append("the panel is cut off")
        self.root.screenshot(path=picture)
        self.page.set_viewport_size(size or {"width": 1280, "height": 1400})
        return found

    def unreadable_texts(self) -> list[str]:
        """Return the texts in charts and pictures that are tiny, cut off or on top of another."""
        found = []
        for picture in self.root.locator("svg").all():
            frame = picture.evaluate(READ_FRAME)
            texts = [text for text in picture.evaluate(READ_BOXES, "text") if text["text"]]
            for text in texts:
                if text["bottom"] - text["top"] < LEAST_LETTER:
                    found.append(f"{text['text']!r} is too small")
                if text["left"] < frame["left"] or text["right"] > frame["right"]:
                    found.append(f"{text['text']!r} is cut off")
            for one, other in itertools.combinations(texts, 2):
                is_beside = one["right"] <= other["left"] + 1 or other["right"] <= one["left"] + 1
                is_below = one["bottom"] <= other["top"] + 3 or other["bottom"] <= one["top"] + 3
                if not (is_beside or is_below):
                    found.append(f"{one['text']!r} and {other['text']!r} overlap")
        return found


class BarsOnPage(PanelOnPage):
    """A panel with named bars beside its curves."""

    @property
    def picture(self) -> Locator:
        return self.root.locator("svg").last

    def bars(self) -> list[tuple[str, str, float]]:
        """Return name, value and length in pixels of each bar, from top to bottom."""
        bars, texts = (self.picture.evaluate(READ_BOXES, tag) for tag in ("rect", "text"))
        found = []
        for bar in sorted(bars, key=lambda bar: bar["middle"]):
            level = [text for text in texts if abs(text["middle"] - bar["middle"]) <= 3]
            name, value = sorted(level, key=lambda text: text["left"])
            found.append((name["text"], value["text"], bar["right"] - bar["left"]))
        return found

    def rows(self) -> dict[str, str]:
        """Return the table beside the bars."""
        self.root.get_by_text("The bars as a table").evaluate("node => node.parentNode.open = true")
        table = self.root.locator("details").last.locator("tbody")
        names, values = (table.locator(cell).all_text_contents() for cell in ("th", "td"))
        return dict(zip(names, values, strict=True))
