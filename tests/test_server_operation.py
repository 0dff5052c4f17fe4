"""The commands, units and dashboard that docs/server.md gives to those who run the server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from tests.support.served import Served

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "server.md").read_text()
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    served = Served("--model", "mini")
    yield served
    served.stop()


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"qwen3_embed_\w+", expression))


def test_metrics_of_the_dashboard_exist(server: Served) -> None:
    """Every name in a panel, a variable or an alert is one that the server gives."""
    assert server.ask("/embed", {"inputs": "a"})[0] == 200
    page = server.ask("/metrics")[1].decode()
    given = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    given |= {f"{name}_bucket" for name in given} | {f"{name}_total" for name in given}
    used = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in names_in(target["expr"])
    }
    used |= {name for each in DASHBOARD["templating"]["list"] for name in names_in(each["query"])}
    alerts = {
        name for row in re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE) for name in names_in(row)
    }
    assert len(used) >= 12
    assert len(alerts) == 3
    assert used | alerts <= given


def test_labels_of_the_dashboard_exist(server: Served) -> None:
    """A legend or a sum by a label that a metric lacks would be empty."""
    server.ask("/embed", {"inputs": "a"})
    page = server.ask("/metrics")[1].decode()
    labels = set(re.findall(r'(\w+)="', page)) | {"instance"}  # Prometheus adds the latter
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for names in re.findall(r"by \((.*?)\)", target["expr"]):
                used |= set(names.split(", "))
            assert used <= labels, panel["title"]


def test_panels_are_laid_out() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert [panel["id"] for panel in DASHBOARD["panels"]] == list(range(1, len(places) + 1))


def commands() -> list[str]:
    """Arguments of `qwen3-embed serve` wherever the page has it: in a shell, a unit, an image."""
    found = re.findall(r"qwen3-embed serve (--model.*)$", PAGE, re.MULTILINE)
    docker = re.search(r"qwen3-embed \\\n\s+(--model .*)$", PAGE, re.MULTILINE)
    assert docker is not None
    return [*found, docker[1]]


@pytest.mark.parametrize("arguments", commands())
def test_commands_are_understood(arguments: str) -> None:
    """With a wrong port at the end they get as far as it, which is checked before any work."""
    command = [sys.executable, "-m", "qwen3_embed", "serve", *shlex.split(arguments)]
    done = subprocess.run([*command, "--port", "70000"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--port is 70000" in done.stderr


def test_options_on_the_page_exist() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwen3_embed", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    prose = re.sub(r"^(?:```.*?^```|    .*?)$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    options = set(re.findall(r"`(--[a-z-]+)", prose))
    assert len(options) >= 10
    assert not {option for option in options if option not in done.stdout}


def test_routes_on_the_page_exist(server: Served) -> None:
    description: dict[str, Any] = server.ask("/openapi.json")[1]
    rows = PAGE.partition("## Routes")[2].partition("## Clients")[0]
    routes = set(re.findall(r"`(/[\w/]+)`", rows)) - {"/v1"}
    reranking = {"/rerank", "/score", "/v1/rerank", "/v2/rerank"}  # with --reranker
    assert len(routes) >= 15
    assert routes - reranking <= set(description["paths"])
