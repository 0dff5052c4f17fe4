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
    body = json.dumps({"model": next(iter(registry.embedders)), "input": "hello"})
    json_type = "content-type: application/json"
    command = shlex.join(["curl", f"{url}/v1/embeddings", "-H", json_type, "-d", body])
    if key_file is not None:
        first = f"grep -m1 -v '^ *\\(#\\|$\\)' {shlex.quote(str(key_file.resolve()))}"
        command += f" -H \"authorization: Bearer $({first} | tr -d ' \\t')\""
    return command
