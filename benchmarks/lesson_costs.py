"""What a lesson costs: seconds untouched, cold and warm, and the memory of its kernel.

    .venv/bin/python benchmarks/lesson_costs.py [NOTEBOOK ...]

Each lesson runs twice in fresh kernels, first with an empty cache, then with what that run
kept. "to panels" is from starting the kernel to the end of the cells that show the first and
the last panel; "sweeps" adds up all cells that measure one.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def run(path: Path) -> tuple[float, list[float], float, float]:
    """Return seconds in all, to each panel, and in sweeps; and the kernel's peak in MiB."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(MEMORY))
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}
    )
    to_panels, in_sweeps = [], 0.0
    start = time.perf_counter()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            begin = time.perf_counter()
            if cell.cell_type == "code":
                client.execute_cell(cell, index)
            if "sweep.measure" in cell.source:
                in_sweeps += time.perf_counter() - begin
            if "lab.Panel(" in cell.source:
                to_panels.append(time.perf_counter() - start)
        seconds = time.perf_counter() - start
    peak = int(re.search(r"\d+", notebook.cells[-1].outputs[0]["text"])[0])
    return seconds, to_panels, in_sweeps, peak / (2**20 if sys.platform == "darwin" else 1024)


def main(paths: list[Path]) -> None:
    print("lesson                    cache   untouched s   to panels s   sweeps s   peak MiB")
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["INFERENCE_MEASURED_CACHE"] = f"{folder}/cache"
            os.environ["INFERENCE_MEASURED_DATA"] = f"{folder}/data"
            for cache in ("cold", "warm"):
                seconds, to_panels, in_sweeps, peak = run(path)
                first_and_last = f"{to_panels[0]:.1f} {to_panels[-1]:.1f}"
                print(
                    f"{path.stem:25s} {cache:5s} {seconds:13.1f} {first_and_last:>13s}"
                    f" {in_sweeps:10.1f} {peak:10.0f}"
                )


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb")))
