"""Write every lesson with more cells at its end; nbval runs them all in one kernel.

    python tests/extend_lessons.py FOLDER

A run of a lesson takes minutes, so each gets only one: first the lesson as it is committed, its
exercises not solved; then its solutions, which its checks must accept; then each of its panels
over its whole domain; and then all its cells backwards, since a reader runs them in any order.
"""

import itertools
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

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
assert driven > 1
"""


def extend(lesson: NotebookNode, solutions: str) -> NotebookNode:
    """Return the lesson as it is, and after it what else must work in its kernel."""
    cells = [cell for cell in lesson.cells if cell.cell_type == "code"]
    checks = [
        f"outcome = {check.source}\nprint(outcome)\nassert outcome.is_solved, outcome"
        for stub, check in itertools.pairwise(cells)
        if "exercise" in stub.metadata.get("tags", [])
    ]
    more = [solutions, *checks, DRIVE, *(cell.source for cell in reversed(cells))]
    longer = lesson.copy()
    longer.cells = [*lesson.cells, *map(new_code_cell, more)]
    return longer


def read_solutions(path: Path) -> str:
    """Return the reference answers to the exercises of a lesson; the first has none."""
    if path.stem == "00_start_here":
        return ""
    return (NOTEBOOKS / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in LESSONS:
        extended = extend(nbformat.read(path, as_version=4), read_solutions(path))
        nbformat.write(extended, folder / path.name)
