"""Lesson 06 as a learner meets it: calls, formats, layers under eleven roofs, an array of cells."""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_page import LabPage, read_solution
from panel_page import NONE, Cards, PanelOnPage, to_number
from playwright.sync_api import expect
from quiz_page import expect_quiz_to_answer
from roof_page import RoofOnPage

from course_utils.accelerators import CATALOGUE, get_accelerator

pytestmark = pytest.mark.browser

LESSON = "06_gpu_acceleration"
CALLS, FORMATS = "Images a call, by device", "Formats of numbers"
ROOFS, ARRAY = "Under many roofs", "A systolic array, step by step"
SLIDERS = {CALLS: "images a call", FORMATS: "way", ROOFS: "items a call", ARRAY: "cycles"}
BATCHES = [1, 4, 16, 64, 256, 1024]
T4, A100, H100 = "NVIDIA T4", "NVIDIA A100", "NVIDIA H100"
PHONE = "phone (Snapdragon 888)"
SHOWN = [device.name for device in CATALOGUE if device.name != "Coral Edge TPU"]
TEXTS = "7B language model"
SIDE = 4  # of the array: rows and columns
EACH_PANEL = pytest.mark.parametrize("name", SLIDERS)
EACH_COMPUTED = pytest.mark.parametrize("name", [ROOFS, ARRAY])

CARELESS = """def time_on_device(launch, synchronize, clock, calls):
    start = clock()
    for _ in range(calls):
        launch()
    return (clock() - start) * 1000 / calls"""


def show_roofs(lesson: LabPage) -> RoofOnPage:
    panel = RoofOnPage(lesson, ROOFS, SLIDERS[ROOFS], BATCHES)
    panel.reveal()
    return panel


def latency_of(panel: PanelOnPage) -> float:
    return to_number(next(value for title, value, _ in panel.cards() if "latency" in title))


def cards_along(all_cards: list[Cards], others: dict[str, list[str]], *taken: str) -> list[Cards]:
    """Return the cards of each stop of the slider, where these values of the others are taken."""
    sizes = tuple(map(len, others.values()))
    places = [values.index(value) for values, value in zip(others.values(), taken, strict=True)]
    start = int(np.ravel_multi_index(places, sizes)) if sizes else 0
    return all_cards[start :: math.prod(sizes)]


def settings_of(panel: PanelOnPage) -> Iterator[tuple[str, ...]]:
    """Return all values of the others with each other; of the roofs, each beside one setting."""
    others = panel.others()
    if panel.name != ROOFS:
        yield from itertools.product(*others.values())
        return
    start = (T4, "ResNet-50", "int8")
    for place, values in enumerate(others.values()):
        for value in values:
            yield (*start[:place], value, *start[place + 1 :])


@pytest.fixture
def roofs(gpu_acceleration: LabPage) -> RoofOnPage:
    return show_roofs(gpu_acceleration)


@pytest.fixture
def array(gpu_acceleration: LabPage) -> PanelOnPage:
    panel = PanelOnPage(gpu_acceleration, ARRAY)
    panel.reveal()
    return panel


@pytest.mark.parametrize(
    ("name", "metric", "card", "found", "setting"),
    [
        (CALLS, "throughput", "throughput", "measured",
         {"images a call": 256, "network": "three matrices"}),
        (FORMATS, "latency", "latency of 16 images", "measured", {"network": "ResNet-8"}),
        (ROOFS, "latency", "latency, by the roofline", "computed",
         {"items a call": 1, "device": H100, "network": TEXTS, "format": "16 bits"}),
        (ARRAY, "busy", "busy", "computed", {"cycles": 8}),
    ],
    ids=SLIDERS,
)  # fmt: skip
def test_a_guess_is_told_beside_what_was_found(
    gpu_acceleration: LabPage,
    name: str,
    metric: str,
    card: str,
    found: str,
    setting: dict[str, Any],
) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    right = panel.right_guess(metric)
    told, outcome = panel.guess(metric, near=right)
    in_python, cards = panel.asked_of_python()
    assert setting.items() <= in_python.items()
    value, note = next((value, note) for title, value, note in cards if title == card)
    speed = f" ({note.split('; ')[-1]})" if name == FORMATS else ""
    expect(outcome).to_contain_text(f"you predicted {told}; {found}: {metric} {value}{speed}.")
    assert math.isclose(to_number(told), right, rel_tol=0.5), "no guess can come near"


@EACH_PANEL
def test_a_drag_needs_no_python_and_shows_what_it_knows(
    gpu_acceleration: LabPage, name: str
) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    panel.reveal()
    all_cards, _ = panel.known_to_python()
    others = panel.others()
    for taken in settings_of(panel):
        for knob, value in zip(others, taken, strict=True):
            panel.take(knob, value)
        seen = panel.drag_without_python(SLIDERS[name], panel.cards)
        assert seen == cards_along(all_cards, others, *taken), taken
        if seen[0][0][1] != NONE:
            assert len(set(map(tuple, seen))) > 1, taken  # the knob changes them
    setting, cards = panel.asked_of_python()
    assert [setting[knob] for knob in others] == list(taken)
    assert cards == seen[-1]


@EACH_PANEL
def test_a_mouse_takes_the_slider_past_every_stop(gpu_acceleration: LabPage, name: str) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    panel.reveal()
    others = panel.others()
    taken = [values[0] for values in others.values()]
    for knob, value in zip(others, taken, strict=True):
        panel.take(knob, value)
    all_cards, _ = panel.known_to_python()
    stop = panel.root.locator("output").first
    seen = panel.drag_by_mouse(SLIDERS[name], lambda: (stop.text_content(), panel.cards()))
    assert [cards for _, cards in seen] == cards_along(all_cards, others, *taken)
    setting, cards = panel.asked_of_python()
    last = setting.pop(SLIDERS[name])
    assert list(setting.values()) == taken
    assert re.search(rf"\b{last}\b", seen[-1][0])
    assert cards == seen[-1][1]


def test_the_menus_hold_all_devices_and_four_networks(roofs: RoofOnPage) -> None:
    others = roofs.others()
    this, *devices = others["device"]
    assert this.startswith("this CPU")
    assert devices[: len(SHOWN)] == SHOWN
    assert others["network"] == ["ResNet-8", "three matrices", "ResNet-50", TEXTS]
    for knob in ("device", "network"):
        expect(roofs.root.get_by_role("combobox", name=knob, exact=True)).to_have_count(1)


@EACH_COMPUTED
def test_what_is_computed_is_not_measured_again(gpu_acceleration: LabPage, name: str) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    panel.reveal()
    expect(panel.root.get_by_role("button")).to_have_count(0)
    assert "measured" not in panel.root.inner_text()
    expect(panel.root).to_contain_text("computed: ")


@pytest.mark.parametrize(
    ("device", "network", "format"),
    [
        (T4, "three matrices", "16 bits"),
        (A100, "ResNet-50", "int8"),
        (PHONE, "ResNet-50", "int8"),
        (H100, "three matrices", "fp8"),
        ("NVIDIA Jetson AGX Orin", "ResNet-8", "fp32"),
    ],
)
def test_the_layers_stand_under_the_roof_of_the_device(
    roofs: RoofOnPage, device: str, network: str, format: str
) -> None:
    roofs.choose(device, network, format)
    _, pictures = roofs.known_to_python()
    known = cards_along(pictures, roofs.others(), device, network, format)
    drag = roofs.drag_without_python("items a call", lambda: (roofs.said(), roofs.layers()))
    made = get_accelerator(device)
    peak, bandwidth = 1000 * made.peaks[format], made.bandwidth_gb_s
    for (title, words), (said, layers) in zip(known, drag, strict=True):
        assert said == f"{title}: " + ", ".join(f"{name} {told}" for name, told in words.items())
        waiting = [one["percent"] for one in layers.values() if one["binds"] == "memory"]
        expected = f"{len(waiting)} of {len(layers)} layers, "
        assert words["bound by memory:"].startswith(expected)
        waits = float(words["bound by memory:"].removeprefix(expected).split(" ")[0])
        assert np.isclose(sum(waiting), waits, atol=1)
        assert np.isclose(sum(one["percent"] for one in layers.values()), 100, atol=1)
        longest, percent = words["longest:"].removesuffix(" %").rsplit(", ", 1)
        assert np.isclose(layers[longest]["percent"], float(percent), atol=0.51)
        for one in layers.values():
            assert one["is_square"] == (one["binds"] == "arithmetic")
            roof = min(peak, bandwidth * one["intensity"])
            assert np.isclose(one["rate"], roof, rtol=0.011), one  # both in three digits
    expect(roofs.picture).to_contain_text(f"ridge: {words['ridge:'].split(' ')[0]}")


def test_another_device_moves_the_roof_without_python(roofs: RoofOnPage) -> None:
    roofs.choose(T4, "ResNet-50", "int8", 16)
    roof = roofs.picture.locator(".im-roof")
    with roofs.lab.server.paused():
        seen = []
        for device in roofs.others()["device"]:
            roofs.take("device", device)
            seen.append(roof.get_attribute("d"))
            expect(roofs.picture.locator(".im-title")).to_contain_text(device)
    assert len(set(seen)) > len(SHOWN) - 1  # H100 and H200 differ by their bandwidths alone


def test_texts_wait_for_memory_one_or_many(roofs: RoofOnPage) -> None:
    latencies = {}
    for device in (T4, H100):
        roofs.choose(device, TEXTS, "16 bits")
        latencies[device] = latency_of(roofs)
        assert {layer["binds"] for layer in roofs.layers().values()} == {"memory"}
    bandwidths = [get_accelerator(device).bandwidth_gb_s for device in (H100, T4)]
    assert math.isclose(latencies[T4] / latencies[H100], np.divide(*bandwidths), rel_tol=0.01)
    roofs.choose(H100, TEXTS, "16 bits", 64)  # keys and values of each text are read too
    assert {layer["binds"] for layer in roofs.layers().values()} == {"memory"}
    roofs.choose(H100, "three matrices", "16 bits", 1024)
    assert "arithmetic" in {layer["binds"] for layer in roofs.layers().values()}
    roofs.choose(A100, "ResNet-8", "16 bits")
    assert latency_of(roofs) < 0.001  # less than a launch


@pytest.mark.parametrize(
    ("device", "network", "format", "why"),
    [
        (T4, "ResNet-50", "fp8", r"NVIDIA T4 has no published peak for fp8"),
        (PHONE, "ResNet-8", "16 bits", r"phone .* has no published peak for 16 bits"),
        (T4, TEXTS, "fp32", r"needs 25\.\d GiB, and NVIDIA T4 has 16"),
    ],
)
def test_what_cannot_be_says_why(
    roofs: RoofOnPage, device: str, network: str, format: str, why: str
) -> None:
    roofs.choose(device, network, format)
    shown = roofs.cards()
    assert {value for _, value, _ in shown} == {NONE}
    assert all(re.fullmatch(why, note) for _, _, note in shown)
    expect(roofs.root.locator(".im-spoken")).to_contain_text(re.compile(why))
    dots = roofs.root.locator("svg g:has(.im-dot)")
    assert {dot.get_attribute("visibility") for dot in dots.all()} == {"hidden"}
    assert roofs.layers() == {}
    has_roof = bool(roofs.picture.locator(".im-roof").get_attribute("d"))
    assert has_roof == why.startswith("needs")  # then there is a peak
    assert "NaN" not in roofs.root.inner_html()


def test_no_card_is_empty_without_a_reason(roofs: RoofOnPage) -> None:
    all_cards, _ = roofs.known_to_python()
    unexplained = [
        title for cards in all_cards for title, value, note in cards if value == NONE and not note
    ]
    assert {title: unexplained.count(title) for title in unexplained} == {}


def test_the_array_fills_and_drains_along_its_diagonal(array: PanelOnPage) -> None:
    all_cards, pictures = array.known_to_python()
    picture = array.root.locator("svg").last
    count = array.root.locator(".im-card", has_text="busy").locator("div").nth(1)

    def look() -> tuple[list[str], int, float]:
        written = picture.locator(".im-on-cell").all_text_contents()
        filled = picture.locator("rect.im-busy").count()
        return written, filled, to_number(count.text_content() or "")

    cells, filled, told = zip(*array.drag_without_python("cycles", look), strict=True)
    sums = np.reshape(cells, (-1, SIDE, SIDE))  # (cycles, rows, columns)
    busy = sums != ""
    assert len(sums) == len(all_cards)
    assert busy.sum((1, 2)).tolist() == list(filled) == list(told)
    assert [words for _, words in pictures] == [
        {"busy:": f"{number} of {SIDE**2} cells"} for number in filled
    ]
    assert (busy[1:, :, 1:] == busy[:-1, :, :-1]).all()  # inputs go to the right,
    assert (busy[1:, 1:] == busy[:-1, :-1]).all()  # and sums down
    assert not busy[:SIDE].any()  # weights are loaded, a row a cycle
    assert busy.any((1, 2))[SIDE:].all()
    assert 0 < busy.sum((1, 2)).max() < SIDE**2  # six rows are too few to fill it
    random = np.random.default_rng(0)
    inputs, weights = random.integers(0, 5, (6, SIDE)), random.integers(0, 5, (SIDE, SIDE))
    leaving = [sums[busy[:, -1, j], -1, j].astype(int) for j in range(SIDE)]
    assert np.array_equal(np.transpose(leaving), inputs @ weights)


@pytest.mark.parametrize(
    ("name", "metrics", "is_compared"),
    [(CALLS, ["latency", "throughput"], False), (FORMATS, ["latency"], True)],
    ids=[CALLS, FORMATS],
)
def test_a_point_is_measured_again(
    gpu_acceleration: LabPage, name: str, metrics: list[str], is_compared: bool
) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    panel.reveal()
    panel.take("network", "ResNet-8")
    panel.move(SLIDERS[name], 1)
    stop = panel.root.locator("output").first.text_content() or ""
    status = panel.measure_again()
    expect(status).to_contain_text(stop)
    expect(status).to_contain_text("ResNet-8")
    for metric in metrics:
        expect(status).to_contain_text(re.compile(rf"{metric} [\d.,]+ \S+ \(before [\d.,]+ \S+\)"))
    assert ("timed in turns just now" in (status.text_content() or "")) == is_compared
    expect(status).not_to_contain_text("agreement")  # of the answers, which are counted once
    assert panel.root.locator(".im-fresh").count() == len(metrics)


def test_a_careless_timer_gets_a_hint_and_a_right_one_is_accepted(
    gpu_acceleration: LabPage,
) -> None:
    expect(gpu_acceleration.answer(CARELESS)).to_contain_text("the device is still at work")
    solution = read_solution(LESSON, "time_on_device")
    expect(gpu_acceleration.answer(solution)).to_contain_text("right on all")


@pytest.mark.parametrize(
    ("name", "right", "wrong", "hint"),
    [
        ("arithmetic_intensity", "2 * pixels", "pixels", "counts as one operation"),
        ("choose_device", "math.ceil(", "int(", "The count is rounded down"),
    ],
    ids=["arithmetic_intensity", "choose_device"],
)
def test_a_wrong_answer_gets_a_hint_and_a_right_one_is_accepted(
    gpu_acceleration: LabPage, name: str, right: str, wrong: str, hint: str
) -> None:
    gpu_acceleration.answer_wrongly_then_rightly(LESSON, name, right, wrong, hint)


def test_the_quiz_answers_every_pick(gpu_acceleration: LabPage, pictures: Path) -> None:
    wrong = "The copy of the images", "more to copy"
    right = "Putting the work into the queue", "wait for the device"
    expect_quiz_to_answer(
        gpu_acceleration, "GPU acceleration", wrong, right, pictures / "06_quiz.png"
    )


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(gpu_acceleration: LabPage, pictures: Path, theme: str) -> None:
    gpu_acceleration.set_theme(theme)
    for number, name in enumerate(SLIDERS, start=1):
        panel = PanelOnPage(gpu_acceleration, name)
        panel.reveal()
        if name == ROOFS:
            show_roofs(gpu_acceleration).choose(A100, "ResNet-50", "16 bits", 16)
        else:
            panel.move(SLIDERS[name], 7 if name == ARRAY else 2)
        panel.photograph(pictures / f"06_lab{number}_{theme.lower()}.png")
    tables = gpu_acceleration.page.locator(".im-panel details:not(:has-text('All points'))")
    expect(tables).to_have_count(2)  # layers and cells
    tables.evaluate_all("all => all.forEach((details) => (details.open = true))")
    expect(tables.first.locator("tbody tr").first).to_be_visible()
    assert panel.violations() == []
    tables.evaluate_all("all => all.forEach((details) => (details.open = false))")


@pytest.mark.parametrize("width", [700, 1280])
@EACH_PANEL
def test_every_text_is_readable_and_nothing_is_cut_off(
    gpu_acceleration: LabPage, pictures: Path, name: str, width: int
) -> None:
    panel = PanelOnPage(gpu_acceleration, name)
    panel.reveal()
    picture = pictures / f"06_lab{[*SLIDERS].index(name) + 1}_{width}px.png"
    if name != ROOFS:
        panel.move(SLIDERS[name], 9 if name == ARRAY else 1)
        assert panel.unreadable_at(width, picture) == []
        return
    found = []
    for device in (PHONE, H100):
        show_roofs(gpu_acceleration).choose(device, "ResNet-50", "int8", 64)
        found += panel.unreadable_at(width, picture)
    assert found == []


def test_nothing_came_from_outside_and_nothing_broke(gpu_acceleration: LabPage) -> None:
    assert gpu_acceleration.outside == []
    assert gpu_acceleration.errors == []
