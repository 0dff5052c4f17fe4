"""The command line and the mistakes that people make with it, and with their terminals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen3_embed import INSTRUCTIONS, Embedder
from qwen3_embed.cli import main
from qwen3_embed.cli.messages import json_line, with_options
from qwen3_embed.corpus.records import count_records, find_sources, read_records
from qwen3_embed.errors import ModelNotFoundError

Capture = pytest.CaptureFixture[str]
TEXT = "重力 🦊 é \u2028 wörld"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8", "latin-1"])
@pytest.mark.parametrize("json_output", [False, True])
def test_any_standard_output(tmp_path: Path, encoding: str, json_output: bool) -> None:
    """Characters that an encoding lacks become escapes; JSON stays JSON."""
    (tmp_path / "notes.txt").write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-m", "qwen3_embed", "search", str(tmp_path / "notes.txt"), TEXT]
    done = subprocess.run(
        [*command, *(["--json"] if json_output else [])],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout.decode(encoding)
    if json_output:
        assert json.loads(output)["text"] == TEXT
    elif encoding == "utf-8":
        assert "重力 🦊" in output
    else:
        assert "\\U0001f98a" in output


def test_error_messages_in_ascii(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwen3_embed", "info", "--model", "./重力"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert done.returncode == 1
    assert b"\\u91cd\\u529b" in done.stderr
    assert b"Traceback" not in done.stderr


def test_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "gb18030", "utf-8"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        line = json_line({"text": TEXT})
        assert json.loads(line) == {"text": TEXT}
        assert line.isascii() == (encoding == "ascii")


class TestOptions:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["serve", "--api-key-fil", "keys.txt"],
            ["encode", "in.txt", "--outpu", "out.npy", "-o", "out.npy"],
            ["info", "--mode", "mini"],
            ["bench", "--sec", "1"],
            ["search", "in.txt", "q", "--top", "1"],
            ["rerank", "q", "in.txt", "--top", "1"],
            ["merge", "--base", "a", "--adapt", "b", "-o", "out"],
            ["verify", "--val", "f"],
            ["--vers"],
        ],
    )
    def test_never_abbreviated(self, arguments: list[str], capsys: Capture) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert capsys.readouterr().err.startswith("usage: qwen3-embed")

    @pytest.mark.parametrize(
        ("option", "advice"),
        [
            ("--api-key", "--api-key-file FILE"),
            ("--model-path", "--model NAME"),
            ("--model-id", "--model NAME"),
            ("--served-model-name", "--alias ALIAS=NAME"),
            ("--max-model-len", "--max-length"),
        ],
    )
    def test_other_servers_options(self, option: str, advice: str, capsys: Capture) -> None:
        for value in ([], ["x"]):
            with pytest.raises(SystemExit, match="2"):
                main(["serve", option, *value])
            error = capsys.readouterr().err
            assert f"there is no {option}: " in error
            assert advice in error
        with pytest.raises(SystemExit, match="0"):
            main(["serve", "--help"])
        assert f"{option} " not in capsys.readouterr().out


class TestMessages:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dim", "999"], "--dim 999, expected 1..256"),
            (["--max-length", "99999"], "--max-length 99999, expected 1.."),
            (["--threads", "5000"], "--threads 5000, expected 1 to 4096"),
            (["--device", "tpu"], "--device 'tpu', expected"),
            (["--revision", "main"], "--revision 'main' is for a model on the hub"),
            (["--prompt-name", "laws"], "`qwen3-embed info --instructions` lists them"),
        ],
    )
    def test_options_not_arguments(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "in.txt").write_text("a\n")
        common = ["encode", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy")]
        assert main([*common, "--device", "cpu", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        for name in ("dim=", "max_length", "num_threads", "device=", "revision=", "prompt_name"):
            assert name not in error

    def test_truncation(self) -> None:
        message = "1 text was cut at max_length=5 tokens; the longest, texts[0], has 8"
        expected = "1 text was cut at 5 tokens (see --max-length); the longest, texts[0], has 8"
        assert with_options(message) == expected

    def test_other_text_stays(self) -> None:
        assert with_options("no folder 'dim'") == "no folder 'dim'"


class TestInstructions:
    def test_list(self, capsys: Capture) -> None:
        assert main(["info", "--instructions"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line.partition(":")[0] for line in lines} == set(INSTRUCTIONS)
        assert all(INSTRUCTIONS[line.partition(":")[0]] in line for line in lines)

    def test_the_models_own(self, capsys: Capture) -> None:
        assert main(["info", "--instructions", "--model", "mini"]) == 0
        assert "query:" in capsys.readouterr().out


class TestEncodings:
    @pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
    @pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "big5", "utf-8"])
    def test_named(self, tmp_path: Path, suffix: str, encoding: str) -> None:
        texts = ["a, b", "é ö", "z"] if encoding == "cp1252" else ["a, b", "重力", "z"]
        content = {
            ".txt": "\n".join(texts),
            ".csv": 'id,text\n1,"a, b"\n' + "".join(f"2,{text}\n" for text in texts[1:]),
            ".jsonl": "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts),
        }[suffix]
        (tmp_path / f"in{suffix}").write_bytes(content.encode(encoding))
        arguments = ["encode", str(tmp_path / f"in{suffix}"), "-o", str(tmp_path / "out.npy")]
        assert main([*arguments, "--encoding", encoding]) == 0
        with Embedder("mini") as model:
            assert np.array_equal(np.load(tmp_path / "out.npy"), model.encode(texts))

    @pytest.mark.parametrize("name", ["utf-16", "utf-32-le", "nope", "hex", "cp037"])
    def test_refused(self, name: str, capsys: Capture) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["encode", "in.txt", "-o", "out.npy", "--encoding", name])
        assert "--encoding" in capsys.readouterr().err

    def test_a_header(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "in.csv").write_bytes("文本,text\n1,a\n".encode("gbk"))
        arguments = ["encode", str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.npy")]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert "the header of" in error
        assert "is not UTF-8" in error
        assert "--encoding gb18030" in error


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.txt", "a\nb\n\nc"),
        ("in.txt", "a"),
        ("in.txt", ""),
        ("in.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{'),
        ("in.csv", 'text,n\n"a\nb",1\n\nc,2'),
        ("in.tsv", "text\tn\na\t1"),
    ],
)
def test_progress_totals_are_exact(tmp_path: Path, name: str, content: str, end: str) -> None:
    (tmp_path / name).write_bytes((content + end).encode())
    sources = find_sources([str(tmp_path / name)])
    assert count_records(sources) == len(list(read_records(sources[0], None, [])))


class TestBadRecords:
    def encode(self, tmp_path: Path, content: bytes, *options: str) -> int:
        (tmp_path / "in.txt").write_bytes(content)
        return main(["encode", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), *options])

    def test_a_file_in_another_encoding(self, tmp_path: Path, capsys: Capture) -> None:
        """Not a result: the reason, and both ways to mend it."""
        assert self.encode(tmp_path, "重力\n力".encode("gbk")) == 1
        error = capsys.readouterr().err
        for part in ("2 of 2 records are bad", "record 0", "not UTF-8", "--encoding", "iconv -f"):
            assert part in error
        assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
        assert self.encode(tmp_path, "重力\n力".encode("gbk"), "--encoding", "gb18030") == 0

    def test_max_bad(self, tmp_path: Path, capsys: Capture) -> None:
        """The vectors that are done stay for another try with a higher limit."""
        content = b"a\n\xff\n\xff\nb\n"
        assert self.encode(tmp_path, content, "--max-bad", "1") == 1
        assert "2 of 4 records are bad, expected at most 1" in capsys.readouterr().err
        assert not (tmp_path / "out.npy").exists()
        assert self.encode(tmp_path, content, "--max-bad", "2", "--resume") == 0
        assert np.isnan(np.load(tmp_path / "out.npy")[:, 0]).tolist() == [False, True, True, False]

    def test_empty_texts_are_counted(self, tmp_path: Path, capsys: Capture) -> None:
        assert self.encode(tmp_path, b"a\n\n\nb\n") == 0
        assert "warning: 2 of 4 records are empty texts\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "guess"),
    [("qwen3-embeding-0.6b", "Qwen3-Embedding-0.6B"), ("minni", "mini"), ("nothing at all", "")],
)
def test_did_you_mean(model: str, guess: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Embedder(model)
    assert ("did you mean" in str(caught.value)) == bool(guess)
    assert guess in str(caught.value)
    assert str(caught.value).endswith("mini")


@pytest.mark.parametrize("model", ["qwen3-embedding-0.6b", "QWEN/Qwen3-embedding-0.6B"])
def test_names_in_any_case(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^Qwen/Qwen3-Embedding-0\.6B "):
        Embedder(model, local_files_only=True)
    with Embedder("MINI") as opened:
        assert opened.name == "mini"


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_tables(package: str) -> None:
    module = pytest.importorskip(package)
    make = module.table if package == "pyarrow" else module.DataFrame
    with Embedder("mini") as model, pytest.raises(TypeError, match="pass the column"):
        model.encode(make({"text": ["a"], "n": [1]}))
