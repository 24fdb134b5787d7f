"""Words for what a learner does with a model in the page."""

import re
import time

import numpy as np
from lab_page import PATIENCE_MS
from panel_page import PanelOnPage, to_number
from playwright.sync_api import Locator, expect

from course_utils.lab import BrowserModel

Line = tuple[float, float, float, float]  # from and to, in shares of the easel

SIDE = 28  # pixels
NEAR = {"fp32": 1e-4, "int8": 0.02}  # a byte of int8 may be rounded apart
READ_PIXELS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [...data].filter((_, n) => n % 4 === 0);
}"""
READ_BARS = """node => [...node.querySelectorAll("tbody tr")].map((row) =>
  [...row.querySelectorAll(".im-sign")].map((bar) => parseFloat(bar.style.width) / 100))"""
READ_MARKS = """node => [...node.querySelectorAll("tbody tr")].map((row) =>
  [...row.cells].slice(1).map((cell) => cell.className === "im-top"))"""


class ModelOnPage(PanelOnPage):
    """Networks in the page: an easel, a strip of images, and what is said to them."""

    @property
    def easel(self) -> Locator:
        return self.root.get_by_role("application")

    def image(self, place: int) -> Locator:
        return self.root.get_by_role("radio").nth(place)

    def pixels(self) -> np.ndarray:
        """Return what is on the easel, as Python would give it to a network."""
        grey = np.array(self.easel.evaluate(READ_PIXELS), np.float32)
        return grey.reshape(1, 1, SIDE, SIDE) / np.float32(255)

    def bars(self) -> np.ndarray:
        """Return the shares of all classes (classes, networks), from the lengths of the bars."""
        return np.array(self.root.evaluate(READ_BARS))

    def expect_what_python_says(self, widget: BrowserModel) -> None:
        """Wait until the bars, numbers and marks are those of Python for what is on the easel."""
        answers = widget.answers_of(self.pixels())
        near = [NEAR[name] for name in answers]
        in_python = np.stack([shares[0] for shares in answers.values()], 1)
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self._is_near(in_python, near):
            assert time.monotonic() < deadline, f"{self.bars()} is not {in_python}"

    def _is_near(self, in_python: np.ndarray, near: list[float]) -> bool:
        bars, marks = self.bars(), np.array(self.root.evaluate(READ_MARKS))
        texts = self.root.locator("tbody .im-share").all_text_contents()
        numbers = np.reshape([to_number(text) for text in texts], bars.shape)
        return bool(
            (np.abs(bars - in_python).max(0) < near).all()
            and (bars.argmax(0) == in_python.argmax(0)).all()
            and (marks.argmax(0) == bars.argmax(0)).all()
            and np.abs(numbers - 100 * bars).max() <= 0.0501
        )

    def draw(self, *lines: Line) -> None:
        """Draw lines with the mouse."""
        box = self.steady_box(self.easel)
        for x0, y0, x1, y1 in lines:
            self.page.mouse.move(box["x"] + x0 * box["width"], box["y"] + y0 * box["height"])
            self.page.mouse.down()
            end = box["x"] + x1 * box["width"], box["y"] + y1 * box["height"]
            self.page.mouse.move(*end, steps=5)
            self.page.mouse.up()

    def set_slider(self, name: str, value: int) -> None:
        self.slider(name).fill(str(value))

    def count(self) -> Locator:
        """Have all images classified in the page; return the paragraph that says what was found."""
        button = self.root.get_by_role("button", name=re.compile(r"Count .* 500 images"))
        button.click()
        expect(button).to_have_attribute("aria-disabled", "false", timeout=60_000)
        return self.root.get_by_text("Counted in this page")
