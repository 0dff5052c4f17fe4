"""Python environments that have other projects' clients.

Clients that exclude one another have environments of their own: `make clients` creates
build/clients and build/clients-cohere5 from the dependency groups of these names.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

__all__ = ["run_with"]

_BUILD = Path(__file__).resolve().parents[2] / "build"
_PROBE = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"


@cache
def _python_with(module: str) -> str | None:
    """The interpreter of the first environment that has the module."""
    found = [sys.executable, *map(str, sorted(_BUILD.glob("clients*/bin/python")))]
    for python in found:
        if subprocess.run([python, "-c", _PROBE, module], capture_output=True).returncode == 0:
            return python
    return None


def run_with(module: str, code: str) -> str:
    """The output of a program that needs a module; skips the test if no environment has it."""
    python = _python_with(module)
    if python is None:
        pytest.skip(f"no environment has {module}: make clients")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
