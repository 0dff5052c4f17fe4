"""The notebooks run from end to end, and what is committed is what such a run gives.

`make test-all`, and so CI, runs them, which takes minutes; elsewhere what is committed is checked.
"""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
for _package in ("nbclient", "ipykernel", "matplotlib", "bm25s", "jupyterlab_language_pack_zh_CN"):
    pytest.importorskip(_package)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PNG = "image/png"


def outputs(notebook: Any) -> list[list[Any]]:
    """For each cell of code what it said, in order."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: list[Any]) -> str:
    return "".join(output.text for output in cell if output.output_type == "stream")


def kinds(cell: list[Any]) -> set[str]:
    return {
        kind for o in cell for kind in (o.data if "data" in o else [o.get("name", o.output_type)])
    }


def committed(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str) -> Any:
    """The notebook, run here; a cell that raises is an error, with the cell and its traceback."""
    for package in ("milvus_lite", "pymilvus", "faiss"):
        pytest.importorskip(package, reason="run by make test-all")
    from notebooks import execute

    return execute.executed(FOLDER / f"{name}.ipynb", ROOT)


@pytest.fixture(scope="module")
def fresh() -> Any:
    return executed("quickstart")


def test_it_runs_and_says_what_it_should(fresh: Any) -> None:
    cells = outputs(fresh)
    said = "\n".join(printed(cell) for cell in cells)
    assert "numbers agree" in said
    assert "textwrap.fill" in said  # a paragraph wrapped, in the words of the standard library
    assert "Change Font Size" in said  # asked for in Chinese
    quality = {
        line.split("  ")[0]: [float(value) for value in re.findall(r": (0\.\d+)", line)]
        for line in said.splitlines()
        if re.search(r" 16: 0\.\d+", line)
    }
    assert len(quality) == 2
    for values in quality.values():
        assert len(values) == 5
        assert values[0] < values[2] < values[4] + 0.01  # longer vectors aren't worse
    stages = [float(value) for value in re.findall(r"nDCG@10 (0\.\d+)", said)]
    assert stages[0] < stages[1] <= stages[2] + 0.01


def assert_alike(old: Any, new: Any) -> None:
    """The same kinds of output from each cell; the numbers are the machine's."""
    for before, after in zip(outputs(old), outputs(new), strict=True):
        assert kinds(before) == kinds(after), "run `python notebooks/execute.py`, commit outputs"
        assert kinds(after) <= {"stdout", PNG, "text/plain"}


def test_what_is_committed_is_such_a_run(fresh: Any) -> None:
    assert_alike(committed("quickstart"), fresh)


SAID = {
    "choose_and_adapt": ["default against none", "chosen: ", "Clear Cell Output", "kept: "],
    "quickstart_zh": ["12 of 12 numbers agree", "清除单元格输出", "Change Font Size"],
    "rag": ["Default parameter values", "topic == 'global' [('global'", "Mara lives in Porto"],
}


@pytest.mark.parametrize("name", SAID)
def test_the_others(name: str) -> None:
    notebook = executed(name)
    said = "\n".join(printed(cell) for cell in outputs(notebook))
    assert not [words for words in SAID[name] if words not in said]
    assert_alike(committed(name), notebook)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_can_be_read(name: str) -> None:
    """At most as wide as a page's text, so that nothing shrinks them, and not tiny either."""
    pictures = [
        base64.b64decode(output.data[PNG])
        for cell in outputs(committed(name))
        for output in cell
        if PNG in output.get("data", {})
    ]
    assert pictures or name == "rag"
    for picture in pictures:
        width, height = struct.unpack(">II", picture[16:24])
        assert 500 <= width <= 900
        assert 300 <= height <= 700


@pytest.mark.parametrize("name", NAMES)
def test_it_says_nothing_of_its_machine(name: str) -> None:
    notebook = committed(name)
    assert not re.findall(r"/(?:home|root|tmp|usr)/|site-packages", nbformat.writes(notebook))
    assert all(set(cell.metadata) == set() for cell in notebook.cells)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_sleeps(name: str) -> None:
    assert "sleep(" not in "".join(cell.source for cell in committed(name).cells)
