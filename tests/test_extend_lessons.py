"""What nbval runs is each lesson untouched, and after it what would fail for a reader."""

import nbformat
import pytest
from extend_lessons import DRIVE, LESSONS, extend, read_solutions
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

STUB = "def double(x):\n    raise NotImplementedError"
LESSON = [
    "class Outcome:\n    def __init__(self, is_solved):\n        self.is_solved = is_solved",
    "def check(fn):\n    try:\n        return Outcome(fn(2) == 4)\n"
    "    except NotImplementedError:\n        return Outcome(False)",
    STUB,
    "check(double)",
]
RIGHT, WRONG = "def double(x):\n    return 2 * x", "def double(x):\n    return x"


def write(sources: list[str]) -> nbformat.NotebookNode:
    """Return a lesson of these cells; the stub among them is an exercise."""
    cells = [new_code_cell(source) for source in sources]
    for cell in cells:
        if cell.source == STUB:
            cell.metadata["tags"] = ["exercise"]
    return new_notebook(cells=cells)


def run(notebook: nbformat.NotebookNode) -> None:
    without_panels = [cell for cell in notebook.cells if cell.source != DRIVE]
    short = nbformat.from_dict({**notebook, "cells": without_panels})
    NotebookClient(short, timeout=60, kernel_name="python3").execute()


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_first_is_the_lesson_as_it_is_committed(path):
    lesson = nbformat.read(path, as_version=4)
    extended = extend(lesson, read_solutions(path))
    assert extended.cells[: len(lesson.cells)] == lesson.cells
    assert lesson == nbformat.read(path, as_version=4), "the lesson itself was changed"
    nbformat.validate(extended)


def test_then_come_its_solutions_its_panels_and_all_its_cells_backwards(path):
    lesson = nbformat.read(path, as_version=4)
    cells = [cell for cell in lesson.cells if cell.cell_type == "code"]
    solutions = read_solutions(path)
    added = [cell.source for cell in extend(lesson, solutions).cells[len(lesson.cells) :]]
    exercises = sum("exercise" in cell.metadata.get("tags", []) for cell in cells)
    assert (exercises == 0) == (path.stem == "00_start_here")
    assert added[0] == solutions
    assert all("assert outcome.is_solved" in source for source in added[1 : 1 + exercises])
    assert added[1 + exercises] == DRIVE
    assert added[2 + exercises :] == [cell.source for cell in cells][::-1]


def test_a_right_solution_passes():
    run(extend(write(LESSON), RIGHT))


def test_a_wrong_solution_fails():
    with pytest.raises(CellExecutionError, match="assert outcome"):
        run(extend(write(LESSON), WRONG))


def test_a_cell_that_cannot_be_run_again_fails():
    lesson = write([*LESSON, "measured = [1]", "first = measured[0]", "measured = None"])
    with pytest.raises(CellExecutionError, match="NoneType"):
        run(extend(lesson, RIGHT))


def test_a_lesson_without_panels_fails():
    with pytest.raises(CellExecutionError, match="assert driven > 1"):
        NotebookClient(extend(write(["x = 1"]), ""), timeout=60, kernel_name="python3").execute()
