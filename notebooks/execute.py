"""Runs a notebook from its first cell to its last, and keeps what the cells say.

`python notebooks/execute.py` writes the outputs of `quickstart.ipynb` anew; do so after a change
of its cells or of the embedded model's weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

QUICKSTART = Path(__file__).with_name("quickstart.ipynb")
_CELL_S = 120  # a cell that takes longer hangs


def executed(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh kernel of this interpreter, started in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_S,
        record_timing=False,  # would change the file at every run
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def main() -> None:
    notebook = executed(QUICKSTART, QUICKSTART.parent)
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, QUICKSTART)


if __name__ == "__main__":
    sys.exit(main())
