"""Lesson 03 as a learner meets it: three panels, with bars in one and a histogram in another."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_page import LabPage, read_solution
from panel_page import BarsOnPage, PanelOnPage
from playwright.sync_api import expect

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
    panel.reveal()
    panel.root.get_by_role("radio", name=choice, exact=True).check()
    panel.slider(SLIDERS[name]).focus()
    for key in ("Home", *["ArrowRight"] * steps):
        panel.page.keyboard.press(key)
    return panel


@pytest.mark.parametrize(
    ("name", "asked", "card", "setting"),
    [
        (TRAINED, "accuracy", "accuracy", {"bits": 2, "how": "trained for it"}),
        (MIXED, "accuracy", "accuracy", {"kibibytes": 52, "widths": "one for each layer"}),
        (GRADIENTS, "subnormal", "subnormal", {"doublings of the loss": 12, "format": "fp16"}),
    ],
    ids=SLIDERS,
)
def test_a_guess_is_told_beside_what_was_measured(
    aware_training: LabPage, name: str, asked: str, card: str, setting: dict[str, Any]
) -> None:
    panel = PanelOnPage(aware_training, name)
    expect(panel.root.locator("form")).to_be_visible()
    assert panel.root.locator("svg, .im-card").count() == 0  # nothing is shown before the guess
    commit = panel.root.get_by_role("button", name="Commit my guess")
    expect(commit).to_be_disabled()
    panel.slider(asked).focus()
    panel.page.keyboard.press("ArrowRight")
    panel.page.keyboard.press("Tab")
    expect(commit).to_be_focused()
    panel.page.keyboard.press("Enter")
    outcome = panel.root.locator(".im-outcome")
    in_python, cards = panel.asked_of_python()
    assert in_python == setting
    measured = next(value for title, value, _ in cards if title == card)
    expect(outcome).to_contain_text(f"you predicted 51 %; measured: {asked} {measured}")
    assert panel.root.locator(".im-guess").count() == 1


@EACH_PANEL
def test_a_drag_needs_no_python_and_shows_what_it_knows(aware_training: LabPage, name: str) -> None:
    panel = PanelOnPage(aware_training, name)
    panel.reveal()
    choices = CHOICES[name]
    all_cards, _ = panel.known_to_python()
    panel.root.get_by_role("radio").first.check()
    for place, choice in enumerate(choices):
        seen = panel.drag_without_python(SLIDERS[name], panel.cards)
        assert seen == all_cards[place :: len(choices)]
        assert len(set(map(tuple, seen))) > len(seen) / 2  # they change with the knob
        if choice != choices[-1]:
            panel.root.get_by_role("radio", name=choice, exact=True).focus()
            panel.page.keyboard.press("ArrowDown")
    panel.asked_of_python()  # the page sends its last step when the first one was answered
    setting, cards = panel.asked_of_python()
    assert list(setting.values()) == [LAST[name], choices[-1]]
    assert cards == seen[-1]


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
    panel.root.get_by_role("button", name="Measure this point again").click()
    status = panel.root.locator(".im-buttons [role=status]")
    expect(status).to_contain_text("Measured again at", timeout=60_000)
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
    solution = read_solution(LESSON, name)
    assert right in solution
    expect(aware_training.answer(solution.replace(right, wrong))).to_contain_text(hint)
    expect(aware_training.answer(solution)).to_contain_text("right on all")


def test_the_quiz_answers_every_pick(aware_training: LabPage, pictures: Path) -> None:
    quiz = aware_training.page.get_by_role("region", name="Quantization-aware training")
    questions = quiz.locator("fieldset").all()
    assert len(questions) == 5
    for question in questions:
        answers = {}
        for answer in question.get_by_role("radio").all():
            answer.check()
            said = question.locator("[role=status]")
            answers[said.text_content()] = said.get_attribute("class")
        assert len(answers) == 3
        assert sorted(answers.values()) == ["im-right", "im-wrong", "im-wrong"]
    questions[0].get_by_role("radio", name="Because rounding has no gradient").check()
    expect(questions[0].locator(".im-wrong")).to_contain_text("It has none inside the range either")
    questions[0].get_by_role("radio", name="moving it a little").check()
    expect(questions[0].locator(".im-right")).to_contain_text("stays at the end of the range")
    quiz.screenshot(path=pictures / "03_quiz.png")


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(aware_training: LabPage, pictures: Path, theme: str) -> None:
    aware_training.set_theme(theme)
    shown = [
        (TRAINED, "trained for it", 0),
        (MIXED, "one for each layer", 4),
        (GRADIENTS, "fp16", 0),
    ]
    for number, where in enumerate(shown):
        panel = show(aware_training, *where)
        panel.root.scroll_into_view_if_needed()
        panel.root.screenshot(path=pictures / f"03_lab{number + 1}_{theme.lower()}.png")
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
