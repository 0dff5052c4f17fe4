"""The look of the command line: help that fits 80 columns, colours, completion in shells."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from qwen3_embed.cli import command_parser, main
from qwen3_embed.cli.colours import RED, paint
from qwen3_embed.cli.columns import display_width, fitted
from qwen3_embed.evaluation.report import Report

Capture = pytest.CaptureFixture[str]
COMMANDS = sorted(command_parser().commands)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(capsys: Capture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    assert (caught.value.code, captured.err) == (0, "")
    return captured.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, command, "--help").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: qwen3-embed {command}")
    assert lines[1] == ""  # the usage is one line, so that an error stands right below it
    (first,) = (i for i, line in enumerate(lines) if line.startswith("example"))
    examples = [line for line in takewhile(bool, lines[first + 1 :]) if "qwen3-embed " in line]
    assert f"qwen3-embed {command}" in examples[0]
    for example in examples:
        words = shlex.split(example.partition("qwen3-embed ")[2].strip(" \\"))
        command_parser().parse_args(list(takewhile(lambda word: word != ">", words)))
    if command not in ("completion", "merge", "quantize"):
        assert "model:" in lines


def test_error_stands_below_the_usage(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["info", "--hub", "gitee"])
    usage, error = capsys.readouterr().err.splitlines()
    assert usage == "usage: qwen3-embed info [OPTION ...]"
    assert error.startswith("qwen3-embed info: error: argument --hub: invalid choice: 'gitee'")


def test_help_lists_all_commands(capsys: Capture) -> None:
    lines = shown(capsys, "--help").splitlines()
    assert max(map(len, lines)) <= 80
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert {*COMMANDS} == listed - {"--help", "--version"}


def test_alone_it_says_what_to_do_first(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["qwen3-embed"])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")  # so that a script notices
    assert max(map(len, captured.err.splitlines())) <= 80
    for part in ("usage: qwen3-embed COMMAND", "qwen3-embed search notes/", "--help"):
        assert part in captured.err


def test_colours_only_where_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("error:", RED, Terminal()) == "\033[31merror:\033[0m"
    assert paint("error:", RED, io.StringIO()) == "error:"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("error:", RED, Terminal()) == "error:"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("error:", RED, Terminal()) == "error:"


def test_long_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name:  " + "one two three " * 12 + "重力是物体之间的吸引力" * 4 + "\nshort"
    assert fitted(text, 7) == text  # for a file or a pipe
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    lines = fitted(text, 7).splitlines()
    assert max(map(display_width, lines)) <= 60
    assert {line[:7] for line in lines[1:-1]} == {" " * 7}
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_wide_table_becomes_several() -> None:
    class Table(Report):
        metrics = ("nDCG@10", "MRR@10", "recall@10", "Top-1", "Top-3", "Top-5")  # type: ignore[assignment]
        conclusions = ()  # type: ignore[assignment]

        def _title(self) -> str:
            return "title"

        def _hint(self) -> list[str]:
            return []

        def _cells(self, row: object) -> list[str]:
            return [f"cell{row}{i}" for i in range(len(self._header()))]

    report = Table(None, [0, 1], [])  # type: ignore[arg-type, list-item]
    whole, narrow = str(report), report.to_text(80)
    assert max(map(len, whole.splitlines())) > 80 >= max(map(len, narrow.splitlines()))
    assert set(whole.split()) == set(narrow.split())
    assert narrow.count("precision") > 1
    assert whole.count("precision") == 1
    assert report.to_text(10)  # narrower than any column


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "notes.txt").touch()
    (folder / "model").mkdir()
    found = {}
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch:
            printed = io.StringIO()
            patch.setattr("sys.stdout", printed)
            assert main(["completion", shell]) == 0
        found[shell] = folder / f"script.{shell}"
        found[shell].write_text(printed.getvalue())
    return found


CASES = [
    ("e", {"encode", "evaluate"}),
    ("encode --dt", {"--dtype"}),
    ("encode --hub m", {"modelscope"}),
    ("encode not", {"notes.txt"}),
    ("encode notes.txt -o not", {"notes.txt"}),
    ("search notes.txt query --model mod", {"model"}),
    ("completion ", {"bash", "zsh", "fish"}),
]
COMPLETE_IN_BASH = """
source script.bash
function=$(complete -p qwen3-embed | sed 's/.*-F \\([^ ]*\\).*/\\1/')
while IFS= read -r line; do
    COMP_LINE="qwen3-embed $line" COMP_POINT=${#COMP_LINE} COMPREPLY=()
    read -ra COMP_WORDS <<< "$COMP_LINE"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    $function
    echo "${COMPREPLY[@]}"
done
"""
COMPLETE_IN_FISH = """
source script.fish
while read line
    echo (complete -C "qwen3-embed $line" | string replace -r "\\t.*" "")
end
"""


COMPLETE = {"bash": COMPLETE_IN_BASH, "fish": COMPLETE_IN_FISH}


@pytest.mark.parametrize("shell", COMPLETE)
def test_completion(scripts: dict[str, Path], shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [shell, "-c", COMPLETE[shell]],
        input="".join(f"{line}\n" for line, _ in CASES),
        cwd=scripts[shell].parent,
        env=os.environ | {"HOME": str(scripts[shell].parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    for (line, expected), found in zip(CASES, done.stdout.splitlines(), strict=True):
        assert {word.rstrip("/") for word in found.split()} == expected, line


def test_completion_in_zsh_is_a_script(scripts: dict[str, Path]) -> None:
    assert scripts["zsh"].read_text().startswith("#compdef qwen3-embed")
    if shutil.which("zsh") is not None:
        subprocess.run(["zsh", "-n", scripts["zsh"]], check=True, timeout=60)


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "qwen3-embed-native[completion]" in capsys.readouterr().err
