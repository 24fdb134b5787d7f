"""Words for what a learner does with a panel on the page."""

import ast
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from lab_page import LabPage
from playwright.sync_api import Locator, expect

from course_utils.measure.timing_lock import PATIENCE_S

Cards = list[tuple[str, str, str]]  # title, value and note of each
Seen = TypeVar("Seen")

READ_BOXES = """(node, tags) => {
  const box = (part) => {
    const {left, right, top, bottom} = part.getBoundingClientRect();
    return {left, right, top, bottom, middle: (top + bottom) / 2, text: part.textContent};
  };
  return [box(node), ...tags.map((tag) => [...node.querySelectorAll(tag)].map(box))];
}"""  # at once, since a page may move between two reads
READ_KNOBS = """node => {
  const knobs = [...node.querySelectorAll("fieldset.im-knob, .im-knob:has(select)")];
  const name = (knob) => knob.querySelector("legend, label").textContent;
  const values = (knob) => [...knob.querySelectorAll("label:has(input), option")];
  return knobs.map((knob) => [name(knob), values(knob).map((value) => value.textContent)]);
}"""
LEAST_LETTER = 10  # pixels from the top of a line of text to its bottom
AFTER_TWO_FRAMES = """() => new Promise((go) =>
  requestAnimationFrame(() => requestAnimationFrame(go)))"""
MOST_ASKED = 5  # times, until the kernel and the page agree
NONE = "–"  # instead of a value that is not there
MOST_PRESSES = 200  # from the middle of the slider of a guess to its end, at least
MEASURING_MS = 1000 * (PATIENCE_S + 60)  # it may wait until others have measured
MOVES = 6  # of the mouse from one stop of a slider to the next


def to_number(told: str) -> float:
    """Return the number at the beginning of a readout; NaN where there is none."""
    if told.startswith("<"):
        return 0.0  # what it would be rounded to
    return math.nan if told == NONE else float(told.split(" ")[0].replace(",", ""))


class PanelOnPage:
    """A panel of a lesson, as a learner meets it."""

    def __init__(self, lab: LabPage, name: str) -> None:
        self.lab = lab
        self.page = lab.page
        self.name = name
        self.root = lab.page.get_by_role("region", name=name, exact=True)

    def reveal(self) -> None:
        """Have the curves shown, if the panel still asks for a guess."""
        expect(self.root.locator("form, .im-cards")).to_be_visible()
        if self.root.locator("form").count():
            self.root.get_by_role("button", name="Show me").click()
        expect(self.root.locator(".im-cards")).to_be_visible()

    def slider(self, name: str) -> Locator:
        return self.root.get_by_role("slider", name=name)

    def move(self, name: str, steps: int, choice: str | None = None) -> None:
        """Have the curves shown, take a choice, and a slider some steps from its start."""
        self.reveal()
        if choice is not None:
            self.root.get_by_role("radio", name=choice, exact=True).check()
        self.slider(name).focus()
        for key in ("Home", *["ArrowRight"] * steps):
            self.page.keyboard.press(key)

    def others(self) -> dict[str, list[str]]:
        """Return the values of each choice and each menu, by its name, in the panel's order."""
        return dict(self.root.evaluate(READ_KNOBS))

    def take(self, knob: str, value: str) -> None:
        """Take a value of a choice or of a menu, by keyboard."""
        values = self.others()[knob]
        place = values.index(value)
        menu = self.root.get_by_role("combobox", name=knob, exact=True)
        if menu.count():
            menu.focus()
            keys = ["Home", *["ArrowDown"] * place]
        else:
            radios = self.root.get_by_role("group", name=knob, exact=True).get_by_role("radio")
            checked = next(n for n, radio in enumerate(radios.all()) if radio.is_checked())
            radios.nth(checked).focus()
            keys = ["ArrowDown"] * ((place - checked) % len(values))
        for key in keys:
            self.page.keyboard.press(key)
        if menu.count():
            expect(menu).to_have_value(value)
        else:
            expect(radios.nth(place)).to_be_checked()

    def guess(self, *asked: str, near: float | None = None) -> tuple[str, Locator]:
        """Guess by keyboard; nothing may be shown before.

        Args:
            asked: What the panel asks for, in its order.
            near: Each slider goes a step past this value; None: a step above the middle.

        Returns:
            What was guessed, in the page's words, and what the panel says to it.
        """
        expect(self.root.locator("form")).to_be_visible()
        expect(self.root.locator("svg, .im-card")).to_have_count(0)
        commit = self.root.get_by_role("button", name="Commit my guess")
        self.slider(asked[0]).focus()
        told = []
        for metric in asked:
            expect(self.slider(metric)).to_be_focused()
            expect(commit).to_be_disabled()  # a guess is a decision, not a default
            told.append(self._pass(metric, near))
            self.page.keyboard.press("Tab")
        expect(commit).to_be_focused()
        self.page.keyboard.press("Enter")
        expect(self.root.locator(".im-guess")).to_have_count(len(asked))  # a cross on each curve
        return " and ".join(told), self.root.locator(".im-outcome")

    def _pass(self, metric: str, value: float | None) -> str:
        """Press an arrow on the slider of a guess until it passed a value; return its words."""
        slider = self.slider(metric)
        told = slider.get_attribute("aria-valuetext") or ""
        goes_up = value is None or to_number(told) < value
        for _ in range(1 if value is None else MOST_PRESSES):
            self.page.keyboard.press("ArrowRight" if goes_up else "ArrowLeft")
            told = slider.get_attribute("aria-valuetext") or ""
            if value is not None and (to_number(told) < value) != goes_up:
                break
        return told

    def steady_box(self, part: Locator) -> dict[str, float]:
        """Scroll to a part and return its place on the page once nothing moves any more."""
        last, box = None, None
        while box is None or box != last:
            part.scroll_into_view_if_needed()
            self.page.wait_for_timeout(300)
            self.page.evaluate(AFTER_TWO_FRAMES)
            last, box = box, part.bounding_box()
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

    def drag_by_mouse(self, name: str, look: Callable[[], Seen]) -> list[Seen]:
        """Take a slider by mouse from its start to its end while all kernels are held still.

        Returns:
            What ``look`` returned on the way, each time that it was something else than before.
        """
        moves = MOVES * int(self.slider(name).get_attribute("max") or 0)
        box = self.steady_box(self.slider(name))
        left, width, middle = box["x"] + 2, box["width"] - 4, box["y"] + box["height"] / 2
        self.page.mouse.move(left, middle)
        seen = []
        with self.lab.server.paused():
            self.page.mouse.down()
            for move in range(moves + 1):
                self.page.mouse.move(left + width * move / moves, middle)
                seen.append(look())
            self.page.mouse.up()
        return [one for one, _ in itertools.groupby(seen)]

    def throw_by_mouse(self, name: str, to_start: bool = False) -> None:
        """Take a slider by mouse from one end to the other without a stop in between."""
        box = self.steady_box(self.slider(name))
        middle = box["y"] + box["height"] / 2
        ends = [box["x"] + 2, box["x"] + box["width"] - 2]
        first, last = reversed(ends) if to_start else ends
        self.page.mouse.move(first, middle)
        self.page.mouse.down()
        self.page.mouse.move(last, middle, steps=20)
        self.page.mouse.up()

    def drag_each_choice(self, name: str, look: Callable[[], Seen]) -> list[list[Seen]]:
        """Drag a slider without Python once for each choice, which is taken by keyboard too.

        Returns:
            For each choice what ``look`` returned at each step; without a choice there is one drag.
        """
        choices = self.root.get_by_role("radio").all()
        for first in choices[:1]:
            first.check()
        seen = [self.drag_without_python(name, look)]
        for chosen in choices[:-1]:
            chosen.focus()
            self.page.keyboard.press("ArrowDown")
            seen.append(self.drag_without_python(name, look))
        return seen

    def drag_over_domain(self, name: str) -> tuple[list[list[Cards]], list[list[Cards]]]:
        """Return the cards of each step of each drag: on the page, and as the kernel knows them."""
        all_cards, _ = self.known_to_python()
        seen = self.drag_each_choice(name, self.cards)
        return seen, [all_cards[place :: len(seen)] for place in range(len(seen))]

    def ask_to_measure_again(self) -> None:
        """Press the button by keyboard."""
        self.root.get_by_role("button", name="Measure this point again").focus()
        self.page.keyboard.press("Enter")

    def measure_again(self) -> Locator:
        """Have the chosen point measured again; return what the panel says when it is done."""
        self.ask_to_measure_again()
        return self.measured_again()

    def measured_again(self) -> Locator:
        """Wait until a point was measured again; return what the panel says."""
        status = self.root.locator(".im-buttons [role=status]")
        expect(status).to_contain_text("Measured again at", timeout=MEASURING_MS)
        return status

    def cards(self) -> Cards:
        """Return title, value and note of each card, read off the page."""
        found = []
        for card in self.root.locator(".im-card").all():
            title, value, note = card.locator("div").all_text_contents()
            found.append((title, value, note))
        return found

    def asked_of_python(self) -> tuple[dict[str, Any], Cards]:
        """Return the setting and the cards as the kernel knows them after the last change."""
        for _ in range(MOST_ASKED):  # the page's messages may be read after the cell was run
            setting, cards, *_ = self._told_by_python()
            if cards == self.cards():
                break
        return setting, cards

    def known_to_python(self) -> tuple[list[Cards], list[tuple[str, dict[str, str]]]]:
        """Return the cards of all points, and the title and the words of all pictures."""
        _, _, all_cards, pictures, _ = self._ask_python()
        return all_cards, pictures

    def right_guess(self, metric: str) -> float:
        """Return what the kernel knows of a metric that the panel asks for."""
        *_, right = self._ask_python()
        return float(right[metric])

    def _told_by_python(self) -> tuple[Any, ...]:
        """Return what the kernel knows of the panel after the last change on the page."""
        before, told = None, self._ask_python()
        for _ in range(MOST_ASKED):  # of quick changes the last is sent when the first is answered
            if before == told:
                break
            before, told = told, self._ask_python()
        return told

    def _ask_python(self) -> tuple[Any, ...]:
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

    def photograph(self, picture: Path) -> None:
        """Keep a picture of the panel."""
        self.root.scroll_into_view_if_needed()
        self.root.screenshot(path=picture)

    def unreadable_at(self, width: int, picture: Path) -> list[str]:
        """Return what is tiny, cut off or covered in a page so many pixels wide; keep a picture."""
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": width, "height": 1400})
        try:
            self.photograph(picture)
            found = self.unreadable_texts()
            if not self.root.evaluate("node => node.scrollWidth <= node.clientWidth + 1"):
                found.append("the panel is cut off")
        finally:
            self.page.set_viewport_size(size or {"width": 1280, "height": 1400})
        return found

    def unreadable_texts(self) -> list[str]:
        """Return the texts in charts and pictures that are tiny, cut off or on top of another."""
        found = []
        for picture in self.root.locator("svg").all():
            frame, found_texts = picture.evaluate(READ_BOXES, ["text"])
            texts = [text for text in found_texts if text["text"]]
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
