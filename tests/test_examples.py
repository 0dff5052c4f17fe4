"""The examples of notebooks/examples run offline, with mini, and find what they should."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks" / "examples"
SAID = {
    "classify": ["bug ", "request ", "billing ", "扣了两次钱"],
    "corpus": ["(4, 128) 巴黎是法国的首都。"],
    "deduplicate": ["dropped: App crashes", "dropped: Login with Google", "4 of 6 kept"],
    "rerank": ["git re", "git"],
    "search_folder": ["undo.md: git reset", "tea.md"],
}
FILES = {
    "undo.md": "git reset --soft HEAD~1 takes back the last commit and keeps the changes",
    "tea.md": "# Tea\n\nGreen tea is brewed with water that is hot but does not boil",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_an_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = FOLDER / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [str(tmp_path), "undo a commit"] if name == "search_folder" else []
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    said = capfd.readouterr().out
    places = [said.find(words) for words in SAID[name]]
    assert -1 not in places, said
    assert places == sorted(places), said
