"""A command that asks this server for something, to be copied from a terminal or the page at /."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from .registry import Registry

__all__ = ["example_command"]


def example_command(registry: Registry, url: str, key_file: Path | None) -> str:
    """A curl command for the first model.

    Parameters
    ----------
    registry : Registry
    url : str
        "http://127.0.0.1:8000".
    key_file : Path or None
        The command reads the first key from there, so that no key is printed.
    """
    if registry.embedders:
        path = "/v1/embeddings"
        body: dict[str, object] = {"model": next(iter(registry.embedders)), "input": "hello"}
    else:
        path = "/v1/rerank"
        body = {"model": next(iter(registry.rerankers)), "query": "hello", "documents": ["hi"]}
    parts = ["curl", url + path, "-H", "content-type: application/json"]
    command = shlex.join([*parts, "-d", json.dumps(body)])
    if key_file is not None:
        first = f"grep -m1 -v '^ *\\(#\\|$\\)' {shlex.quote(str(key_file.resolve()))}"
        command += f" -H \"authorization: Bearer $({first} | tr -d ' \\t')\""
    return command
