"""Runs notebooks from their first cell to their last, and keeps what the cells print.

`python notebooks/execute.py [NAME ...]` writes the outputs of these notebooks anew, by default of
all; do so after a change of their cells or of the embedded model's weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
_CELL_S = 120  # a cell that takes longer hangs


def executed(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh kernel of this interpreter, started in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_S,
        record_timing=False,  # would change the file at every run
        coalesce_streams=True,  # where a cell's output is split depends on time
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / f"{name}.ipynb"
        notebook = executed(path, FOLDER)
        notebook.metadata = {
            "kernelspec": notebook.metadata["kernelspec"],
            "language_info": {"name": "python"},
        }
        nbformat.write(notebook, path)


if __name__ == "__main__":
    sys.exit(main())
