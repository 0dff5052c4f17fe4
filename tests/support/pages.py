"""The code blocks of the documentation's pages, and how one process runs those of a page.

A fence's language says what its block is. Blocks of `python` and `sh` run in turn, in one
directory, those of Python in one namespace. A `text` block after one is its output, in which
`...` stands for anything. A title that begins with "needs" names what this machine lacks: such a
block is read, not run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Block", "PageRunner", "blocks_of", "main"]

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<code>.*?)^```$', re.M | re.S
)
_INSTALLS = re.compile(r"(?:pip install |#)")


@dataclass
class Block:
    """One fence of a page; `output` is None where nothing is printed below it."""

    line: int
    language: str
    title: str
    code: str
    output: str | None = None

    @property
    def is_needy(self) -> bool:
        """True if its title names something that tests lack."""
        return self.title.startswith("needs ")

    @property
    def is_install(self) -> bool:
        """True if all its commands install packages."""
        lines = self.code.splitlines()
        return self.language == "sh" and all(_INSTALLS.match(line) for line in lines)

    @property
    def is_server(self) -> bool:
        """True if it starts a server, which does not end."""
        return self.language == "sh" and "qwen3-embed serve " in self.code

    @property
    def runs(self) -> bool:
        others = self.is_needy or self.is_install or self.is_server
        return self.language in {"python", "sh"} and not others


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page in Markdown."""
    blocks: list[Block] = []
    end = 0
    for found in _FENCE.finditer(text):
        gap, line = text[end : found.start()], text.count("\n", 0, found.start()) + 1
        block = Block(line, found["language"], found["title"] or "", found["code"])
        if block.language == "text" and not block.title and blocks and not gap.strip():
            blocks[-1].output = block.code
        else:
            blocks.append(block)
        end = found.end()
    return blocks


def _missing_package(code: str) -> str | None:
    """The first package that the code imports and that is not installed."""
    for node in ast.walk(ast.parse(code)):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                return name.partition(".")[0]
    return None


def _execute_command(command: str) -> None:
    """Runs a line of a shell; a plain call of `qwen3-embed` in this process, which is quicker."""
    from qwen3_embed.cli import main as qwen3_embed

    if command.startswith("qwen3-embed ") and not set(command) & set("|<>&;$`~*"):
        assert qwen3_embed(shlex.split(command)[1:]) == 0, command
    else:
        shell = ["bash", "-euo", "pipefail", "-c", command]
        subprocess.run(shell, check=True, stdin=subprocess.DEVNULL)


def _execute(block: Block, names: dict[str, Any]) -> None:
    if block.language == "sh":
        for command in block.code.replace("\\\n", " ").splitlines():
            _execute_command(command)
    else:
        exec(compile(block.code, f"line {block.line} of the page", "exec"), names)


def _run(block: Block, names: dict[str, Any]) -> dict[str, str]:
    """The output of a block, its traceback, or the package that it lacks."""
    if block.language == "python" and (package := _missing_package(block.code)):
        return {"lacks": package}
    with tempfile.TemporaryFile("w+") as printed:
        kept = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            _execute(block, names)
        except ModuleNotFoundError as error:  # an integration whose project is missing
            return {"lacks": str(error.name)}
        except (Exception, SystemExit):
            return {"failed": traceback.format_exc()}
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
        printed.seek(0)
        return {"output": printed.read()}


def main() -> None:
    """Runs the blocks of a page per line of standard input; prints a line of results for each."""
    for line in sys.stdin:
        page = json.loads(line)
        os.chdir(page["folder"])
        names: dict[str, Any] = {"__name__": "__main__"}
        print(json.dumps([_run(Block(**each), names) for each in page["blocks"]]), flush=True)


class PageRunner:
    """A process that runs pages one after another, so that they share its imports."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pages"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )

    def run(self, blocks: list[Block], folder: Path) -> list[dict[str, str]]:
        """A result per block: its output, or why there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        page = {"folder": str(folder), "blocks": [asdict(block) for block in blocks]}
        self._process.stdin.write(json.dumps(page) + "\n")
        self._process.stdin.flush()
        results: list[dict[str, str]] = json.loads(self._process.stdout.readline())
        return results

    def close(self) -> None:
        self._process.communicate(timeout=60)


if __name__ == "__main__":
    main()
