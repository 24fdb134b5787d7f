"""Roofs, cells, menus and many choices: a panel over computed points, as a learner meets it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_page import LabPage, open_cells
from panel_page import PanelOnPage
from playwright.sync_api import Browser, expect
from roof_page import RoofOnPage

from course_utils.lab import Panel
from course_utils.lab.details import tell_detail

pytestmark = pytest.mark.browser

PLANTED = """
import itertools
import math

import numpy as np

from course_utils import lab
from course_utils.measure import Measurement, Provenance
from course_utils.sweep import Point, Sweep
from course_utils.sweep.classifier import Classification


class Formula(Classification):
    is_measured = False


BY = Provenance("computed", "the larger of operations / peak and bytes / bandwidth")
KNOBS = {
    "images": [1, 4, 16, 64],
    "device": ["laptop", "phone", "board", "card", "large card"],
    "network": ["small", "large"],
    "format": ["fp16", "fp8"],
}
AGAINST = {"images": 4, "device": "card", "network": "small", "format": "fp16"}


def is_there(images, device, network, format):
    if format == "fp8":
        return device in ("card", "large card")
    return not (device == "phone" and network == "large" and images == 4)


def roof_at(images, device, network, format):
    title = f"{network} network on a {device}, {format}"
    if not is_there(images, device, network, format):
        return lab.Roof(title, "operations for each byte moved", math.nan, math.nan, {})
    n = KNOBS["device"].index(device)
    peak, bandwidth = 60 * 7.0**n * (1 + (format == "fp8")), 30 * 4.0**n
    count = 6 if network == "small" else 54
    bytes_moved = 1e6 * (1 + np.arange(count) % 5)
    intensity = 0.4 * images * 1.5 ** (np.arange(count) % 11)
    rate = np.minimum(peak, bandwidth * intensity)
    seconds = intensity * bytes_moved / rate
    numbers = zip(intensity, rate, seconds / seconds.sum())
    layers = {f"{network}.conv{n}": tuple(map(float, each)) for n, each in enumerate(numbers)}
    return lab.Roof(title, "operations for each byte moved", peak, bandwidth, layers)


def plant(**setting):
    roof = roof_at(**setting)
    ms = sum(x / y for x, y, _ in roof.layers.values()) if roof.layers else math.nan
    rate = 1000 * setting["images"] / ms
    metrics = {
        "latency": Measurement(ms, "ms", ms, ms, 1, BY, note="a lower bound"),
        "throughput": Measurement(rate, "images/s", rate, rate, 1, BY),
    }
    ran = ("matrix units", "") if roof.layers else ("", f"a {setting['device']} cannot do this")
    return Point(setting, metrics, "a formula", *ran)


settings = [dict(zip(KNOBS, row)) for row in itertools.product(*KNOBS.values())]
points = [plant(**setting) for setting in settings]
computed = Sweep(KNOBS, points, AGAINST, Formula(None, range(4000)))
charts = [
    lab.Chart("latency of a call (ms)", ("latency",), is_log=True),
    lab.Chart("throughput (images/s)", ("throughput",), is_log=True),
]
roofs = lab.Panel(
    computed, "Under the roof", charts=charts, predict=AGAINST, ask=["latency"], detail=roof_at,
    menus=["device"],
)


def cells_at(cycle, array):
    values = np.full((4, 4), np.nan)
    for row, column in itertools.product(range(4), range(4)):
        if 0 <= cycle - row - column < 3:
            values[row, column] = (cycle + 1) * 10.0**row / 3 - 2 * column
    return lab.Cells(f"cycle {cycle}, {array}", "a column for each output", values)


def plant_cycle(**setting):
    busy = float(np.count_nonzero(~np.isnan(cells_at(**setting).values)))
    return Point(setting, {"busy": Measurement(busy, "cells", busy, busy, 1, BY)})


STEPS = {"cycle": list(range(9)), "array": ["one", "another"]}
steps = [plant_cycle(cycle=n, array=array) for n in STEPS["cycle"] for array in STEPS["array"]]
stepped = Sweep(STEPS, steps, steps[0].setting, Formula(None, range(4000)))
cells = lab.Panel(stepped, "Cell by cell", charts=["busy"], detail=cells_at)
"""
ASK_PYTHON = """
print({p._name: (p.setting, [tuple(card) for card in p.cards]) for p in (roofs, cells)})
"""
READ_ATTRIBUTES = """node => [...node.querySelectorAll("svg, svg *")]
  .flatMap((part) => [...part.attributes].map((attribute) => attribute.value))"""
NAME_UNDER = "([x, y]) => document.elementFromPoint(x, y).querySelector('title').textContent"


IMAGES = [1, 4, 16, 64]
DEVICES = ["laptop", "phone", "board", "card", "large card"]
CHARTS = ["latency of a call (ms)", "throughput (images/s)"]
EVERYTHING = [
    (device, network, format, images)
    for device in DEVICES
    for network, format, images in (("small", "fp16", 1), ("large", "fp16", 64))
]


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    """Run a notebook with panels over planted points."""
    sources = [PLANTED + "roofs", "cells", ASK_PYTHON]
    with open_cells(browser, tmp_path_factory.mktemp("roofs"), sources) as page:
        yield page


@pytest.fixture
def roofs(lab: LabPage) -> RoofOnPage:
    shown = RoofOnPage(lab, "Under the roof", "images", IMAGES)
    shown.reveal()
    return shown


@pytest.fixture
def cells(lab: LabPage) -> PanelOnPage:
    return PanelOnPage(lab, "Cell by cell")


@pytest.fixture(scope="module")
def in_python() -> dict[str, Any]:
    """Return the names of the notebook without a page."""
    namespace: dict[str, Any] = {}
    exec(PLANTED, namespace)
    return namespace


def test_a_guess_is_set_beside_what_was_computed(lab: LabPage, in_python: dict[str, Any]) -> None:
    panel = RoofOnPage(lab, "Under the roof", "images", IMAGES)
    told, outcome = panel.guess("latency")
    found = in_python["roofs"].cards[0].value
    expect(outcome).to_have_text(
        f"For 4 images, card, small, fp16 you predicted {told}; computed: latency {found}."
    )
    assert "measure" not in panel.root.inner_text().lower()
    expect(panel.root.get_by_role("button")).to_have_count(0)
    expect(panel.root).to_contain_text("computed: the larger of operations / peak and bytes")


def test_the_menu_moves_by_keyboard_and_python_follows(
    roofs: RoofOnPage, in_python: dict[str, Any]
) -> None:
    panel: Panel = in_python["roofs"]
    assert roofs.menu.locator("option").all_text_contents() == DEVICES
    roofs.menu.focus()
    for device, key in zip(DEVICES, ("Home", *["ArrowDown"] * 4), strict=True):
        roofs.page.keyboard.press(key)
        expect(roofs.menu).to_be_focused()
        panel.choose(device=device)
        assert roofs.cards() == [tuple(card) for card in panel.cards]
    setting, cards = roofs.asked_of_python()
    assert setting["device"] == "large card"
    assert cards == roofs.cards()


def test_the_layers_are_those_of_the_chosen_point(
    roofs: RoofOnPage, in_python: dict[str, Any]
) -> None:
    panel: Panel = in_python["roofs"]
    places = []
    for device, network, format, images in EVERYTHING:
        roofs.choose(device, network, format, images)
        panel.choose(device=device, network=network, format=format, images=images)
        roof, drawn = panel.detail, roofs.layers()
        assert set(drawn) == set(roof.layers)
        for name, (intensity, rate, share) in roof.layers.items():
            layer = drawn[name]
            is_right = intensity >= roof.ridge
            assert layer["is_square"] == layer["is_orange"] == is_right
            side = "arithmetic" if is_right else "memory"
            assert layer["told"].endswith(f" % of the time, bound by {side}")
            assert layer["area"] == pytest.approx(np.pi * (2**2 + 22**2 * share), rel=0.01)
            places.append((intensity, rate, layer["x"], layer["y"]))
        expect(roofs.picture).to_have_attribute("aria-label", tell_detail(roof))
        expect(roofs.picture).to_contain_text(f"ridge: {roof.ridge_words}")
    intensity, rate, x, y = np.array(places).T
    for numbers, pixels in ((intensity, x), (rate, -y)):  # one scale for all of them
        slope, start = np.polyfit(np.log10(numbers), pixels, 1)
        assert slope > 10
        assert np.allclose(start + slope * np.log10(numbers), pixels, atol=1)


def test_roofs_move_without_python(roofs: RoofOnPage) -> None:
    roofs.choose("card", "small", "fp16", 1)
    lines = roofs.drag_without_python("images", lambda: roofs.layers()["small.conv3"]["x"])
    assert lines == sorted(set(lines))
    roof = roofs.picture.locator(".im-roof")
    roofs.menu.focus()
    with roofs.lab.server.paused():
        seen = []
        for key in ("Home", *["ArrowDown"] * 4):
            roofs.page.keyboard.press(key)
            seen.append(roof.get_attribute("d"))
    assert len(set(seen)) == len(DEVICES)


def test_a_pointer_on_a_layer_is_told_its_name(roofs: RoofOnPage) -> None:
    roofs.choose("card", "large", "fp16", 16)
    roofs.picture.scroll_into_view_if_needed()
    named = 0
    for layer in roofs.layers().values():
        told = roofs.page.evaluate(NAME_UNDER, [layer["x"], layer["y"]])
        assert told.startswith("large.conv")
        named += told == layer["told"]
    assert named >= 10  # the others lie under one that takes less time


@pytest.mark.parametrize("chart", CHARTS)
def test_of_many_lines_only_the_near_ones_are_drawn(roofs: RoofOnPage, chart: str) -> None:
    for own in (("card", "small", "fp16"), ("laptop", "large", "fp8"), ("board", "small", "fp16")):
        roofs.choose(*own, 4)
        others = [(device, *own[1:]) for device in DEVICES if device != own[0]]
        others.append((own[0], {"small": "large", "large": "small"}[own[1]], own[2]))
        others.append((*own[:2], {"fp16": "fp8", "fp8": "fp16"}[own[2]]))
        expected = {", ".join(own): False, **{", ".join(other): True for other in others}}
        assert roofs.lines(chart) == expected


def test_what_does_not_exist_is_a_dash_and_a_gap(
    roofs: RoofOnPage, in_python: dict[str, Any]
) -> None:
    roofs.choose("phone", "large", "fp16", 4)  # between two batches that exist
    panel: Panel = in_python["roofs"]
    panel.choose(device="phone", network="large", format="fp16", images=4)
    assert roofs.cards() == [tuple(card) for card in panel.cards]
    assert {(value, note) for _, value, note in roofs.cards()} == {("–", "a phone cannot do this")}
    expect(roofs.root.locator(".im-spoken")).to_contain_text("a phone cannot do this")
    dots = roofs.root.locator("svg g:has(.im-dot)")
    assert {dot.get_attribute("visibility") for dot in dots.all()} == {"hidden"}
    for chart in CHARTS:
        svg = roofs.root.get_by_role("img", name=chart, exact=True)
        line = svg.locator("g:not(.im-faint) > .im-line").get_attribute("d") or ""
        assert [len(part.split("L")) for part in line.split("M")[1:]] == [1, 2]
    assert roofs.layers() == {}
    assert roofs.picture.locator(".im-roof").get_attribute("d") == ""
    assert not any("NaN" in value for value in roofs.root.evaluate(READ_ATTRIBUTES))
    roofs.choose("laptop", "small", "fp8", 16)  # a line without any point
    assert not any("NaN" in value for value in roofs.root.evaluate(READ_ATTRIBUTES))
    roofs.choose("laptop", "small", "fp16", 16)
    assert {dot.get_attribute("visibility") for dot in dots.all()} == {"visible"}


def test_the_tables_are_filled_when_they_are_opened(
    roofs: RoofOnPage, in_python: dict[str, Any]
) -> None:
    points, layers = roofs.root.locator("details").all()
    for details, name in ((points, "All points as a table"), (layers, "The layers as a table")):
        expect(details.locator("tbody tr")).to_have_count(0)
        roofs.root.get_by_text(name).focus()
        roofs.page.keyboard.press("Enter")
        expect(details.locator("tbody tr").first).to_be_visible()
    panel: Panel = in_python["roofs"]
    rows = points.locator("tbody tr")
    expect(rows).to_have_count(len(panel.spec["rows"]))
    assert rows.nth(7).locator("td").all_text_contents() == panel.spec["rows"][7]
    for network, count in (("large", 54), ("small", 6)):
        roofs.root.get_by_role("radio", name=network, exact=True).check()
        expect(layers.locator("tbody tr")).to_have_count(count)
        expect(layers.locator("tbody th").last).to_have_text(f"{network}.conv{count - 1}")
    for name in ("All points as a table", "The layers as a table"):
        roofs.root.get_by_text(name).click()  # closes them


def test_cells_are_those_of_the_chosen_step(cells: PanelOnPage, in_python: dict[str, Any]) -> None:
    panel: Panel = in_python["cells"]
    picture = cells.root.locator("svg").last
    cells.slider("cycle").focus()
    for cycle, key in enumerate(("Home", *["ArrowRight"] * 8)):
        cells.page.keyboard.press(key)
        panel.choose(cycle=cycle)
        squares = picture.locator("rect").all()
        looks = [square.get_attribute("class") for square in squares]
        written = picture.locator(".im-on-cell").all_text_contents()
        assert written == panel.detail.texts()
        assert looks == ["im-busy" if text else "im-idle" for text in written]
        table = cells.root.locator("details").last.locator("td")
        assert table.all_text_contents()[1:] == [text or "idle" for text in written]
        expect(picture).to_have_attribute("aria-label", tell_detail(panel.detail))
    boxes = [square.bounding_box() for square in squares]
    assert all(abs(box["width"] - box["height"]) < 0.1 for box in boxes)
    assert len({round(box["y"]) for box in boxes[:4]}) == 1  # row by row
    assert boxes[0]["x"] < boxes[1]["x"]


def test_what_is_written_into_a_cell_fits(cells: PanelOnPage) -> None:
    cells.move("cycle", 4)
    picture = cells.root.locator("svg").last
    widths = picture.locator(".im-on-cell").evaluate_all(
        "all => all.map((text) => text.getBoundingClientRect().width)"
    )
    assert 10 < max(widths) < picture.locator("rect").first.bounding_box()["width"]


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    roofs: RoofOnPage, cells: PanelOnPage, lab: LabPage, pictures: Path, theme: str
) -> None:
    lab.set_theme(theme)
    roofs.choose("board", "large", "fp16", 16)
    roofs.photograph(pictures / f"roof_{theme.lower()}.png")
    cells.move("cycle", 4)
    cells.photograph(pictures / f"cells_{theme.lower()}.png")
    tables = lab.page.locator(".im-panel details")
    tables.evaluate_all("all => all.forEach((details) => (details.open = true))")
    expect(tables.nth(1).locator("tbody tr")).to_have_count(54)
    assert roofs.violations() == []
    tables.evaluate_all("all => all.forEach((details) => (details.open = false))")


@pytest.mark.parametrize("width", [700, 1280])
def test_every_text_is_readable_and_nothing_is_cut_off(
    roofs: RoofOnPage, cells: PanelOnPage, pictures: Path, width: int
) -> None:
    for device in ("laptop", "large card"):  # the ridge is far to the left, or to the right
        roofs.choose(device, "large", "fp16", 64)
        assert roofs.unreadable_at(width, pictures / f"roof_{width}px.png") == []
    cells.move("cycle", 4)
    assert cells.unreadable_at(width, pictures / f"cells_{width}px.png") == []


def test_nothing_came_from_outside_and_nothing_broke(lab: LabPage) -> None:
    assert lab.outside == []
    assert lab.errors == []
