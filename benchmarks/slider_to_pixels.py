"""Time a step of the slider, from the key to the complete picture, in a real JupyterLab page.

    .venv/bin/python benchmarks/slider_to_pixels.py [STEPS]

The panel of lesson 02 and ``ipywidgets.interact`` with inline matplotlib show the same data
and take turns. A step ends with the first task after the frame that follows the last change
of the page or the last image load; "first show" is from running the cell to the panel.
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))  # the server and page of the browser tests

from lab_page import open_browser, open_page, serve_lab, strip  # noqa: E402

INTERACT = """
%matplotlib inline
import ipywidgets
import matplotlib.pyplot as plt


def draw(position):
    figure, axes = plt.subplots(1, 3, figsize=(10, 3))
    plots.plot_metric(axes[0], measured, "accuracy")
    plots.plot_metric(axes[1], measured, "latency")
    plots.plot_histogram(axes[2], channel_at(measured.knobs["bits"][position], "per channel"))
    for ax in axes[:2]:
        ax.axvline(position)
    plt.show()


ipywidgets.interact(draw, position=(0, 8));
"""

LISTEN = """
(root) => {
  const state = { start: 0, end: 0, changed: 0 };
  const channel = new MessageChannel();
  channel.port1.onmessage = () => { state.end = performance.now(); };
  const note = () => {
    state.changed = performance.now();
    requestAnimationFrame(() => channel.port2.postMessage(0));
  };
  new MutationObserver((changes) => {
    if (changes.some((c) => !(c.target.closest?.(".im-spoken")))) note();
  }).observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
  root.addEventListener("load", note, true);
  root.addEventListener("keydown", (event) => {
    Object.assign(state, { start: event.timeStamp, end: 0, changed: 0 });
  }, true);
  root.stepState = state;
}
"""


def step(page: Page, root: object, key: str, quiet_ms: float) -> float:
    """Press a key on the focused slider; return milliseconds until the picture is complete."""
    page.keyboard.press(key)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        page.wait_for_timeout(50)
        start, end, idle = root.evaluate(
            "r => [r.stepState.start, r.stepState.end, performance.now() - r.stepState.changed]"
        )
        if end and idle > quiet_ms:
            return end - start
    raise RuntimeError(f"{key} changed nothing: is the slider at its end?")


def main(steps: int) -> None:
    folder = Path(tempfile.mkdtemp())
    name = "02_quantization.ipynb"
    strip(ROOT / "notebooks" / name, folder / name)
    notebook = nbformat.read(folder / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(INTERACT))
    nbformat.write(notebook, folder / name)
    with (
        sync_playwright() as playwright,
        open_browser(playwright) as browser,
        serve_lab(folder) as server,
        open_page(browser, server, height=1400) as lab,
    ):
        lab.open(name)
        lab.run_all(300)
        page = lab.page
        cell = page.locator(".jp-CodeCell", has_text="predict={").first
        shows = []
        for _ in range(5):
            cell.locator(".cm-content").click()
            page.keyboard.press("Escape")
            cell.evaluate("c => c.querySelector('.im-panel')?.setAttribute('data-old', '')")
            start = time.perf_counter()
            page.keyboard.press("Control+Enter")
            expect(cell.locator(".im-panel:not([data-old]) :is(form, svg)").first).to_be_visible()
            shows.append(time.perf_counter() - start)
            lab.wait_idle(30)
        panel = cell.locator(".im-panel")
        panel.get_by_role("button", name="Show me").click()
        ours = panel.get_by_role("slider", name="bits")
        other_root = page.locator(".jp-CodeCell").last.locator(".jp-Cell-outputWrapper")
        other = other_root.locator(".noUi-handle")
        rows = {"panel": (panel, ours, 100), "interact": (other_root, other, 900)}
        ours.focus()
        for key in ("Home", *["ArrowRight"] * 4):  # both sliders start in the middle of nine
            page.keyboard.press(key)
        for root, _, _ in rows.values():
            root.evaluate(LISTEN)
        times = {row: [] for row in rows}
        for number in range(steps + 2):
            key = "ArrowRight" if number // 4 % 2 else "ArrowLeft"
            for row, (root, slider, quiet_ms) in rows.items():
                slider.scroll_into_view_if_needed()
                slider.focus()
                page.wait_for_timeout(600)  # the last step's speech and outputs are over
                taken = step(page, root, key, quiet_ms)
                if number >= 2:
                    times[row].append(taken)
    print(f"first show of the panel: median {np.median(shows):.2f} s of {len(shows)}")
    print("key to complete picture, ms   n   median   p95   slowest")
    for row, taken in times.items():
        median, p95 = np.percentile(taken, [50, 95])
        print(f"{row:27s} {len(taken):3d} {median:8.1f} {p95:5.0f} {max(taken):9.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
