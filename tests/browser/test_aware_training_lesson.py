"""Lesson 03 as a learner meets it: three panels, with bars in one and a histogram in another."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bars_page import BarsOnPage
from lab_page import LabPage
from panel_page import PanelOnPage
from playwright.sync_api import expect
from quiz_page import expect_quiz_to_answer

from course_utils.gradients import FORMATS

pytestmark = pytest.mark.browser

LESSON = "03_quantization_aware_training"
TRAINED, MIXED, GRADIENTS = "Trained for few bits", "Mixed widths", "Gradients in few bits"
SLIDERS = {TRAINED: "bits", MIXED: "kibibytes", GRADIENTS: "doublings of the loss"}
LAST = {TRAINED: 32, MIXED: 96, GRADIENTS: 32}
CHOICES = {
    TRAINED: ["rounded after training", "trained for it"],
    MIXED: ["one for all", "one, 8 at the ends", "one for each layer"],
    GRADIENTS: ["fp16", "bf16", "fp8 E4M3", "fp8 E5M2"],
}
EACH_PANEL = pytest.mark.parametrize("name", SLIDERS)

SIZES = (1e-14, 1e10)  # the ends of the histogram's axis
SHAPES = """node => ["im-bars", "im-clipped"].map((name) =>
  node.querySelector("." + name).getAttribute("d"))"""


class HistogramOnPage(PanelOnPage):
    """A panel with a histogram beside its curves."""

    def histogram(self) -> tuple[str, list[float], list[tuple[float, float]]]:
        """Return its title, the height of each bar, and what is shaded in parts of the axis."""
        picture = self.root.locator("svg").last
        bars, shaded = picture.evaluate(SHAPES)
        corners = np.array(re.findall(r"M([\d.]+),([\d.]+)V([\d.]+)", bars), float)
        left, bottom, top = corners.T
        width = (left[-1] - left[0]) * len(left) / (len(left) - 1)
        parts = np.array(re.findall(r"M([\d.]+),[\d.]+V[\d.]+H([\d.]+)", shaded), float)
        ends = (parts.reshape(-1, 2) - left[0]) / width
        title = picture.locator(".im-title").text_content()
        return title, list(bottom - top), [tuple(pair) for pair in ends.tolist()]


def show(lesson: LabPage, name: str, choice: str, steps: int) -> PanelOnPage:
    """Move a panel to a choice, and its slider some steps from the start."""
    panel = PanelOnPage(lesson, name)
    panel.move(SLIDERS[name], steps, choice)
    return panel


@pytest.mark.parametrize(
    ("name", "asked", "setting"),
    [
        (TRAINED, "accuracy", {"bits": 2, "how": "trained for it"}),
        (MIXED, "accuracy", {"kibibytes": 52, "widths": "one for each layer"}),
        (GRADIENTS, "subnormal", {"doublings of the loss": 12, "format": "fp16"}),
    ],
    ids=SLIDERS,
)
def test_a_guess_is_told_beside_what_was_measured(
    aware_training: LabPage, name: str, asked: str, setting: dict[str, Any]
) -> None:
    panel = PanelOnPage(aware_training, name)
    told, outcome = panel.guess(asked)
    assert told == "51 %"
    in_python, cards = panel.asked_of_python()
    assert in_python == setting
    measured = next(value for title, value, _ in cards if title == asked)
    expect(outcome).to_contain_text(f"you predicted {told}; measured: {asked} {measured}")


@EACH_PANEL
def test_a_drag_needs_no_python_and_shows_what_it_knows(aware_training: LabPage, name: str) -> None:
    panel = PanelOnPage(aware_training, name)
    panel.reveal()
    seen, known = panel.drag_over_domain(SLIDERS[name])
    assert seen == known
    assert len(seen) == len(CHOICES[name])
    assert all(len(set(map(tuple, drag))) > len(drag) / 2 for drag in seen)  # the knob changes them
    setting, cards = panel.asked_of_python()
    assert list(setting.values()) == [LAST[name], CHOICES[name][-1]]
    assert cards == seen[-1][-1]


def test_the_bars_are_the_widths_that_fit_into_the_budget(aware_training: LabPage) -> None:
    mixed = BarsOnPage(aware_training, MIXED)
    mixed.reveal()
    all_cards, pictures = mixed.known_to_python()
    kinds = {}
    for place, choice in enumerate(CHOICES[MIXED]):
        mixed.root.get_by_role("radio", name=choice, exact=True).check()
        seen = mixed.drag_without_python("kibibytes", mixed.bars)
        told = [words for _, words in pictures[place :: len(CHOICES[MIXED])]]
        assert [{layer: bits for layer, bits, _ in bars} for bars in seen] == told
        drawn = {(int(bits), round(pixels)) for bars in seen for _, bits, pixels in bars}
        by_bits = dict(drawn)
        assert len(by_bits) == len(drawn)  # as many bits, as long a bar
        assert [by_bits[bits] for bits in sorted(by_bits)] == sorted(by_bits.values())
        kinds[choice] = [len(set(words.values())) for words in told]
    assert set(kinds["one for all"]) == {1}
    assert set(kinds["one, 8 at the ends"]) == {1, 2}
    assert max(kinds["one for each layer"]) > 1
    assert mixed.rows() == told[-1]
    mixed.root.get_by_text("The bars as a table").click()  # closes it
    for (title, _), cards in zip(pictures, all_cards, strict=True):
        budget = float(re.search(r"(\d+) KiB", title)[1])
        size = next(value for name, value, _ in cards if name.startswith("size"))
        assert float(size.removesuffix(" KiB")) <= budget


def test_the_histogram_moves_with_the_loss_and_is_shaded_by_format(aware_training: LabPage) -> None:
    panel = HistogramOnPage(aware_training, GRADIENTS)
    panel.reveal()
    low, high = np.log10(SIZES)
    heights_of = {}
    for choice in CHOICES[GRADIENTS]:
        panel.root.get_by_role("radio", name=choice, exact=True).check()
        titles, heights, shaded = zip(
            *panel.drag_without_python("doublings of the loss", panel.histogram), strict=True
        )
        assert len(set(titles)) == len(titles) == 9
        centres = [np.average(np.arange(60), weights=height) for height in heights]
        assert centres == sorted(set(centres))  # to the right, at every step
        heights_of[choice] = heights
        limits = np.array([FORMATS[choice].smallest_normal, FORMATS[choice].largest])
        first, last = np.clip((np.log10(limits) - low) / (high - low), 0, 1)
        outside = [(start, end) for start, end in ((0, first), (last, 1)) if end > start]
        for parts in shaded:
            assert np.allclose(np.reshape(parts, -1), np.reshape(outside, -1), atol=0.005)
    first, *others = heights_of.values()
    assert all(heights == first for heights in others)  # the same gradients, in all formats


def test_gradients_are_counted_again(aware_training: LabPage) -> None:
    panel = show(aware_training, GRADIENTS, "bf16", 0)
    status = panel.measure_again()
    for metric in ("underflow", "subnormal", "overflow"):
        expect(status).to_contain_text(metric)
    assert panel.root.locator(".im-fresh").count() == 3


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("straight_through_gradient", "steps >= low", "steps > low", "exactly on a limit gets no"),
        ("fold_batch_norm", "variance + eps", "variance", "as if eps were 0"),
        ("choose_widths", "min((layer for", "max((layer for", "the layer that suffers most"),
    ],
    ids=["straight_through_gradient", "fold_batch_norm", "choose_widths"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    aware_training: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    aware_training.answer_wrongly_then_rightly(LESSON, name, right, wrong, hint)


def test_the_quiz_answers_every_pick(aware_training: LabPage, pictures: Path) -> None:
    wrong = "Because rounding has no gradient", "It has none inside the range either"
    right = "moving it a little", "stays at the end of the range"
    expect_quiz_to_answer(
        aware_training, "Quantization-aware training", wrong, right, pictures / "03_quiz.png"
    )


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(aware_training: LabPage, pictures: Path, theme: str) -> None:
    aware_training.set_theme(theme)
    shown = [
        (TRAINED, "trained for it", 0),
        (MIXED, "one for each layer", 4),
        (GRADIENTS, "fp16", 0),
    ]
    for number, where in enumerate(shown, start=1):
        panel = show(aware_training, *where)
        panel.photograph(pictures / f"03_lab{number}_{theme.lower()}.png")
    assert panel.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
@EACH_PANEL
def test_every_text_is_readable_and_nothing_is_cut_off(
    aware_training: LabPage, pictures: Path, name: str, width: int
) -> None:
    panel = show(aware_training, name, CHOICES[name][-1], 1)
    picture = pictures / f"03_lab{[*SLIDERS].index(name) + 1}_{width}px.png"
    assert panel.unreadable_at(width, picture) == []


def test_nothing_came_from_outside_and_nothing_broke(aware_training: LabPage) -> None:
    assert aware_training.outside == []
    assert aware_training.errors == []
