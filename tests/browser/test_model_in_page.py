"""A model in the page: what it says is what Python says, and it needs nobody for it."""

import base64
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_page import LabPage, open_cells
from model_page import READ_PIXELS, ModelOnPage
from playwright.sync_api import Browser, Locator, Page, expect

from course_utils import web_runtime
from course_utils.lab import BrowserModel, page

pytestmark = pytest.mark.browser

STUDENT = "Student in the page"
TWIN = "Another of the same"
MISSING = "Without its runtime"
PLANTED = f"""
import os
from course_utils import datasets, distill, lab, quantize, runtimes

fashion = datasets.load_fashion()
student = distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model
folded = quantize.fold_batch_norms(student)
pixels = fashion.calibration.images
models = {{
    "fp32": runtimes.build(folded, pixels),
    "int8": runtimes.build(quantize.quantize_weights(folded, 8), pixels),
}}
shown = lab.BrowserModel(models, fashion.test, fashion.classes, name={STUDENT!r})
twin = lab.BrowserModel({{"int8": models["int8"]}}, fashion.test, fashion.classes, name={TWIN!r})
"""
WITHOUT = f"""
os.environ["INFERENCE_MEASURED_INSTALLED"] = "nowhere"
missing = lab.BrowserModel(models, fashion.test, fashion.classes, name={MISSING!r}, strip=6)
del os.environ["INFERENCE_MEASURED_INSTALLED"]
missing
"""
SHOW = ["", "twin", WITHOUT, "shown.send({'do': 'nothing'})"]
ASK_PYTHON = """
found = [shown.compare(name) for name in models]
print({shown.spec["name"]: (
    shown.chosen, {one.name: (one.count, one.differing) for one in found}, shown.times)})
"""
# The widget in a page without a kernel. `files` are what Python would answer.
RENDER = """async ([source, state, files, name, views]) => {
  const module = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const handlers = new Map();
  const emit = (event, ...all) => (handlers.get(event) ?? []).forEach((handler) => handler(...all));
  window.asked ??= {};
  window.asked[name] = [];
  const values = {...state, picture: bytes(state.picture)};
  const model = {
    get: (trait) => values[trait],
    set: (trait, value) => { values[trait] = value; emit(`change:${trait}`); },
    on: (event, one) => handlers.set(event, [...(handlers.get(event) ?? []), one]),
    off: (event, one) => handlers.set(event, (handlers.get(event) ?? []).filter((h) => h !== one)),
    save_changes() {},
    send(message) {
      window.asked[name].push(message.runtime);
      if (!files) return;
      const { reply, always, runtime } = files;
      const all = [...always, ...(message.runtime ? runtime : [])].map(bytes);
      setTimeout(() => emit("msg:custom", reply, all));
    },
  };
  const widget = module.default();
  await widget.initialize({ model });
  for (let view = 0; view < views; view++) {
    const el = document.createElement("div");
    document.body.append(el);
    widget.render({ model, el });
  }
}"""


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    """Run a notebook with models in the page."""
    sources = [PLANTED + "shown", *SHOW[1:], ASK_PYTHON]
    with open_cells(browser, tmp_path_factory.mktemp("models"), sources, seconds=120) as page:
        yield page


@pytest.fixture(scope="module")
def in_python() -> dict[str, Any]:
    """Return the names of the notebook without a page."""
    namespace: dict[str, Any] = {}
    exec(PLANTED, namespace)
    return namespace


@pytest.fixture
def shown(lab: LabPage) -> ModelOnPage:
    found = ModelOnPage(lab, STUDENT)
    expect(found.root.get_by_text("Everything is in this page now")).to_be_visible(timeout=60_000)
    return found


@pytest.fixture
def bare(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page()
    yield opened
    opened.close()


def what_python_would_send(widget: BrowserModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state of a widget and its answer to a page that asks for files."""
    written = [base64.b64encode(file).decode() for file in (widget._bytes, *widget._files)]
    runtime = [base64.b64encode(file).decode() for file in web_runtime.load()]
    state = {name: getattr(widget, name) for name in ("spec", "chosen", "times", "answers", "told")}
    state["picture"] = base64.b64encode(widget.picture).decode()
    reply = {"do": "files", "models": len(widget._files)}
    return state, {"reply": reply, "always": written, "runtime": runtime}


def render(
    bare: Page, state: dict[str, Any], files: dict[str, Any] | None, name: str, views: int = 1
) -> Locator:
    """Show a widget under a name of its own in a page without a kernel."""
    source = str(BrowserModel._esm)
    spec = {**state["spec"], "name": name}
    bare.evaluate(RENDER, [source, {**state, "spec": spec}, files, name, views])
    return bare.get_by_role("region", name=name, exact=True)


# What the page says is what Python says


def test_every_byte_becomes_the_pixel_that_python_has(bare: Page) -> None:
    source = page.read("browser_runtime.js")
    url = (
        "URL.createObjectURL(new Blob([source + 'export { toPixels }'], {type: 'text/javascript'}))"
    )
    pixels = bare.evaluate(
        f"async (source) => [...(await import({url})).toPixels([...Array(256).keys()])]", source
    )
    in_python = np.divide(np.arange(256, dtype=np.uint8), 255, dtype=np.float32)
    assert (np.array(pixels, np.float32) == in_python).all()


def test_images_picked_by_mouse_and_by_keyboard(
    shown: ModelOnPage, in_python: dict[str, Any]
) -> None:
    images, labels = in_python["fashion"].test.images, in_python["fashion"].test.labels
    classes = in_python["fashion"].classes
    shown.image(2).locator("xpath=..").click()
    for place, key in ((2, None), (3, "ArrowRight"), (4, "ArrowDown"), (3, "ArrowLeft")):
        if key:
            shown.page.keyboard.press(key)
        expect(shown.image(place)).to_be_checked()
        expect(shown.image(place)).to_be_focused()
        expect(shown.root.locator("caption")).to_have_text(
            f"image {place + 1} of 500, labelled {classes[labels[place]]}"
        )
        assert (shown.pixels()[0] == images[place]).all()
        shown.expect_what_python_says(in_python["shown"])


def test_a_class_that_is_hardly_likely_is_not_called_impossible(
    shown: ModelOnPage, in_python: dict[str, Any]
) -> None:
    shown.image(6).locator("xpath=..").click()
    shown.expect_what_python_says(in_python["shown"])
    texts = np.reshape(shown.root.locator("tbody .im-share").all_text_contents(), (-1, 2))
    bars = shown.bars()
    tiny = (bars > 0) & (bars < 0.0005)
    assert tiny.any()
    assert set(texts[tiny]) == {"< 0.1 %"}
    assert (texts[bars >= 0.0005] != "< 0.1 %").all()


def test_the_strip_turns_to_all_images(shown: ModelOnPage, in_python: dict[str, Any]) -> None:
    earlier, later = (
        shown.root.get_by_role("button", name=f"{word} images") for word in ("Earlier", "Later")
    )
    shown.image(0).locator("xpath=..").click()
    expect(earlier).to_have_attribute("aria-disabled", "true")
    earlier.click(force=True)
    later.focus()
    for _ in range(41):
        shown.page.keyboard.press("Enter")
    expect(shown.root.locator("legend")).to_have_text("images 493 to 500 of 500")
    expect(later).to_have_attribute("aria-disabled", "true")
    assert shown.root.locator(".im-strip label:visible").count() == 8
    shown.image(7).locator("xpath=..").click()
    assert (shown.pixels()[0] == in_python["fashion"].test.images[499]).all()
    earlier.click()
    expect(shown.root.locator("legend")).to_have_text("images 481 to 492 of 500")
    expect(shown.image(0)).to_be_checked()


def test_python_can_choose_an_image(shown: ModelOnPage, lab: LabPage) -> None:
    cell = lab.page.locator(".jp-CodeCell").nth(3)
    cell.locator(".cm-content").click()
    lab.page.keyboard.press("Control+a")
    lab.page.keyboard.insert_text("shown.choose(30)")
    lab.page.keyboard.press("Control+Enter")
    expect(shown.root.locator("caption")).to_contain_text("image 31 of 500")
    expect(shown.root.locator("legend")).to_have_text("images 25 to 36 of 500")
    expect(shown.image(6)).to_be_checked()


def test_the_classes_of_500_images_are_those_of_python(
    shown: ModelOnPage, in_python: dict[str, Any]
) -> None:
    shown.image(3).locator("xpath=..").click()
    said = shown.count().text_content()
    expect(shown.root.get_by_text("Compared with Python on the same files:")).to_be_visible()
    labels = in_python["fashion"].test.labels[:500]
    chosen, found, _ = shown._told_by_python()
    for name, run in in_python["models"].items():
        right = int((run(in_python["fashion"].test.images[:500]).argmax(1) == labels).sum())
        counted, differing = found[name]
        assert counted == 500
        assert 1 - len(differing) / counted >= 0.999
        assert abs(int(re.search(rf"{name} (\d+) of 500 right", said)[1]) - right) <= len(differing)
        expect(shown.root).to_contain_text(
            f"{name}: the same class for {500 - len(differing)} of 500"
        )
    expect(shown.root.locator("caption")).to_contain_text(f"image {chosen + 1} of 500")


def test_times_are_shown_and_told_to_python(shown: ModelOnPage) -> None:
    shown.root.get_by_role("button", name="Time again").click()
    button = shown.root.get_by_role("button", name="Time again")
    expect(button).to_have_attribute("aria-disabled", "false", timeout=30_000)
    _, _, times = shown._told_by_python()
    assert set(times) == {"fp32", "int8"}
    cards = dict(zip([*times, "start"], shown.cards(), strict=True))
    for name, found in times.items():
        assert 0 < found["low_ms"] <= found["median_ms"] <= found["high_ms"] < 1000
        assert min(found["first_ms"], found["create_ms"]) > 0
        title, value, note = cards[name]
        assert re.match(rf"{name}, \d+\.\d KiB: latency", title)
        assert float(value.removesuffix(" ms")) == pytest.approx(found["median_ms"], rel=0.02)
        assert f"median of {found['runs']} runs" in note
        assert "first run" in note
        assert "session made in" in note
    assert "× the speed of fp32, timed in turns" in cards["int8"][2]
    assert "14.2 MB of WebAssembly" in cards["start"][2]


# Drawing


def test_a_drawn_garment_is_classified_as_python_does(
    shown: ModelOnPage, in_python: dict[str, Any]
) -> None:
    shown.root.get_by_role("button", name="Clear").click()
    expect(shown.root.locator("caption")).to_have_text("your drawing")
    assert shown.pixels().max() == 0
    assert shown.root.get_by_role("radio", checked=True).count() == 0
    shown.set_slider("brush", 5)
    shown.draw((0.38, 0.1, 0.62, 0.1), (0.38, 0.1, 0.36, 0.93), (0.62, 0.1, 0.64, 0.93))
    assert 0.15 < (shown.pixels() > 0.5).mean() < 0.5
    shown.expect_what_python_says(in_python["shown"])
    expect(shown.root.locator("tr", has=shown.page.locator(".im-top")).first).to_contain_text(
        "trouser"
    )


def test_strokes_over_an_image_change_it_until_it_is_picked_again(
    shown: ModelOnPage, in_python: dict[str, Any]
) -> None:
    shown.root.get_by_role("button", name="Earlier images").click(force=True)
    shown.image(1).locator("xpath=..").click()
    before = shown.pixels()
    shown.set_slider("brightness", 0)
    expect(shown.slider("brightness")).to_have_attribute("aria-valuetext", "0, erases")
    shown.set_slider("brush", 7)
    shown.draw((0.05, 0.5, 0.95, 0.5))
    assert shown.pixels().sum() < 0.8 * before.sum()
    assert (shown.pixels() <= before).all()
    expect(shown.root.locator("caption")).to_contain_text(", with your strokes")
    shown.expect_what_python_says(in_python["shown"])
    shown.image(1).locator("xpath=..").click()
    assert (shown.pixels() == before).all()
    shown.set_slider("brightness", 210)


def test_drawing_by_keyboard(shown: ModelOnPage, in_python: dict[str, Any]) -> None:
    shown.root.get_by_role("button", name="Clear").click()
    shown.set_slider("brush", 1)
    shown.easel.focus()
    for key in [*["ArrowUp"] * 40, *["ArrowLeft"] * 40, "ArrowDown", "ArrowRight", "Space"]:
        shown.page.keyboard.press(key)
    for key in ["Shift+ArrowRight"] * 3 + ["ArrowRight"] * 2 + ["Enter"]:
        shown.page.keyboard.press(key)
    drawn = np.round(255 * shown.pixels()[0, 0])
    rows, columns = np.nonzero(drawn == 210)
    assert list(zip(rows, columns, strict=True)) == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 6)]
    assert (drawn > 0).sum() == 5
    shown.expect_what_python_says(in_python["shown"])
    spoken = shown.root.locator(".im-spoken")
    expect(spoken).to_have_text(re.compile(r"^row 2, column 7; fp32: .* %, int8: .* %$"))
    expect(shown.root.locator(".im-brush")).to_be_visible()


def test_stray_keys_leave_the_notebook_alone(shown: ModelOnPage) -> None:
    cells = shown.page.locator(".jp-Cell").count()
    for place in (shown.easel, shown.image(2), shown.slider("brush")):
        place.focus()
        for key in "abdd":
            shown.page.keyboard.press(key)
        expect(place).to_be_focused()
    assert shown.page.locator(".jp-Cell").count() == cells


# Nobody is asked


def test_no_request_leaves_the_page(shown: ModelOnPage) -> None:
    shown.image(5).locator("xpath=..").click()
    expect(shown.root.locator(".im-requests")).to_contain_text(
        "Since the models were loaded, this page made 0 requests to other servers."
    )


def test_it_works_while_python_is_held_still(shown: ModelOnPage, in_python: dict[str, Any]) -> None:
    reply = shown.root.get_by_text("Python does not answer")
    with shown.lab.server.paused():
        shown.image(8).locator("xpath=..").click()
        shown.expect_what_python_says(in_python["shown"])
        shown.count()
        expect(reply).to_be_visible()
    expect(shown.root.get_by_text("Compared with Python on the same files:")).to_be_visible()


PICK_WHILE_IT_COUNTS = """async (root) => {
  const bar = root.querySelector("progress"), images = root.querySelectorAll(".im-strip input");
  const buttons = [...root.querySelectorAll("button")], seen = [];
  buttons.find((one) => one.textContent.startsWith("Count the accuracy")).click();
  while (!bar.hidden) {
    seen.push(bar.value);
    images[seen.length % 12].click();
    await new Promise((go) => setTimeout(go, 20));
  }
  return seen;
}"""


def test_the_page_stays_alive_while_it_counts(shown: ModelOnPage) -> None:
    start = int(re.search(r"\d+", shown.root.locator("legend").text_content())[0])
    seen = shown.root.evaluate(PICK_WHILE_IT_COUNTS)
    assert seen == sorted(seen)
    assert len({value for value in seen if 0 < value < 1}) >= 2
    expect(shown.root.locator("caption")).to_contain_text(f"image {start + len(seen) % 12} of 500")


def test_a_second_widget_takes_the_runtime_that_is_there(lab: LabPage, shown: ModelOnPage) -> None:
    twin = ModelOnPage(lab, TWIN)
    expect(twin.root.get_by_text("Everything is in this page now")).to_be_visible()
    assert twin.cards()[-1] == shown.cards()[-1]  # started once
    assert twin.bars().shape == (10, 1)


def test_without_the_runtime_the_page_says_what_to_do(lab: LabPage) -> None:
    missing = ModelOnPage(lab, MISSING)
    expect(missing.root).to_contain_text(
        "ONNX Runtime for the browser is not on this machine. Install it with:"
        "  python -m course_utils.fetch onnxruntime-web"
    )
    picture = missing.root.get_by_role("img", name=re.compile(f"^{MISSING}: the first 6 images"))
    expect(picture).to_be_visible()
    assert picture.evaluate("node => node.naturalWidth") == 900
    assert missing.root.get_by_role("button").count() == 0


# For everybody


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes_are_accessible(
    shown: ModelOnPage, lab: LabPage, pictures: Path, theme: str
) -> None:
    lab.set_theme(theme)
    shown.image(4).locator("xpath=..").click()
    shown.photograph(pictures / f"browser_model_{theme.lower()}.png")
    assert shown.violations() == []


@pytest.mark.parametrize("width", [700, 1280])
def test_nothing_is_cut_off(shown: ModelOnPage, pictures: Path, width: int) -> None:
    shown.image(4).locator("xpath=..").click()
    assert shown.unreadable_at(width, pictures / f"browser_model_{width}px.png") == []


def test_each_model_has_a_look_of_its_own(shown: ModelOnPage) -> None:
    looks = shown.root.locator("thead .im-sign").evaluate_all(
        "all => all.map((sign) => getComputedStyle(sign).backgroundImage)"
    )
    assert looks[0] == "none"
    assert "repeating-linear-gradient" in looks[1]


def test_nothing_came_from_outside_and_nothing_broke(lab: LabPage) -> None:
    assert lab.outside == []
    assert lab.errors == []


def test_when_the_kernel_is_gone_the_page_goes_on(
    shown: ModelOnPage, lab: LabPage, in_python: dict[str, Any]
) -> None:
    lab.page.get_by_role("menuitem", name="Kernel", exact=True).click()
    lab.page.get_by_text("Shut Down Kernel", exact=True).click()
    expect(lab.page.get_by_text(re.compile(r"No Kernel")).first).to_be_visible()
    shown.image(9).locator("xpath=..").click()
    shown.expect_what_python_says(in_python["shown"])
    expect(shown.count()).to_contain_text("of 500 right")
    expect(shown.root.get_by_text("Python does not answer")).to_be_visible()
    assert lab.errors == []


# What can be missing or damaged


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("delete window.WebAssembly", "This browser has no WebAssembly"),
        ("WebAssembly.validate = () => false", "has no vector instructions (SIMD)"),
        ("delete window.DecompressionStream", "has no DecompressionStream"),
    ],
)
def test_an_unfit_browser_is_told(
    bare: Page, in_python: dict[str, Any], missing: str, said: str
) -> None:
    state, files = what_python_would_send(in_python["shown"])
    bare.evaluate(f"() => {{ {missing}; }}")
    shown = render(bare, state, files, "unfit")
    expect(shown).to_contain_text(said)
    expect(shown).to_contain_text("Open the notebook in a current version of")
    expect(shown.get_by_role("img", name=STUDENT)).to_be_visible()
    assert bare.evaluate("asked.unfit") == []


def damaged(kind: str, files: dict[str, Any]) -> dict[str, Any]:
    """Return the files of Python's answer with one of them spoilt."""
    images, fp32, int8 = files["always"]
    script, packed = files["runtime"]
    noise = base64.b64encode(gzip.compress(b"\0asm" + bytes(1000))).decode()
    other = {
        "packed": {"runtime": [script, packed[:4000]]},
        "wasm": {"runtime": [script, noise]},
        "script": {"runtime": [base64.b64encode(b"export nothing").decode(), packed]},
        "one model": {"always": [images, fp32[:4000], int8]},
        "both models": {"always": [images, fp32[:4000], base64.b64encode(b"garbage").decode()]},
        "reply": {"reply": {"do": "files", "error": "ONNX Runtime is gone. Install it."}},
    }
    return {**files, **other[kind]}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("packed", "The WebAssembly of ONNX Runtime arrived damaged. Run the cell again."),
        ("wasm", "The WebAssembly of ONNX Runtime does not start:"),
        ("script", "The WebAssembly of ONNX Runtime does not start:"),
        ("both models", "This browser cannot run fp32:"),
        ("both models", "This browser cannot run int8:"),
        ("reply", "ONNX Runtime is gone. Install it."),
    ],
)
def test_what_is_damaged_is_named_and_can_be_had_again(
    bare: Page, in_python: dict[str, Any], kind: str, said: str
) -> None:
    state, files = what_python_would_send(in_python["shown"])
    shown = render(bare, state, damaged(kind, files), "damaged")
    expect(shown).to_contain_text(said, timeout=30_000)
    expect(shown.get_by_role("img", name=STUDENT)).to_be_visible()
    again = render(bare, state, files, "again")
    expect(again.get_by_text("Everything is in this page now")).to_be_visible(timeout=30_000)


def test_one_damaged_model_leaves_the_other(bare: Page, in_python: dict[str, Any]) -> None:
    state, files = what_python_would_send(in_python["shown"])
    shown = render(bare, state, damaged("one model", files), "half")
    expect(shown.get_by_text("Everything is in this page now")).to_be_visible(timeout=30_000)
    card = shown.locator(".im-card").first
    expect(card.locator(".im-value")).to_have_text("–")
    expect(card).to_contain_text("This browser cannot run fp32:")
    expect(shown.locator("td.im-top")).to_have_count(1)
    shown.get_by_role("button", name="Count the accuracy").click()
    expect(shown.get_by_text("Counted in this page: int8")).to_be_visible(timeout=30_000)


def test_a_finger_draws_too(browser: Browser, in_python: dict[str, Any]) -> None:
    with browser.new_page(has_touch=True) as touched:
        state, files = what_python_would_send(in_python["shown"])
        shown = render(touched, state, files, "touched")
        shown.get_by_role("button", name="Clear").click(timeout=30_000)
        easel = shown.get_by_role("application")
        easel.scroll_into_view_if_needed()
        box = easel.bounding_box()
        scale_x, scale_y = box["width"] / 28, box["height"] / 28
        touched.touchscreen.tap(box["x"] + 20.5 * scale_x, box["y"] + 5.5 * scale_y)
        drawn = np.reshape(easel.evaluate(READ_PIXELS), (28, 28))
        assert drawn[5, 20] == 210
        assert (drawn > 0).sum() == 9  # a brush of 3 pixels


def test_two_widgets_ask_for_the_runtime_once(bare: Page, in_python: dict[str, Any]) -> None:
    state, files = what_python_would_send(in_python["shown"])
    for name in ("first", "second"):
        render(bare, state, files, name)
    for name in ("first", "second"):
        shown = bare.get_by_role("region", name=name)
        expect(shown.get_by_text("Everything is in this page")).to_be_visible(timeout=30_000)
    assert bare.evaluate("asked") == {"first": [True], "second": [False]}


def test_a_widget_that_is_shown_twice_loads_once(bare: Page, in_python: dict[str, Any]) -> None:
    state, files = what_python_would_send(in_python["shown"])
    both = render(bare, state, files, "double", views=2)
    expect(both.get_by_text("Everything is in this page now")).to_have_count(2, timeout=30_000)
    assert bare.evaluate("asked") == {"double": [True]}
    for view in both.all():  # what one view does, the other shows
        view.get_by_role("radio").nth(7).locator("xpath=..").click()
        expect(both.locator("caption")).to_contain_text(["image 8 of 500"] * 2)
        view.get_by_role("radio").nth(1).locator("xpath=..").click()
    both.last.get_by_role("button", name="Count the accuracy").click()
    expect(both.get_by_text("Counted in this page")).to_have_count(2, timeout=30_000)


def test_a_widget_whose_kernel_died_holds_up_no_other(
    bare: Page, in_python: dict[str, Any]
) -> None:
    state, files = what_python_would_send(in_python["shown"])
    lost = render(bare, state, None, "lost")
    shown = render(bare, state, files, "living")
    expect(shown.get_by_text("Everything is in this page now")).to_be_visible(timeout=30_000)
    assert bare.evaluate("asked") == {"lost": [True], "living": [False, True]}
    expect(lost).to_contain_text("Python does not answer yet")


def test_a_request_to_another_server_is_counted(bare: Page, in_python: dict[str, Any]) -> None:
    state, files = what_python_would_send(in_python["shown"])
    shown = render(bare, state, files, "watched")
    requests = shown.locator(".im-requests")
    expect(requests).to_contain_text("made 0 requests", timeout=30_000)
    bare.evaluate("fetch('http://127.0.0.1:9/picture').catch(() => 0)")
    expect(requests).to_contain_text("made 1 request to other servers.")
