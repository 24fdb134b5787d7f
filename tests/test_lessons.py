"""Every lesson runs untouched, and every panel in it can be driven over its whole domain.

The lessons run in kernels of their own, without a browser, and share the cache that the
environment names, so that what one test run has measured is not measured twice.
"""

import itertools
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))

DRIVE = """
import itertools
import math
from course_utils.lab import Panel
from course_utils.lab.readouts import format_value

panels = {  # without the names that IPython gives to outputs
    name: value
    for name, value in globals().items()
    if isinstance(value, Panel) and not name.startswith("_")
}
driven = 0
for name, panel in panels.items():
    knobs = panel._sweep.knobs
    for values in itertools.product(*knobs.values()):
        setting = dict(zip(knobs, values))
        panel.choose(**setting)
        point = panel._sweep.point(**setting)
        assert panel.setting == setting
        shown = [found for name, found in point.metrics.items() if name not in ("gain", "speed")]
        values = [card.value for card in panel.cards]
        as_written = ["–" if math.isnan(found.value) else format_value(found) for found in shown]
        assert values[: len(shown)] == as_written
        assert "accuracy" not in point.metrics or point.accuracy.count >= 2000
        driven += 1
    panel.commit(**dict.fromkeys(panel._asked, 50.0))
    if not panel.spec["isMeasured"]:
        try:
            panel.measure_again()
        except ValueError as refusal:
            assert "computed" in str(refusal)
            continue
        raise AssertionError(f"{name} is computed, and was measured again")
    panel.measure_again()
    assert "running" in panel.again["text"], panel.again  # a cell runs: it must not measure now
    panel._cell._ended()
    panel.measure_again()
    assert panel.again["text"].startswith("Measured again"), panel.again
print(sorted(panels), driven)
"""


def run(path: Path, *more: str) -> nbformat.NotebookNode:
    """Run a lesson with some more cells at its end; any exception fails the test."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_panels_are_right_over_their_domain_and_every_cell_can_be_run_again(path: Path) -> None:
    """In one run, since a run takes minutes: all cells, all panels, all cells backwards."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    notebook = run(path, DRIVE, *(cell.source for cell in reversed(cells)))
    driver = next(cell for cell in notebook.cells if cell.source == DRIVE)
    printed = "".join(output.get("text", "") for output in driver.outputs)
    panels, driven = printed.rsplit("]", 1)
    assert "panel" in panels
    assert int(driven) > 1


@pytest.mark.parametrize(
    "path",
    [path for path in LESSONS if (NOTEBOOKS / "solutions" / f"{path.stem}.py").exists()],
    ids=lambda path: path.stem,
)
def test_with_the_solutions_in_place_every_check_accepts(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    solution = (NOTEBOOKS / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8")
    cells = notebook.cells
    for stub, check in itertools.pairwise(c for c in cells if c.cell_type == "code"):
        if "exercise" in stub.metadata.get("tags", []):
            stub.source = solution
            check.source = f"outcome = {check.source}\nprint(outcome)\nassert outcome.is_solved"
    solved = tmp_path / path.name
    nbformat.write(notebook, solved)
    run(solved)
