"""A JupyterLab server of its own and a browser page on it, for tests, benchmarks and pictures."""

import ast
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from playwright.sync_api import Browser, Locator, Page, Playwright, expect

SOLUTIONS = Path(__file__).parent.parent.parent / "notebooks" / "solutions"
PATIENCE_MS = 20_000  # on a slow machine where other tests run too; a test that passes never waits
LOADING_MS = 90_000  # for a page, or for what is to be clicked on while it starts
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = [
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
]


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome; None leaves it to playwright."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_browser(playwright: Playwright) -> Iterator[Browser]:
    """Open a headless Chromium."""
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET)
    try:
        yield browser
    finally:
        browser.close()


@dataclass
class LabServer:
    """A running JupyterLab on loopback."""

    url: str
    token: str
    folder: Path
    process_id: int

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold all kernels still: what a page shows meanwhile it knows by itself."""
        kernels = psutil.Process(self.process_id).children(recursive=True)
        try:
            for kernel in kernels:
                with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
                    kernel.suspend()
            yield
        finally:
            for kernel in kernels:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kernel.resume()


@contextlib.contextmanager
def serve_lab(folder: Path, environment: dict[str, str] | None = None) -> Iterator[LabServer]:
    """Serve the notebooks of a folder, with settings and kernels' files of their own."""
    private = folder / ".jupyter"
    settings = private / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(news))
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={random.randrange(20_000, 30_000)}",  # or another near it, if it is taken
        "--ServerApp.port_retries=50", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}", f"--LabApp.user_settings_dir={private / 'settings'}",
        f"--LabApp.workspaces_dir={private / 'workspaces'}",
    ]  # fmt: skip
    variables = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "INFERENCE_MEASURED_DATA": str(private / "progress"),
        **(environment or {}),
    }
    log = (private / "server.log").open("w")
    server = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(StopIteration, json.JSONDecodeError, OSError):
                told = next((private / "runtime").glob("jpserver-*.json"))
                url = f"http://127.0.0.1:{json.loads(told.read_text())['port']}"
                urllib.request.urlopen(f"{url}/api?token={token}", timeout=5).close()
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((private / "server.log").read_text()[-2000:])
            time.sleep(0.2)
        yield LabServer(url, token, folder, server.pid)
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def strip(source: Path, target: Path) -> None:
    """Copy a notebook without outputs, counts and widget state: nothing seen later was saved."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, target)


def read_solution(lesson: str, name: str) -> str:
    """Return the reference answer to an exercise, with what it imports."""
    source = (SOLUTIONS / f"{lesson}.py").read_text(encoding="utf-8")
    parts = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "name", "") == name
    ]
    return "\n\n".join(filter(None, parts))


@dataclass
class LabPage:
    """A browser page with one notebook open; notes every error and every outside request."""

    page: Page
    server: LabServer
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", self._note_error)
        self.page.on("request", self._note)

    def _note_error(self, error) -> None:
        # Says only that sizes are looked at again with the next picture, which may come late.
        if "ResizeObserver loop completed" not in str(error):
            self.errors.append(str(error))

    def _note(self, request) -> None:
        if not re.match(rf"({re.escape(self.server.url)}|ws://127|data:|blob:)", request.url):
            self.outside.append(request.url)

    def open(self, notebook: str) -> None:
        """Open a notebook of the server's folder and wait for its kernel."""
        url = f"{self.server.url}/lab/tree/{notebook}?reset&token={self.server.token}"
        self.page.goto(url)
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        self.wait_idle(60)

    def wait_idle(self, seconds: float) -> None:
        """Wait until the kernel is connected and does nothing."""
        idle = self.page.get_by_text(re.compile(r"Python 3.*\| Idle")).first
        expect(idle).to_be_visible(timeout=seconds * 1000)

    def run_all(self, seconds: float) -> None:
        """Run all cells from the menu and wait until every code cell has a number."""
        self.start_run()
        deadline = time.monotonic() + seconds
        while True:
            shown = ".jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)"  # not of hidden code
            prompts = self.page.locator(shown).all_text_contents()
            if prompts and all(re.search(r"\d", prompt) for prompt in prompts):
                break
            failed = self.page.locator('[data-mime-type="application/vnd.jupyter.error"]')
            assert failed.count() == 0, f"a cell failed: {failed.first.text_content()}"
            assert time.monotonic() < deadline, f"cells did not finish: {prompts}"
            time.sleep(0.2)
        self.wait_idle(30)

    def start_run(self) -> None:
        """Press Run > Run All Cells until a cell shows that it runs."""
        started = self.page.locator(".jp-InputPrompt").get_by_text(re.compile(r"\[[*\d]+\]"))
        for _ in range(3):
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_text("Run All Cells", exact=True).click()
            with contextlib.suppress(AssertionError):
                expect(started.first).to_be_visible(
                    timeout=PATIENCE_MS
                )  # long enough not to queue all cells twice
                return
        raise AssertionError("Run All Cells had no effect")

    def answer(self, attempt: str) -> Locator:
        """Write a function in the place of its stub, run it and its check; return what that says.

        Args:
            attempt: The source, of one function at the top level.
        """
        name = re.findall(r"^def (\w+)\(", attempt, re.MULTILINE)[0]
        stub = self.page.locator(".jp-CodeCell", has_text=f"def {name}(")
        check = self.page.locator(".jp-CodeCell", has_text=re.compile(rf"checks\..*\({name}\)"))
        stub.locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(attempt)
        self.page.keyboard.press("Control+Enter")
        self.wait_idle(30)
        check.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        return check.locator(".jp-OutputArea-output")

    def answer_wrongly_then_rightly(
        self, lesson: str, name: str, right: str, wrong: str, hint: str
    ) -> None:
        """Expect the hint for a solution with one piece of it spoilt, and praise for the solution.

        Args:
            lesson: Name of the lesson's notebook.
            name: The function that the exercise asks for.
            right: A piece of the reference answer.
            wrong: What to write in its place.
            hint: What the check then says.
        """
        solution = read_solution(lesson, name)
        assert right in solution, f"{name} has no {right!r} to be spoilt"
        expect(self.answer(solution.replace(right, wrong))).to_contain_text(hint)
        expect(self.answer(solution)).to_contain_text("right on all")

    def set_theme(self, name: str) -> None:
        """Switch JupyterLab to "Light" or "Dark" from its menu."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        self.page.get_by_text("Theme", exact=True).first.hover()
        self.page.get_by_text(f"JupyterLab {name}", exact=True).first.click()
        expect(self.page.locator("body")).to_have_attribute(
            "data-jp-theme-light", "true" if name == "Light" else "false", timeout=30_000
        )


@contextlib.contextmanager
def open_cells(
    browser: Browser, folder: Path, sources: Sequence[str], height: int = 1600, seconds: float = 60
) -> Iterator[LabPage]:
    """Serve a notebook with these cells from an empty folder, run it and show it."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "cells.ipynb")
    with serve_lab(folder) as server, open_page(browser, server, height=height) as page:
        page.open("cells.ipynb")
        page.run_all(seconds)
        yield page


@contextlib.contextmanager
def open_page(
    browser: Browser, server: LabServer, width: int = 1280, height: int = 1000
) -> Iterator[LabPage]:
    """Open an empty page of the given size in pixels."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(LOADING_MS)
    try:
        yield LabPage(context.new_page(), server)
    finally:
        context.close()
