"""A command that asks this server for something, to be copied from a terminal or the page at /."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from .registry import Registry

__all__ = ["example_command", "first_key"]


def example_command(registry: Registry, url: str, key: str | None) -> str:
    """A curl command for the first model.

    Parameters
    ----------
    registry : Registry
    url : str
        "http://127.0.0.1:8000".
    key : str or None
        What a shell makes the key of.
    """
    body = json.dumps({"model": next(iter(registry.embedders)), "input": "hello"})
    json_type = "content-type: application/json"
    command = shlex.join(["curl", f"{url}/v1/embeddings", "-H", json_type, "-d", body])
    if key is not None:
        command += f' -H "authorization: Bearer {key}"'
    return command


def first_key(key_file: Path) -> str:
    """A shell's words that read the file's first key, so that no key is printed."""
    first = f"grep -m1 -v '^ *\\(#\\|$\\)' {shlex.quote(str(key_file.resolve()))}"
    return f"$({first} | tr -d ' \\t')"
