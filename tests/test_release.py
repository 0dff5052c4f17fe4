"""A release has one version, and the public workflows call targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

from qwen3_embed import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_one_version() -> None:
    said = {
        "pyproject.toml": r'^version = "(.*)"$',
        "CITATION.cff": r"^version: (.*)$",
        "CHANGELOG.md": r"^## (.*) - \d{4}-\d\d-\d\d$",
    }
    found = {
        name: re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)
        for name, pattern in said.items()
    }
    assert {name: match and match[1] for name, match in found.items()} == dict.fromkeys(
        said, __version__
    )


def test_workflows_call_targets_and_groups_that_exist() -> None:
    targets = set(re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    groups = set(re.findall(r"^(\S+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    workflows = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    assert len(workflows) == 2
    for text in workflows:
        called = set(re.findall(r"\bmake (\S+)", text))
        assert called
        assert called <= targets
        assert set(re.findall(r"--group (\S+)", text)) <= groups
        assert all((ROOT / script).exists() for script in re.findall(r"\.ci/\w+", text))
