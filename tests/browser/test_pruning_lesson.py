"""Lesson 04 as a learner meets it: zeros in two runtimes, channels as bars, a level line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from bars_page import BarsOnPage
from lab_page import LabPage
from panel_page import PanelOnPage
from playwright.sync_api import expect
from quiz_page import expect_quiz_to_answer

from course_utils import verified

pytestmark = pytest.mark.browser

LESSON = "04_pruning"
ZEROS, CHANNELS, LANGUAGE = "Zeros", "Channels", "A language model"
DENSE, SPARSE = "dense runtime", "sparse kernel"
AS_THEY_COME, BY_EIGHT = "as they come", "multiples of 8"
SLIDERS = {ZEROS: "% of zeros", CHANNELS: "% of channels", LANGUAGE: "% of zeros"}
LAST = {  # after a drag to the end for each choice
    ZEROS: {"% of zeros": 99, "run by": SPARSE},
    CHANNELS: {"% of channels": 100, "counts": BY_EIGHT},
    LANGUAGE: {"% of zeros": 90},
}
EACH_PANEL = pytest.mark.parametrize("name", SLIDERS)

LAYERS = [
    "stem", "block1.conv1", "block2.conv1", "block2.conv2", "block3.conv1", "block3.conv2",
]  # fmt: skip
STAGES = {  # %: channels of the three stages, as they come and in multiples of 8
    20: [(6, 13, 26), (8, 16, 24)],
    25: [(8, 16, 32), (8, 16, 32)],
    40: [(13, 26, 51), (16, 24, 48)],
    50: [(16, 32, 64), (16, 32, 64)],
    60: [(19, 38, 77), (16, 40, 80)],
    100: [(32, 64, 128), (32, 64, 128)],
}


def show(lesson: LabPage, name: str, choice: str | None, steps: int) -> PanelOnPage:
    panel = PanelOnPage(lesson, name)
    panel.move(SLIDERS[name], steps, choice)
    return panel


def test_a_guessed_latency_is_told_beside_what_was_measured(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, ZEROS)
    told, outcome = panel.guess("latency")
    assert re.fullmatch(r"[\d,]+(\.\d+)? ms", told)
    setting, cards = panel.asked_of_python()
    assert setting == {"% of zeros": 90, "run by": SPARSE}
    _, measured, note = next(card for card in cards if card[0] == "latency of one image")
    speed = note.split("; ")[-1]
    expect(outcome).to_contain_text(f"you predicted {told}; measured: latency {measured} ({speed})")


def test_a_guess_of_two_metrics_is_told_beside_what_was_measured(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, CHANNELS)
    told, outcome = panel.guess("accuracy", "speed")
    assert re.fullmatch(r"51 % and [\d,]+(\.\d+)? ×", told)
    setting, cards = panel.asked_of_python()
    assert setting == {"% of channels": 50, "counts": BY_EIGHT}
    noted = {title: (value, note) for title, value, note in cards}
    accuracy, _ = noted["accuracy"]
    _, latency_note = noted["latency of one image"]
    speed = re.search(r"([\d.]+)× as fast", latency_note)[1]
    measured = f"accuracy {accuracy} and speed {speed} ×"
    expect(outcome).to_contain_text(f"you predicted {told}; measured: {measured}")


def test_a_guess_about_the_language_model_is_told_too(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, LANGUAGE)
    told, outcome = panel.guess("accuracy")
    setting, cards = panel.asked_of_python()
    assert setting == {"% of zeros": 80}
    measured = next(value for title, value, _ in cards if title == "accuracy")
    expect(outcome).to_contain_text(f"you predicted 51 %; measured: accuracy {measured}")
    assert told == "51 %"


@EACH_PANEL
def test_a_drag_needs_no_python_and_shows_what_it_knows(pruning: LabPage, name: str) -> None:
    panel = PanelOnPage(pruning, name)
    panel.reveal()
    seen, known = panel.drag_over_domain(SLIDERS[name])
    assert seen == known
    assert len(seen) == (1 if name == LANGUAGE else 2)
    assert all(len(set(map(tuple, drag))) > len(drag) / 2 for drag in seen)  # the knob changes them
    assert panel.asked_of_python() == (LAST[name], seen[-1][-1])


def test_who_runs_the_zeros_changes_time_and_bytes_and_nothing_else(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, ZEROS)
    panel.reveal()
    dense, sparse = panel.drag_each_choice("% of zeros", panel.cards)
    changed = {
        one[0]
        for at_dense, at_sparse in zip(dense, sparse, strict=True)
        for one, other in zip(at_dense, at_sparse, strict=True)
        if one[:2] != other[:2]  # the notes at 0 % differ: there the dense one is the baseline
    }
    assert changed == {"latency of one image", "size of what ships", "what ran"}


def test_the_dense_runtime_takes_no_notice_of_zeros(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, ZEROS)
    panel.reveal()
    dot = panel.root.get_by_role("img", name="latency (ms)", exact=True).locator("g[transform]")

    def look() -> tuple[str, str, float]:
        shown = {title: value for title, value, _ in panel.cards()}
        height = re.search(r",([\d.]+)\)", dot.get_attribute("transform"))[1]
        return shown["what ran"], shown["size of what ships"], float(height)

    (dense_ran, dense_sizes, dense_dots), (sparse_ran, sparse_sizes, sparse_dots) = (
        zip(*drag, strict=True) for drag in panel.drag_each_choice("% of zeros", look)
    )
    assert len(set(dense_ran)) == len(set(sparse_ran)) == 1
    assert "CSR" in sparse_ran[0]
    assert "CSR" not in dense_ran[0]
    assert len(set(dense_sizes)) == 1
    assert len(set(sparse_sizes)) == len(sparse_sizes)
    assert np.ptp(dense_dots) < np.ptp(sparse_dots) / 4  # flat, beside the other line


def test_the_sparse_kernel_is_measured_again(pruning: LabPage) -> None:
    panel = show(pruning, ZEROS, SPARSE, 4)
    status = panel.measure_again()
    expect(status).to_contain_text("90 % of zeros, sparse kernel: accuracy")
    for metric in ("one-shot", "latency", "size"):
        expect(status).to_contain_text(re.compile(rf"{metric} [\d.]+ \S+ \(before [\d.]+ \S+\)"))
    expect(status).to_contain_text("beside 0 % of zeros, dense runtime, timed in turns just now")
    assert panel.root.locator(".im-fresh").count() == 4


def test_the_bars_are_the_channels_that_are_left(pruning: LabPage) -> None:
    panel = BarsOnPage(pruning, CHANNELS)
    panel.reveal()
    _, pictures = panel.known_to_python()
    seen = panel.drag_each_choice("% of channels", panel.bars)
    for place, drag in enumerate(seen):
        told = [{layer: channels for layer, channels, _ in bars} for bars in drag]
        assert told == [words for _, words in pictures[place::2]]
        for percent, left in zip(STAGES, told, strict=True):
            first, second, third = map(str, STAGES[percent][place])
            counts = [first, first, second, second, third, third]
            assert left == dict(zip(LAYERS, counts, strict=True)), percent
    drawn = [
        (int(channels), pixels) for drag in seen for bars in drag for *_, channels, pixels in bars
    ]
    most, longest = max(drawn)
    assert all(abs(pixels - longest * channels / most) < 1 for channels, pixels in drawn)
    assert panel.rows() == told[-1]
    panel.root.get_by_text("The bars as a table").click()  # closes it


def test_the_level_line_is_the_encoder_whose_blocks_were_not_pretrained(pruning: LabPage) -> None:
    panel = PanelOnPage(pruning, LANGUAGE)
    panel.reveal()
    chart = panel.root.get_by_role("img", name="accuracy (%)", exact=True)
    expect(chart.get_by_text("blocks not pre-trained (recorded)", exact=True)).to_be_visible()
    ends = [float(chart.locator(".im-limit").get_attribute(end)) for end in ("y1", "y2")]
    grid = [float(line.get_attribute("y1")) for line in chart.locator(".im-grid").all()]
    ticks = map(float, chart.locator("text[text-anchor=end]").all_text_contents())
    height_of = dict(sorted(zip(grid, ticks, strict=True)))
    drawn = np.interp(ends, list(height_of), list(height_of.values()))
    rows = json.loads(verified.read("recorded/encoder_pruning.json"))["rows"]
    recorded = next(row["test_accuracy"] for row in rows if row["name"] == "random_blocks")
    assert np.allclose(drawn, 100 * recorded, atol=0.1)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("global_threshold", "weight.abs().flatten()", "weight.flatten()", "Which of −3 and 0.1"),
        (
            "shapes_after",
            '(block["next"][0], kept["output"])',
            'block["next"][:2]',
            "Who reads what the block puts out?",
        ),
        (
            "choose_technique",
            'if runtime in budget["runtimes"]',
            "",
            "Which of the latencies could be had here?",
        ),
    ],
    ids=["global_threshold", "shapes_after", "choose_technique"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    pruning: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    pruning.answer_wrongly_then_rightly(LESSON, name, right, wrong, hint)


def test_the_quiz_answers_every_pick(pruning: LabPage, pictures: Path) -> None:
    wrong = "The wrong weights were chosen", "does not change the time"
    right = "multiplies zeros like any other", "someone has to skip them"
    picture = pictures / "04_quiz.png"
    expect_quiz_to_answer(pruning, "Pruning", wrong, right, picture)


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(pruning: LabPage, pictures: Path, theme: str) -> None:
    pruning.set_theme(theme)
    shown = [(ZEROS, SPARSE, 4), (CHANNELS, AS_THEY_COME, 3), (LANGUAGE, None, 2)]
    for number, where in enumerate(shown, start=1):
        panel = show(pruning, *where)
        panel.photograph(pictures / f"04_lab{number}_{theme.lower()}.png")
    assert panel.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
@EACH_PANEL
def test_every_text_is_readable_and_nothing_is_cut_off(
    pruning: LabPage, pictures: Path, name: str, width: int
) -> None:
    choice = {ZEROS: DENSE, CHANNELS: BY_EIGHT}.get(name)
    panel = show(pruning, name, choice, 1)
    picture = pictures / f"04_lab{[*SLIDERS].index(name) + 1}_{width}px.png"
    assert panel.unreadable_at(width, picture) == []


def test_nothing_came_from_outside_and_nothing_broke(pruning: LabPage) -> None:
    assert pruning.outside == []
    assert pruning.errors == []
