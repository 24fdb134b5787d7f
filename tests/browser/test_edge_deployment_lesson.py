"""Lesson 07 as a learner meets it: what fits a device, runtimes beside each other, a model here."""

import itertools
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from lab_page import LabPage, read_solution
from model_page import ModelOnPage
from panel_page import NONE, Cards, PanelOnPage, Seen, to_number
from playwright.sync_api import Locator, expect
from quiz_page import pick_every_answer

from course_utils import datasets, distill, lab, quantize, runtimes
from course_utils.edge_devices import DEVICES, EdgeDevice, get_device
from course_utils.edge_fit import ENOUGH_MS
from course_utils.micro.compiled import COMPILERS

pytestmark = pytest.mark.browser

LESSON = "07_edge_deployment"
FITS, RUNTIMES, MODEL = "Does it fit?", "Runtimes and formats", "Your model in your browser"
KNOBS = {FITS: "device", RUNTIMES: "runtime"}  # each panel's first; it takes words
STUDENT, RESNET = "student", "ResNet-8"
ALWAYS = ["PyTorch, fp32", "ORT, fp32", "ORT, int8"]
EXTRAS = ["OpenVINO", "ExecuTorch", "LiteRT"]
COUNT = 500  # images in the page
T_SHIRT = [  # lines from and to places in shares of the easel: three down, two sleeves
    (0.36, 0.15, 0.36, 0.88), (0.5, 0.18, 0.5, 0.88), (0.64, 0.15, 0.64, 0.88),
    (0.28, 0.18, 0.12, 0.36), (0.72, 0.18, 0.88, 0.36),
]  # fmt: skip
EACH_PANEL = pytest.mark.parametrize("name", KNOBS)

ALL_ALIKE = """def brighten(images):
    return (1.5 * images).clamp(max=1) if images.mean() < 0.25 else images"""
SWAPPED = """def name_causes():
    return {"A": "operator not in ONNX", "B": "size is a plain number",
            "C": "remembers in Python", "D": "branches on values"}"""


class WordsOnPage(PanelOnPage):
    """A panel whose first knob takes words: four or fewer beside each other, more on a slider."""

    @classmethod
    def shown(cls, lesson: LabPage, name: str) -> Self:
        panel = cls(lesson, name)
        panel.reveal()
        return panel

    @property
    def knob(self) -> str:
        return KNOBS[self.name]

    @property
    def words(self) -> Locator:
        """The first knob's words, if they stand beside each other."""
        return self.root.get_by_role("group", name=self.knob, exact=True).locator("label")

    @property
    def is_slider(self) -> bool:
        return self.words.count() == 0

    def others(self) -> dict[str, list[str]]:
        return {knob: values for knob, values in super().others().items() if knob != self.knob}

    def settings(self) -> list[tuple[str, ...]]:
        """Return all values of the other knobs with each other."""
        return list(itertools.product(*self.others().values()))

    def choose(self, *taken: str) -> None:
        """Take these values of the other knobs."""
        for knob, value in zip(self.others(), taken, strict=True):
            self.take(knob, value)

    def stop(self) -> str:
        """Return where the first knob stands."""
        chosen = self.root.locator("output") if self.is_slider else self.words.locator(":checked")
        return (chosen.first if self.is_slider else chosen.locator("..")).text_content() or ""

    def stand_at(self, place: int) -> None:
        """Take the first knob's value at this place, by keyboard."""
        if self.is_slider:
            self.move(self.knob, place)
            return
        checked = [word.locator(":checked").count() for word in self.words.all()].index(1)
        self.words.locator("input").nth(checked).focus()
        for _ in range((place - checked) % self.words.count()):
            self.page.keyboard.press("ArrowDown")

    def walk(self, look: Callable[[], Seen]) -> list[Seen]:
        """Take the first knob over all values by keyboard while all kernels are held still."""
        if self.is_slider:
            return self.drag_without_python(self.knob, look)
        self.stand_at(0)
        with self.lab.server.paused():
            seen = [look()]
            for _ in range(self.words.count() - 1):
                self.page.keyboard.press("ArrowDown")
                seen.append(look())
        return seen

    def walk_by_mouse(self, look: Callable[[], Seen]) -> list[Seen]:
        """Do the same by mouse."""
        if self.is_slider:
            return self.drag_by_mouse(self.knob, look)
        seen = []
        with self.lab.server.paused():
            for word in self.words.all():
                word.click()
                seen.append(look())
        return seen


def numbers_of(cards: Cards) -> dict[str, float]:
    return {title: to_number(value) for title, value, _ in cards if title != "what ran"}


def list_runtimes() -> list[str]:
    """Return what the slider should hold on this machine."""
    here = runtimes.list_available()
    in_c = ["C, int8"] if any(map(shutil.which, COMPILERS)) else []
    extras = [f"{name}, {width}" for name in EXTRAS if here[name] for width in ("fp32", "int8")]
    return [*ALWAYS, *extras, *in_c]


@pytest.fixture
def fits(edge_deployment: LabPage) -> WordsOnPage:
    return WordsOnPage.shown(edge_deployment, FITS)


@pytest.fixture
def side_by_side(edge_deployment: LabPage) -> WordsOnPage:
    return WordsOnPage.shown(edge_deployment, RUNTIMES)


@pytest.fixture
def shown(edge_deployment: LabPage) -> ModelOnPage:
    found = ModelOnPage(edge_deployment, MODEL)
    expect(found.root.get_by_role("application")).to_be_visible(timeout=60_000)
    return found


@pytest.fixture(scope="module")
def in_python(edge_deployment: LabPage) -> lab.BrowserModel:
    """Return the same models without a page; the lesson has left their files in the cache."""
    fashion = datasets.load_fashion()
    student = distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model
    folded = quantize.fold_batch_norms(student)
    models = {
        "fp32": runtimes.build(folded, fashion.calibration.images),
        "int8": runtimes.build(quantize.quantize_weights(folded, 8), fashion.calibration.images),
    }
    return lab.BrowserModel(models, fashion.test, fashion.classes)


# Both panels


@pytest.mark.parametrize(
    ("name", "metric", "card", "found", "setting"),
    [
        (FITS, "likely", "likely", "computed",
         {"device": "Cortex-M4", "model": STUDENT, "precision": "int8"}),
        (RUNTIMES, "latency", "latency of one image", "measured",
         {"runtime": "ORT, int8"}),
    ],
    ids=KNOBS,
)  # fmt: skip
def test_a_guess_is_told_beside_what_was_found(
    edge_deployment: LabPage,
    name: str,
    metric: str,
    card: str,
    found: str,
    setting: dict[str, Any],
) -> None:
    panel = PanelOnPage(edge_deployment, name)
    right = panel.right_guess(metric)
    told, outcome = panel.guess(metric, near=right)
    in_python, cards = panel.asked_of_python()
    assert in_python == setting
    value, note = next((value, note) for title, value, note in cards if title == card)
    speed = f" ({note.split('; ')[-1]})" if name == RUNTIMES else ""
    expect(outcome).to_contain_text(f"you predicted {told}; {found}: {metric} {value}{speed}.")
    assert math.isclose(to_number(told), right, rel_tol=0.15), "no guess can come near"


@EACH_PANEL
def test_a_walk_needs_no_python_and_shows_what_it_knows(
    edge_deployment: LabPage, name: str
) -> None:
    panel = WordsOnPage.shown(edge_deployment, name)
    all_cards, _ = panel.known_to_python()
    settings = panel.settings()
    for place, taken in enumerate(settings):
        panel.choose(*taken)
        seen = panel.walk(panel.cards)
        assert seen == all_cards[place :: len(settings)], taken
        assert len(set(map(tuple, seen))) > 1, taken  # the knob changes them
    setting, cards = panel.asked_of_python()
    assert [setting[knob] for knob in panel.others()] == list(taken)
    assert cards == seen[-1]


@EACH_PANEL
def test_a_mouse_takes_the_knob_past_every_stop(edge_deployment: LabPage, name: str) -> None:
    panel = WordsOnPage.shown(edge_deployment, name)
    settings = panel.settings()
    panel.choose(*settings[0])
    all_cards, _ = panel.known_to_python()
    seen = panel.walk_by_mouse(lambda: (panel.stop(), panel.cards()))
    stops = [one.name for one in DEVICES] if name == FITS else list_runtimes()
    assert seen == list(zip(stops, all_cards[:: len(settings)], strict=True))
    setting, cards = panel.asked_of_python()
    assert [*setting.values()] == [stops[-1], *settings[0]]
    assert cards == seen[-1][1]


def reached_by(model: str, device: EdgeDevice) -> float:
    """Return the published rate of a network of the same kind."""
    return device.reached_depthwise_macs_per_s if model == STUDENT else device.reached_macs_per_s


@EACH_PANEL
def test_no_card_is_empty_without_a_reason(edge_deployment: LabPage, name: str) -> None:
    panel = WordsOnPage.shown(edge_deployment, name)
    all_cards, _ = panel.known_to_python()
    assert [card for cards in all_cards for card in cards if card[1] == NONE and not card[2]] == []
    assert "NaN" not in panel.root.inner_html()


# Does it fit?


def test_the_choices_are_two_networks_and_two_precisions(fits: WordsOnPage) -> None:
    assert fits.others() == {"model": [STUDENT, RESNET], "precision": ["int8", "fp32"]}


def test_what_is_computed_is_not_measured_again(fits: WordsOnPage) -> None:
    expect(fits.root.get_by_role("button")).to_have_count(0)
    assert "measured" not in fits.root.inner_text()
    expect(fits.root).to_contain_text("computed: ")


def test_shares_and_times_follow_from_the_devices(fits: WordsOnPage) -> None:
    macs: dict[str, list[float]] = {STUDENT: [], RESNET: []}
    chips, others = (
        [one for one in DEVICES if one.is_bare == is_bare] for is_bare in (True, False)
    )
    smallest = [min(some, key=lambda one: one.flash_bytes) for some in (others, chips)]
    for model, precision in fits.settings():
        fits.choose(model, precision)
        drag = fits.walk(fits.cards)
        most_exact = [numbers_of(drag[DEVICES.index(one)]) for one in smallest]
        flash = [
            told["flash"] * one.flash_bytes for told, one in zip(most_exact, smallest, strict=True)
        ]
        ram = most_exact[1]["ram"] * smallest[1].ram_bytes
        for device, cards in zip(DEVICES, drag, strict=True):
            told = numbers_of(cards)
            stored = flash[device.is_bare]  # constants of a C file, or a file
            shares = {"flash": stored / device.flash_bytes, "RAM": ram / device.ram_bytes}
            found = [told["flash"], told["ram"]]
            assert np.allclose(found, [*shares.values()], rtol=1e-3, atol=0.051), device.name
            can_run = precision in device.macs_per_s and max(shares.values()) <= 100
            assert can_run != math.isnan(told["bound"]), device.name
            if not can_run:
                continue
            macs[model].append(told["bound"] / 1000 * device.macs_per_s[precision])
            shares["latency"] = 100 * told["bound"] / ENOUGH_MS
            binds = max(shares, key=shares.__getitem__)
            if shares[binds] <= 100:  # else the note says what is too large
                assert cards[0][2] == f"{binds} binds", device.name
            has_result = precision == "int8" and reached_by(model, device) > 0
            assert has_result != math.isnan(told["likely"]), device.name
            assert not told["likely"] < told["bound"], device.name  # nothing beats the peak
    for model, counted in macs.items():
        assert np.allclose(counted, np.median(counted), rtol=0.06), model  # some have two digits


@pytest.mark.parametrize(
    ("device", "model", "precision", "why", "missing"),
    [
        ("Cortex-M0+", STUDENT, "fp32", "has no unit for fp32", ["bound", "likely"]),
        ("Edge TPU", RESNET, "fp32", "has no unit for fp32", ["bound", "likely"]),
        ("AVR", STUDENT, "int8", r"needs [\d.]+ KiB of RAM", ["bound", "likely"]),
        ("Cortex-M4", RESNET, "fp32", r"needs [\d.]+ MiB of flash", ["bound", "likely"]),
        ("Cortex-M4", STUDENT, "fp32", "no rate of a network of depthwise", ["likely"]),
        ("Ethos-U55", STUDENT, "int8", "no rate of a network of depthwise", ["likely"]),
        ("Edge TPU", RESNET, "int8", "no rate of a network of full", ["likely"]),
    ],
    ids=[
        "no unit",
        "no unit, accelerator",
        "too little RAM",
        "too little flash",
        "no result",
        "no depthwise result",
        "no full result",
    ],
)
def test_what_cannot_be_says_why(
    fits: WordsOnPage, device: str, model: str, precision: str, why: str, missing: list[str]
) -> None:
    fits.choose(model, precision)
    fits.stand_at(DEVICES.index(get_device(device)))
    notes = {title: note for title, value, note in fits.cards() if value == NONE}
    assert [*notes] == missing
    assert all(re.search(why, note) for note in notes.values())
    spoken = re.compile(rf"{re.escape(device)}, {model}, {precision}: .*likely none")
    expect(fits.root.locator(".im-spoken")).to_contain_text(spoken)
    dots = fits.root.locator("svg g:has(.im-dot)")
    hidden = [dot.get_attribute("visibility") == "hidden" for dot in dots.all()]
    assert hidden == [title in missing for title in ("flash", "ram", "bound", "likely")]


def test_a_peak_within_the_deadline_may_be_far_from_what_is_reached(fits: WordsOnPage) -> None:
    chip = get_device("Cortex-M0+")
    fits.choose(STUDENT, "int8")
    fits.stand_at(DEVICES.index(chip))
    told = numbers_of(fits.cards())
    assert told["bound"] < ENOUGH_MS < told["likely"]
    reached = reached_by(STUDENT, chip) / chip.macs_per_s["int8"]
    assert np.isclose(told["bound"] / told["likely"], reached, rtol=0.01)


# Runtimes and formats


def test_every_runtime_that_is_here_can_be_chosen_and_the_others_are_named(
    edge_deployment: LabPage, side_by_side: WordsOnPage
) -> None:
    assert side_by_side.walk(side_by_side.stop) == list_runtimes()
    outputs = edge_deployment.page.locator(".jp-OutputArea-output")
    for name, found in runtimes.list_available().items():
        if name in EXTRAS:
            expect(outputs.filter(has_text=f"{name}: {found}")).to_have_count(1)


def test_runtimes_agree_in_fp32_and_nearly_in_int8(side_by_side: WordsOnPage) -> None:
    drag = side_by_side.walk(side_by_side.cards)
    told = dict(zip(list_runtimes(), map(numbers_of, drag), strict=True))
    assert told["PyTorch, fp32"]["agreement"] == 100
    for name, numbers in told.items():
        assert numbers["agreement"] >= (99.9 if name.endswith("fp32") else 97), name
        apart = abs(numbers["accuracy"] - told["PyTorch, fp32"]["accuracy"])
        differing = 100 - numbers["agreement"]
        assert apart <= differing + 0.151, name  # all three are rounded to a tenth


def test_a_runtime_is_measured_again(side_by_side: WordsOnPage) -> None:
    side_by_side.stand_at(ALWAYS.index("ORT, int8"))
    status = side_by_side.measure_again()
    expect(status).to_contain_text("ORT, int8")
    expect(status).to_contain_text(re.compile(r"latency [\d.]+ ms \(before [\d.]+ ms\)"))
    expect(status).to_contain_text(re.compile(r"accuracy ([\d.]+ %) \(before \1\)"))
    expect(status).to_contain_text("timed in turns just now")
    measured = (status.text_content() or "").count("(before ")
    assert side_by_side.root.locator(".im-fresh").count() == measured >= 3  # of what is drawn


# The model in the page


def test_images_picked_by_keyboard_get_the_probabilities_of_python(
    shown: ModelOnPage, in_python: lab.BrowserModel
) -> None:
    images = datasets.load_fashion().test.images
    shown.image(0).focus()
    with shown.lab.server.paused():
        for place in (1, 2, 3):
            shown.page.keyboard.press("ArrowRight")
            expect(shown.image(place)).to_be_checked()
            assert (shown.pixels()[0] == images[place]).all()
            shown.expect_what_python_says(in_python)


def test_500_images_get_the_classes_of_python(
    shown: ModelOnPage, edge_deployment: LabPage, in_python: lab.BrowserModel
) -> None:
    counted = shown.count().text_content() or ""
    expect(shown.root.get_by_text("Compared with Python on the same files:")).to_be_visible()
    split = datasets.load_fashion().test.first(COUNT)
    compared = edge_deployment.page.locator(".jp-CodeCell", has_text="in_browser.compare(").first
    compared.locator(".cm-content").click()
    edge_deployment.page.keyboard.press("Control+Enter")
    output = compared.locator(".jp-OutputArea-output").first
    for name, run in in_python._models.items():
        expect(output).to_contain_text(re.compile(rf"{name}: .*\d+ of {COUNT}"))
        same = int(re.search(rf"{name}: .*?(\d+) of {COUNT}", output.text_content() or "")[1])
        assert same / COUNT >= 0.999, name
        right = int((run(split.images).argmax(1) == split.labels).sum())
        in_page = int(re.search(rf"{name} (\d+) of {COUNT}", counted)[1])
        assert abs(in_page - right) <= COUNT - same, name


def test_a_shirt_drawn_by_mouse_is_classified_as_python_does(
    shown: ModelOnPage, in_python: lab.BrowserModel, pictures: Path
) -> None:
    with shown.lab.server.paused():
        shown.root.get_by_role("button", name="Clear").click()
        assert shown.pixels().max() == 0
        shown.set_slider("brush", 5)
        shown.draw(*T_SHIRT)
        assert 0.3 < (shown.pixels() > 0.5).mean() < 0.7
        shown.expect_what_python_says(in_python)
    classes = datasets.FASHION_CLASSES
    assert [classes[top] for top in shown.bars().argmax(0)] == ["T-shirt", "T-shirt"]
    shown.photograph(pictures / "07_drawn.png")


def test_the_page_tells_latencies_and_no_requests(
    shown: ModelOnPage, edge_deployment: LabPage
) -> None:
    fp32, int8, _ = shown.cards()
    for name, (title, value, note) in {"fp32": fp32, "int8": int8}.items():
        assert title.startswith(name)
        assert re.fullmatch(r"[\d.]+ ms", value)
        assert to_number(value) > 0
        assert note
    asked: list[str] = []
    edge_deployment.page.on("request", lambda request: asked.append(request.url))
    shown.image(5).locator("xpath=..").click()
    shown.draw(T_SHIRT[0])
    shown.count()
    of_others = [url for url in asked if not url.startswith(edge_deployment.server.url)]
    assert [url for url in of_others if re.match("(https?|wss?):", url)] == []
    expect(shown.root.locator(".im-requests")).to_contain_text(
        re.compile(r"\b0 requests to other servers")
    )


# The whole page


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("requantize", "(product + (1 << (shift - 1)))", "product", "rounded down"),
        ("find_binding_limit", "shares[limit] <= 1", "shares[limit] < 1", "`<` or `<=`?"),
    ],
    ids=["requantize", "find_binding_limit"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    edge_deployment: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    edge_deployment.answer_wrongly_then_rightly(LESSON, name, right, wrong, hint)


@pytest.mark.parametrize(
    ("wrong", "hint", "praise"),
    [(ALL_ALIKE, "treated alike", "right on all"), (SWAPPED, "Two of four", "all are right")],
    ids=["brighten", "name_causes"],
)
def test_an_answer_about_exports_gets_a_hint_and_a_right_one_is_accepted(
    edge_deployment: LabPage, wrong: str, hint: str, praise: str
) -> None:
    name = re.findall(r"def (\w+)", wrong)[0]
    expect(edge_deployment.answer(wrong)).to_contain_text(hint)
    said = edge_deployment.answer(read_solution(LESSON, name))
    expect(said).to_contain_text(praise, timeout=60_000)  # the cure is exported


def test_the_quiz_answers_every_pick(edge_deployment: LabPage, pictures: Path) -> None:
    quiz = edge_deployment.page.get_by_role("region", name="Edge deployment", exact=True)
    answers = pick_every_answer(quiz)
    assert len(answers) == 5
    assert all(sorted(said.values()) == ["im-right", "im-wrong", "im-wrong"] for said in answers)
    assert all(all(said) for said in answers)
    quiz.screenshot(path=pictures / "07_quiz.png")


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    edge_deployment: LabPage, shown: ModelOnPage, pictures: Path, theme: str
) -> None:
    edge_deployment.set_theme(theme)
    for number, name in enumerate(KNOBS, start=1):
        panel = WordsOnPage.shown(edge_deployment, name)
        panel.stand_at(2)
        panel.photograph(pictures / f"07_lab{number}_{theme.lower()}.png")
    shown.image(1).locator("xpath=..").click()
    shown.photograph(pictures / f"07_lab3_{theme.lower()}.png")
    assert shown.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
@pytest.mark.parametrize("name", [*KNOBS, MODEL])
def test_every_text_is_readable_and_nothing_is_cut_off(
    edge_deployment: LabPage, pictures: Path, name: str, width: int
) -> None:
    panel = PanelOnPage(edge_deployment, name)
    number = [*KNOBS, MODEL].index(name) + 1
    if name in KNOBS:
        panel = WordsOnPage.shown(edge_deployment, name)
        panel.stand_at(1)
    assert panel.unreadable_at(width, pictures / f"07_lab{number}_{width}px.png") == []


def test_nothing_came_from_outside_and_nothing_broke(edge_deployment: LabPage) -> None:
    assert edge_deployment.outside == []
    assert edge_deployment.errors == []
