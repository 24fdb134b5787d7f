"""The bits of a number on the page: the same text as in Python, by mouse, keyboard and slider."""

import itertools
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_page import LabPage, open_cells
from panel_page import PanelOnPage
from playwright.sync_api import Browser, Locator, Page, expect

from course_utils.formats import FORMATS
from course_utils.lab import page
from course_utils.lab.bits import BitView

pytestmark = pytest.mark.browser

SOURCE = page.read("dom.js", "bits.js")
CELLS = [
    "from course_utils.lab.bits import BitView\nview = BitView(0.1)\nview",
    "view.value = -0.625\nview.flip('fp16', 1)",
    "print({view.spec['name']: (view.value, [tuple(row) for row in view.rows])})",
]
# The widget in a page without a kernel: `set` is all that a learner's or Python's change does.
RENDER = """async ([source, spec]) => {
  const module = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
  const state = {spec, value: 0.1, flipped: {}};
  const handlers = {};
  window.model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; handlers[`change:${name}`]?.(); },
    on: (event, handler) => { handlers[event] = handler; },
    off() {}, save_changes() {},
  };
  module.default.render({model, el: document.body});
}"""
READ_ROWS = """() => [...document.querySelectorAll('[role="row"]:not(.im-head)')].map((row) =>
  [...row.children].map((cell) => cell.textContent))"""
SHOW_STATES = f"""(states) => states.map((state) => {{
  model.set("flipped", state.flipped);
  model.set("value", state.value);
  return ({READ_ROWS})();
}})"""


class BitsOnPage(PanelOnPage):
    """The bits of a number, as a learner meets them."""

    def row(self, name: str) -> Locator:
        header = self.page.get_by_role("rowheader", name=name, exact=True)
        return self.root.get_by_role("row").filter(has=header)

    def bit(self, name: str, position: int) -> Locator:
        return self.row(name).get_by_role("button").nth(position)

    def rows(self) -> list[tuple[str, ...]]:
        """Return name, bits, stored value and error of each format, read off the page."""
        rows = self.root.locator(".im-row:not(.im-head)").all()
        return [tuple(row.locator("> div").all_text_contents()) for row in rows]

    def cards(self) -> list[tuple[str, ...]]:
        """Return what Python is asked for: there are rows in place of cards."""
        return self.rows()

    def type_number(self, text: str) -> None:
        self.root.get_by_label("or type it").fill(text)


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    """Run a notebook that makes a view and changes it from Python."""
    with open_cells(browser, tmp_path_factory.mktemp("bits"), CELLS, height=1200) as page:
        yield page


@pytest.fixture
def bits(lab: LabPage) -> BitsOnPage:
    return BitsOnPage(lab, BitView().spec["name"])


@pytest.fixture
def bare_page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


# The same text as in Python


def test_what_python_sets_is_shown(bits: BitsOnPage) -> None:
    expected = BitView(-0.625)
    expected.flip("fp16", 1)
    expect(bits.root.locator(".im-flipped")).to_have_count(1)
    assert bits.rows() == expected.rows
    assert bits.asked_of_python() == (-0.625, expected.rows)
    expect(bits.root.get_by_label("or type it")).to_have_value("-0.625")


@pytest.mark.parametrize("text", ["0.3", "-0.3", "0", "-0", "1e-7", "500", "-70000", "1e300"])
def test_a_typed_number_is_shown_as_python_shows_it(bits: BitsOnPage, text: str) -> None:
    bits.type_number(text)
    assert bits.rows() == BitView(float(text)).rows
    assert bits.asked_of_python() == (float(text), BitView(float(text)).rows)


def test_what_is_no_number_changes_nothing(bits: BitsOnPage) -> None:
    bits.type_number("0.25")
    bits.type_number("")
    assert bits.rows() == BitView(0.25).rows
    bits.page.keyboard.press("Tab")
    expect(bits.root.get_by_label("or type it")).to_have_value("0.25")


def awkward_numbers() -> list[float]:
    """Return numbers of every size, the borders of formats, and halfway points."""
    source = random.Random(0)
    found = [0.0, 1e308, 5e-324, 464.0, 465.0, 61440.0, 65519.0, 65520.0, 1e-4, 9.99e-5, 1e16]
    found += [source.uniform(-1, 1) for _ in range(400)]
    found += [math.ldexp(source.uniform(1, 2), source.randrange(-160, 130)) for _ in range(600)]
    found += [steps / 2 / largest for largest in (7, 127) for steps in range(-255, 256)]
    for one in itertools.islice(FORMATS.values(), 6):
        for _ in range(150):
            code = source.randrange(2 ** (one.bits - 1) - 2 ** (one.bits - 4))
            low, high = (one.decode(f"{code + n:0{one.bits}b}") for n in (0, 1))
            if math.isfinite(high):
                found += [(low + high) / 2, -low, math.nextafter((low + high) / 2, 0)]
    return found


def test_python_and_the_page_agree_on_awkward_numbers(bare_page: Page) -> None:
    view, numbers = BitView(), awkward_numbers()
    states = [{"value": number, "flipped": {}} for number in numbers]
    bare_page.evaluate(RENDER, [SOURCE, view.spec])
    shown = bare_page.evaluate(SHOW_STATES, states)
    for number, rows in zip(numbers, shown, strict=True):
        view.value = number
        assert [tuple(row) for row in rows] == view.rows, number


def test_python_and_the_page_agree_on_what_bits_stand_for(bare_page: Page) -> None:
    view = BitView(0.3, largest=0.77)
    picks = random.Random(0)
    states = []
    for n in range(1024):
        codes = {
            name: n if one.bits < 9 else picks.getrandbits(32) for name, one in FORMATS.items()
        }
        flips = {name: f"{codes[name] % 2**one.bits:0{one.bits}b}" for name, one in FORMATS.items()}
        states.append({"value": 0.3, "flipped": {"value": 0.3, "bits": flips}})
    bare_page.evaluate(RENDER, [SOURCE, view.spec])
    shown = bare_page.evaluate(SHOW_STATES, states)
    for state, rows in zip(states, shown, strict=True):
        view.flipped = state["flipped"]
        assert [tuple(row) for row in rows] == view.rows


def test_drags_and_flips_need_no_kernel(bare_page: Page) -> None:
    view = BitView()
    bare_page.evaluate(RENDER, [SOURCE, view.spec])
    bare_page.get_by_role("slider").press("Home")
    view.value = -1.0
    assert list(map(tuple, bare_page.evaluate(READ_ROWS))) == view.rows
    bare_page.get_by_role("group", name="int8").get_by_role("button").first.click()
    view.flip("int8", 0)
    assert list(map(tuple, bare_page.evaluate(READ_ROWS))) == view.rows
    for key in ("ArrowRight", "ArrowLeft"):  # the flip belonged to the number before
        bare_page.get_by_role("slider").press(key)
    assert list(map(tuple, bare_page.evaluate(READ_ROWS))) == BitView(-1.0).rows


# By mouse and by keyboard


def test_the_slider_moves_by_keyboard(bits: BitsOnPage) -> None:
    slider = bits.slider("number")
    for keys, value in ((["Home"], -1.0), (["ArrowRight"] * 3, -0.997), (["End"], 1.0)):
        slider.focus()
        for key in keys:
            bits.page.keyboard.press(key)
        assert bits.rows() == BitView(value).rows
        assert bits.asked_of_python() == (value, BitView(value).rows)
    expect(slider).to_have_attribute("aria-valuetext", "1")
    expect(bits.root.get_by_label("or type it")).to_have_value("1")


def test_a_drag_with_the_mouse_shows_the_number_where_it_ends(bits: BitsOnPage) -> None:
    box = bits.steady_box(bits.slider("number"))
    middle = box["y"] + box["height"] / 2
    bits.page.mouse.move(box["x"] + box["width"] - 8, middle)
    bits.page.mouse.down()
    for step in range(20):
        bits.page.mouse.move(box["x"] + box["width"] * (1 - step / 30), middle)
    bits.page.mouse.up()
    value, rows = bits.asked_of_python()
    assert -0.4 < value < -0.2
    assert bits.rows() == rows == BitView(value).rows


def test_a_click_flips_a_bit_and_another_number_ends_it(bits: BitsOnPage) -> None:
    bits.type_number("0.3")
    expected = BitView(0.3)
    for name, position in (("fp16", 0), ("fp16", 4), ("fp8 E4M3", 7), ("int4", 0)):
        bit = bits.bit(name, position)
        was = bit.get_attribute("aria-pressed")
        bit.click()
        expected.flip(name, position)
        expect(bit).to_have_attribute("aria-pressed", "false" if was == "true" else "true")
        expect(bit).to_have_class(re.compile("im-flipped"))
        assert bits.rows() == expected.rows
    assert bits.asked_of_python() == (0.3, expected.rows)
    bits.bit("int4", 0).click()
    expected.flip("int4", 0)
    assert bits.rows() == expected.rows
    bits.type_number("0.4")
    bits.type_number("0.3")
    assert bits.asked_of_python() == (0.3, BitView(0.3).rows)
    assert bits.rows() == BitView(0.3).rows
    assert bits.root.locator(".im-flipped").count() == 0


def test_a_bit_is_flipped_by_keyboard(bits: BitsOnPage) -> None:
    bits.type_number("0.3")
    expected = BitView(0.3)
    bits.root.get_by_label("or type it").focus()
    bits.page.keyboard.press("Tab")
    expect(bits.bit("fp32", 0)).to_be_focused()
    bits.page.keyboard.press("Tab")  # one stop for each row
    expect(bits.bit("tf32", 0)).to_be_focused()
    for key, position in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 18), ("ArrowLeft", 17)):
        bits.page.keyboard.press(key)
        expect(bits.bit("tf32", position)).to_be_focused()
        bits.page.keyboard.press("Space")
        expected.flip("tf32", position)
        assert bits.rows() == expected.rows
    bits.page.keyboard.press("Home")
    bits.page.keyboard.press("ArrowLeft")  # there is nothing further left
    expect(bits.bit("tf32", 0)).to_be_focused()
    bits.page.keyboard.press("Enter")
    expected.flip("tf32", 0)
    assert bits.asked_of_python() == (0.3, expected.rows)
    bits.bit("tf32", 3).focus()
    bits.page.keyboard.press("Tab")
    bits.page.keyboard.press("Shift+Tab")  # back to where one was in the row
    expect(bits.bit("tf32", 3)).to_be_focused()


def test_stray_keys_leave_the_notebook_alone(bits: BitsOnPage) -> None:
    bits.type_number("0.3")
    cells = bits.page.locator(".jp-Cell").count()
    for place in (bits.bit("bf16", 2), bits.slider("number")):
        place.focus()
        for key in "abdd":
            bits.page.keyboard.press(key)
        expect(place).to_be_focused()
    assert bits.page.locator(".jp-Cell").count() == cells
    assert bits.rows() == BitView(0.3).rows


# For everybody


def test_every_bit_has_a_name_and_a_state(bits: BitsOnPage) -> None:
    bits.type_number("-0.3")
    for name, shown, *_ in BitView(-0.3).rows:
        buttons = bits.row(name).get_by_role("button")
        assert buttons.count() == len(shown)
        labels = [button.get_attribute("aria-label") for button in buttons.all()]
        assert labels[0] in ("sign bit 1 of 1", f"integer bit 1 of {len(shown)}")
        assert len(set(labels)) == len(shown)
        pressed = [button.get_attribute("aria-pressed") for button in buttons.all()]
        assert pressed == ["true" if digit == "1" else "false" for digit in shown]
        stops = [button.get_attribute("tabindex") for button in buttons.all()]
        assert sorted(stops) == ["-1"] * (len(shown) - 1) + ["0"]


def test_changes_are_spoken(bits: BitsOnPage) -> None:
    spoken = bits.root.locator("[role=status]")
    bits.type_number("0.1")
    expect(spoken).to_have_text(re.compile(r"^relative error: fp32 1\.5e−6 %, .*, int4 43 %$"))
    bits.bit("fp16", 0).click()
    expect(spoken).to_have_text("fp16: −0.0999755859375, relative error 200 %")


def test_each_field_has_a_line_and_a_colour_of_its_own(bits: BitsOnPage) -> None:
    read = "node => ['Style', 'Color'].map((part) => getComputedStyle(node)[`borderBottom${part}`])"
    keys = bits.root.locator(".im-key")
    styles = {key.text_content(): key.evaluate(read) for key in keys.all()}
    assert set(styles) == {"sign", "exponent", "fraction", "integer"}
    assert len({line for line, _ in styles.values()}) == 4
    assert len({colour for _, colour in styles.values()}) == 4
    bits.page.mouse.move(0, 0)
    for name, position, field in (
        ("fp16", 0, "sign"),
        ("bf16", 3, "exponent"),
        ("int8", 4, "integer"),
    ):
        assert bits.bit(name, position).evaluate(read) == styles[field]


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    bits: BitsOnPage, lab: LabPage, pictures: Path, theme: str
) -> None:
    lab.set_theme(theme)
    bits.type_number("0.1")
    bits.bit("fp16", 5).click()
    bits.bit("bf16", 1).focus()
    bits.page.keyboard.press("ArrowRight")
    bits.page.mouse.move(0, 0)
    assert bits.bit("bf16", 2).evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    bits.root.screenshot(path=pictures / f"bits_{theme.lower()}.png")
    assert bits.violations() == []


def test_a_narrow_page_cuts_nothing_off(bits: BitsOnPage, pictures: Path) -> None:
    bits.type_number("-0.1")
    size = bits.page.viewport_size
    bits.page.set_viewport_size({"width": 700, "height": 1400})
    bits.root.scroll_into_view_if_needed()
    inside = bits.root.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    right = bits.root.bounding_box()["x"] + bits.root.bounding_box()["width"]
    ends = [
        box["x"] + box["width"]
        for box in (
            button.bounding_box() for button in bits.row("fp32").get_by_role("button").all()
        )
    ]
    bits.root.screenshot(path=pictures / "bits_700px.png")
    bits.page.set_viewport_size(size or {"width": 1280, "height": 1200})
    assert inside
    assert max(ends) <= right


def test_nothing_came_from_outside_and_nothing_broke(lab: LabPage) -> None:
    assert lab.outside == []
    assert lab.errors == []
