"""Run lessons from top to bottom and keep what readers need of their outputs.

    python notebooks/execute.py [NOTEBOOK ...]

Outputs of cells tagged ``keep_output`` or ``nbval-check-output`` stay; of widgets, their
picture or text stays. Other outputs, the widgets' state and metadata of editors are dropped.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent
KEPT = {"keep_output", "nbval-check-output"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        is_hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        cell.metadata = {"tags": sorted(tags)} if tags else {}
        if is_hidden:
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
        if not tags & KEPT:
            cell.outputs = []
    kernel = notebook.metadata.kernelspec
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)
    print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    chosen = [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    for notebook_path in chosen:
        execute(notebook_path)
