"""The models of lesson 07 in a real page: the classes of all test images, and the time of one.

    .venv/bin/python benchmarks/browser_models.py [--record]

For the student and the ResNet-8, in fp32 and int8: on how many of the 10,000 test images the page
and Python give the same class, and the median of one image there and here. With --record it writes
``data/recorded/models_in_browser.json``, which lesson 07 shows where nothing was counted yet.
"""

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path

import nbformat
from playwright.sync_api import expect, sync_playwright

from course_utils import machine, web_runtime
from course_utils.tables import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))  # the server and page of the browser tests

from lab_page import LabPage, open_browser, open_page, serve_lab  # noqa: E402

RECORD = ROOT / "data" / "recorded" / "models_in_browser.json"
IMAGES = 10_000
TOLD = "found as json: "
SHOW = f"""
import json

from course_utils import datasets, distill, lab, measure, models, quantize, runtimes

fashion = datasets.load_fashion()
networks = {{
    "student": distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model,
    "ResNet-8": models.load_pretrained("resnet8_w32_fashion"),
}}
runners = {{}}
for name, network in networks.items():
    folded, pixels = quantize.fold_batch_norms(network), fashion.calibration.images
    narrow = quantize.quantize_weights(folded, 8)
    both = {{"fp32": folded, "int8": narrow}}
    runners[name] = {{label: runtimes.build(one, pixels) for label, one in both.items()}}
shown = {{
    name: lab.BrowserModel(both, fashion.test, fashion.classes, name=name, count={IMAGES})
    for name, both in runners.items()
}}
display(*shown.values())
"""
TELL = f"""
rows = []
for name, widget in shown.items():
    both = runners[name]
    here = measure.compare(*both.values(), images=fashion.test.images[:1], names=list(both))
    for label in both:
        found, times = widget.compare(label), widget.times[label]
        rows.append({{
            "model": name, "precision": label, "images": found.count,
            "same_class": found.count - len(found.differing),
            "in_page_ms": round(times["median_ms"], 4),
            "in_python_ms": round(here.latency(label).value, 4),
            "measured": str(here.latency(label).provenance),
        }})
print({TOLD!r} + json.dumps(rows))
"""


def measure_in_page() -> tuple[list[dict[str, object]], str]:
    """Return a row for each model and precision, and which browser it was."""
    folder = Path(tempfile.mkdtemp())
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in (SHOW, TELL)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / "page.ipynb")
    with (
        sync_playwright() as playwright,
        open_browser(playwright) as browser,
        serve_lab(folder) as server,
        open_page(browser, server, height=1400) as lab,
    ):
        lab.open("page.ipynb")
        run_cell(lab, 0)
        buttons = lab.page.get_by_role("button", name=f"Count the accuracy on {IMAGES} images")
        expect(buttons).to_have_count(2, timeout=120_000)
        counted = lab.page.get_by_text("Counted in this page")
        for number, button in enumerate(buttons.all(), start=1):
            button.click()
            expect(counted).to_have_count(number, timeout=180_000)
        run_cell(lab, 1)
        said = lab.page.locator(".jp-OutputArea-output", has_text=TOLD)
        expect(said).to_be_visible(timeout=120_000)
        rows = json.loads((said.text_content() or "").split(TOLD)[-1])
        return rows, f"Chromium {browser.version}"


def run_cell(lab: LabPage, number: int) -> None:
    """Run one cell of the open notebook."""
    lab.page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
    lab.page.keyboard.press("Control+Enter")


def main() -> None:
    """Measure, print a table, and write the record if asked for."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    chosen = arguments.parse_args()
    rows, browser = measure_in_page()
    print(Table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(f"{browser}, ONNX Runtime {web_runtime.VERSION} as WebAssembly, {machine.describe()}")
    if chosen.record:
        record = {
            "what": "models of lesson 07 in a page and in Python: same class, median of one",
            "made_by": "benchmarks/browser_models.py --record",
            "date": date.today().isoformat(),
            "machine": str(machine.describe()),
            "browser": browser,
            "versions": {"onnxruntime-web": web_runtime.VERSION, **machine.describe().versions},
            "rows": rows,
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"Written to {RECORD.relative_to(ROOT)}: put its digest into data/SHA256SUMS.")


if __name__ == "__main__":
    main()
