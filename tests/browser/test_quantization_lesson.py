"""Lesson 02 as a learner meets it: guess, drag, compare, answer, in JupyterLab itself."""

import re
from pathlib import Path

import pytest
from lab_page import LabPage, LabServer, open_page
from panel_page import PanelOnPage
from playwright.sync_api import Browser, expect
from quiz_page import expect_quiz_to_answer

pytestmark = pytest.mark.browser

METHODS = [
    "p90", "p95", "p99", "p99.5", "p99.9", "p99.99", "min-max", "median", "MSE", "entropy",
]  # fmt: skip
BITS = ["2", "3", "4", "5", "6", "7", "8", "16", "32"]


@pytest.fixture
def panel(quantization: LabPage) -> PanelOnPage:
    return PanelOnPage(quantization, "Bits per weight")


@pytest.fixture
def ranges(quantization: LabPage) -> PanelOnPage:
    return PanelOnPage(quantization, "Ranges of activations")


def test_nothing_is_shown_before_the_guess(panel: PanelOnPage) -> None:
    expect(panel.root.locator("form")).to_be_visible()
    assert panel.root.locator("svg").count() == 0
    assert panel.root.locator(".im-card").count() == 0


def test_a_guess_by_keyboard_reveals_what_was_measured(panel: PanelOnPage) -> None:
    commit = panel.root.get_by_role("button", name="Commit my guess")
    expect(commit).to_be_disabled()  # a guess is a decision, not a default
    accuracy = panel.slider("accuracy")
    accuracy.focus()
    panel.page.keyboard.press("End")
    for _ in range(7):
        panel.page.keyboard.press("ArrowLeft")
    assert accuracy.get_attribute("aria-valuetext") == "93 %"
    panel.page.keyboard.press("Tab")
    panel.page.keyboard.press("Home")
    latency = panel.slider("latency").get_attribute("aria-valuetext")
    assert latency in ("0.00 ms", "0.0 ms")  # as many digits as this machine's times need
    panel.page.keyboard.press("Tab")
    panel.page.keyboard.press("Enter")
    outcome = panel.root.locator(".im-outcome")
    expect(outcome).to_contain_text(f"you predicted 93 % and {latency}; measured:")
    setting, cards = panel.asked_of_python()
    assert setting == {"bits": 4, "scheme": "per channel"}
    expect(outcome).to_contain_text(cards[0][1])
    expect(outcome).to_contain_text(cards[1][1])


def test_the_page_shows_what_python_knows_at_every_step(panel: PanelOnPage) -> None:
    panel.reveal()
    slider = panel.slider("bits")
    slider.focus()
    panel.page.keyboard.press("Home")
    histograms = set()
    for bits in BITS:
        expect(panel.root.locator("output").first).to_have_text(f"{bits} bits")
        setting, cards = panel.asked_of_python()
        assert str(setting["bits"]) == bits
        assert panel.cards() == cards
        histograms.add(panel.root.locator(".im-levels").get_attribute("d"))
        slider.focus()
        panel.page.keyboard.press("ArrowRight")
    assert len(histograms) >= 5  # the levels drawn change with the width


def test_the_choice_works_by_keyboard(panel: PanelOnPage) -> None:
    panel.reveal()
    panel.root.get_by_role("radio", name="per channel").focus()
    panel.page.keyboard.press("ArrowDown")
    setting, cards = panel.asked_of_python()
    assert setting["scheme"] == "per tensor"
    assert panel.cards() == cards
    panel.root.get_by_role("radio", name="per tensor").focus()
    panel.page.keyboard.press("ArrowUp")
    assert panel.asked_of_python()[0]["scheme"] == "per channel"


def test_a_drag_with_the_mouse_ends_where_the_mouse_is(panel: PanelOnPage) -> None:
    panel.reveal()
    panel.throw_by_mouse("bits", to_start=True)
    expect(panel.root.locator("output").first).to_have_text("2 bits")
    setting, cards = panel.asked_of_python()
    assert setting["bits"] == 2
    assert panel.cards() == cards


def test_stray_keys_on_the_slider_leave_the_notebook_alone(panel: PanelOnPage) -> None:
    panel.reveal()
    cells = panel.page.locator(".jp-Cell").count()
    panel.slider("bits").focus()
    for key in "abdd":
        panel.page.keyboard.press(key)
    assert panel.page.locator(".jp-Cell").count() == cells


def test_the_point_where_the_slider_stands_is_measured_again(panel: PanelOnPage) -> None:
    panel.reveal()
    with panel.lab.server.paused():  # the button is pressed before Python heard of the last step
        panel.move("bits", BITS.index("6"), "per tensor")
        panel.ask_to_measure_again()
    status = panel.measured_again()
    expect(status).to_contain_text("6 bits, per tensor: ")
    expect(status).to_contain_text(re.compile(r"latency \d+\.\d+ ms \(before \d+\.\d+ ms\)"))
    assert panel.root.locator(".im-fresh").count() == 2  # on both charts


def test_the_table_holds_every_point(panel: PanelOnPage) -> None:
    panel.reveal()
    summary = panel.root.locator("summary")
    summary.focus()
    panel.page.keyboard.press("Enter")
    expect(panel.root.locator("tbody tr")).to_have_count(len(BITS) * 2)
    panel.page.keyboard.press("Enter")


def test_the_second_panel_asks_for_a_guess_of_its_own(ranges: PanelOnPage) -> None:
    expect(ranges.root.locator("form")).to_contain_text("MSE, one broken image")
    assert ranges.root.locator("svg").count() == 0


def test_the_second_panel_shows_what_python_knows_at_every_step(ranges: PanelOnPage) -> None:
    ranges.reveal()
    slider = ranges.slider("method")
    slider.focus()
    ranges.page.keyboard.press("Home")
    shaded = set()
    for method in METHODS:
        expect(ranges.root.locator("output").first).to_have_text(method)
        setting, cards = ranges.asked_of_python()
        assert setting == {"method": method, "images": "one broken image"}
        assert ranges.cards() == cards
        assert cards[-1][0] == "pixels clipped"
        shaded.add(ranges.root.locator(".im-clipped").get_attribute("d"))
        slider.focus()
        ranges.page.keyboard.press("ArrowRight")
    assert len(shaded) >= 6  # the part that is clipped changes with the range


def test_a_drag_over_the_methods_ends_where_the_mouse_is(ranges: PanelOnPage) -> None:
    ranges.reveal()
    ranges.throw_by_mouse("method")
    expect(ranges.root.locator("output").first).to_have_text("entropy")
    setting, cards = ranges.asked_of_python()
    assert setting["method"] == "entropy"
    assert ranges.cards() == cards


def test_a_choice_in_one_panel_leaves_the_other_alone(
    panel: PanelOnPage, ranges: PanelOnPage
) -> None:
    panel.reveal()
    ranges.reveal()
    panel.root.get_by_role("radio", name="per tensor").check()
    ranges.root.get_by_role("radio", name="clean images").check()
    expect(panel.root.get_by_role("radio", name="per tensor")).to_be_checked()
    expect(ranges.root.get_by_role("radio", name="clean images")).to_be_checked()
    panel.root.get_by_role("radio", name="per channel").check()


def test_a_number_shows_its_bits_in_every_format(quantization: LabPage) -> None:
    bits = quantization.page.get_by_role("region", name="The bits of a number")
    bits.get_by_role("spinbutton").fill("100000")
    expect(bits).to_contain_text("99840")  # the nearest that bf16 has
    expect(bits).to_contain_text("∞")  # beyond fp16
    bits.get_by_role("spinbutton").fill("0.1")
    expect(bits).to_contain_text("0.10009765625")


AFFINE = """def affine(tensor, bits):
    low, high = tensor.min().clamp(max=0), tensor.max().clamp(min=0)
    scale = ({}) / (2**bits - 1)
    zero_point = torch.round(-low / scale)
    return torch.round(tensor / scale) + zero_point, scale, zero_point"""
SCALES = """def channel_scales(weight, bits):
    largest = weight.flatten(1).{}.amax(1)
    return torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)"""
END = """def best_upper_end(values, bits):
    ends = [values.max() * k / 100 for k in range(1, {})]
    return min(ends, key=lambda high: error_with_range(values, high, bits))"""


@pytest.mark.parametrize(
    ("code", "wrong", "hint", "right"),
    [
        (AFFINE, "tensor.max() - tensor.min()", "no integer of yours stands for 0", "high - low"),
        (SCALES, "clone()", "largest weight is negative", "abs()"),
        (END, "100", "up to 99 %", "101"),
    ],
    ids=["affine", "channel_scales", "best_upper_end"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    quantization: LabPage, code: str, wrong: str, hint: str, right: str
) -> None:
    for filling, answer in ((wrong, hint), (right, "right on all")):
        expect(quantization.answer(code.format(filling))).to_contain_text(answer)


def test_the_quiz_answers_every_pick(quantization: LabPage, pictures: Path) -> None:
    wrong = "0 to 15", "That would be affine"
    right = "−7 to 7", "as many on each side"
    picture = pictures / "02_quiz.png"
    expect_quiz_to_answer(quantization, "Quantization", wrong, right, picture, count=7)


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    panel: PanelOnPage, ranges: PanelOnPage, quantization: LabPage, pictures: Path, theme: str
) -> None:
    panel.reveal()
    ranges.reveal()
    quantization.set_theme(theme)
    panel.slider("bits").focus()
    panel.page.keyboard.press("Home")
    panel.page.keyboard.press("ArrowRight")
    panel.page.keyboard.press("ArrowRight")
    expect(panel.root.locator("output").first).to_have_text("4 bits")
    panel.root.screenshot(path=pictures / f"02_panel_{theme.lower()}.png")
    ranges.root.scroll_into_view_if_needed()
    ranges.root.screenshot(path=pictures / f"02_ranges_{theme.lower()}.png")
    assert panel.violations() == []


@pytest.mark.parametrize("which", ["panel", "ranges"])
def test_a_narrow_page_cuts_nothing_off(
    request: pytest.FixtureRequest, pictures: Path, which: str
) -> None:
    shown = request.getfixturevalue(which)
    shown.reveal()
    size = shown.page.viewport_size
    shown.page.set_viewport_size({"width": 700, "height": 1400})
    shown.root.scroll_into_view_if_needed()
    inside = shown.root.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    shown.root.screenshot(path=pictures / f"02_{which}_700px.png")
    shown.page.set_viewport_size(size or {"width": 1280, "height": 1400})
    assert inside


def test_nothing_came_from_outside_and_nothing_broke(quantization: LabPage) -> None:
    assert quantization.outside == []
    assert quantization.errors == []


def test_an_unopened_lesson_shows_the_curves(
    browser: Browser, server: LabServer, pictures: Path
) -> None:
    with open_page(browser, server) as lab:
        lab.open("as_committed_02_quantization.ipynb")
        pictures_so_far = lab.page.locator(".jp-RenderedImage img")
        lab.page.locator(".jp-WindowedPanel-outer").first.hover()
        for _ in range(100):  # what is far below is attached when it comes near
            if pictures_so_far.count() > 1:
                break
            lab.page.mouse.wheel(0, 800)
            lab.page.wait_for_timeout(200)
        picture = pictures_so_far.nth(1)
        picture.scroll_into_view_if_needed()
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 500
        lab.page.screenshot(path=pictures / "02_not_run.png")
        assert lab.outside == []
