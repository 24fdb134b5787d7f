"""One JupyterLab server and one browser for all browser tests; a page for each lesson."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from lab_page import PATIENCE_MS, LabPage, LabServer, open_browser, open_page, serve_lab, strip
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
ASK_PYTHON = """
def tell_panels():  # in a function, so that no name of a lesson is taken
    panels = [value for value in globals().values() if isinstance(value, lab.Panel)]
    all_cards = {p: [[tuple(card) for card in cards] for cards in p._cards] for p in panels}
    pictures = {p: [(one.title, one.words()) for one in p._details] for p in panels}
    asked = {p: p._asked if p._predict else [] for p in panels}
    right = {p: {name: p._predict.metrics[name].value for name in asked[p]} for p in panels}
    return {
        p._name: (p.setting, [*map(tuple, p.cards)], all_cards[p], pictures[p], right[p])
        for p in panels
    }


print(tell_panels())
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright, open_browser(playwright) as opened:
        yield opened


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """Serve copies of the lessons without outputs, each with a cell that asks Python at the end."""
    folder = tmp_path_factory.mktemp("lessons")
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        strip(path, folder / path.name)
        notebook = nbformat.read(folder / path.name, as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(ASK_PYTHON))
        nbformat.write(notebook, folder / path.name)
        (folder / f"as_committed_{path.name}").write_bytes(path.read_bytes())
    with serve_lab(folder) as running:
        yield running


def _run_lesson(browser: Browser, server: LabServer, name: str) -> Iterator[LabPage]:
    with open_page(browser, server, height=1400) as page:
        page.open(name)
        page.run_all(seconds=1200)
        yield page


@pytest.fixture(scope="module")
def start_here(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "00_start_here.ipynb")


@pytest.fixture(scope="module")
def inference_basics(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "01_inference_basics.ipynb")


@pytest.fixture(scope="module")
def quantization(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "02_quantization.ipynb")


@pytest.fixture(scope="module")
def aware_training(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "03_quantization_aware_training.ipynb")


@pytest.fixture(scope="module")
def pruning(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "04_pruning.ipynb")


@pytest.fixture(scope="module")
def distillation(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "05_distillation.ipynb")


@pytest.fixture(scope="module")
def gpu_acceleration(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "06_gpu_acceleration.ipynb")


@pytest.fixture(scope="module")
def edge_deployment(browser: Browser, server: LabServer) -> Iterator[LabPage]:
    yield from _run_lesson(browser, server, "07_edge_deployment.ipynb")


@pytest.fixture(scope="session")
def pictures() -> Path:
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
