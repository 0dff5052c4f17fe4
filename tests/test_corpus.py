"""Corpus runs: every format, bad records, repeated texts, and the same bytes after a kill."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder
from qwen3_embed.cli import main
from qwen3_embed.corpus import run as corpus_run
from qwen3_embed.corpus.distinct import Distinct
from qwen3_embed.corpus.ledger import Ledger
from qwen3_embed.corpus.output import ColumnTypes
from tests.conftest import ModelMaker
from tests.support.resuming import run_killed, run_whole, write_corpus

TEXTS = ["first", "second, with a comma", "", "重力\u2028", "first"]


class Folder:
    """Runs `encode` on files of a folder."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        self.model = model

    def __call__(self, *arguments: str, status: int = 0) -> None:
        assert main(["encode", *arguments, "--model", str(self.model)]) == status

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def encode(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, folder)


def json_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


class TestInputs:
    def test_csv_and_tsv(self, encode: Folder, model: Embedder) -> None:
        expected = model.encode(TEXTS)
        quoted = ['"' + text + '"' for text in TEXTS]
        for name, mark in (("in.csv", ","), ("in.tsv", "\t")):
            lines = [f"{i}{mark}{text}" for i, text in enumerate(quoted)]
            content = "\ufeff" + "\r\n".join([f"id{mark}text", *lines])
            Path(name).write_bytes(content.encode())
            encode(name, "-o", "out.npy")
            assert np.array_equal(np.load("out.npy"), expected)
        Path("one.csv").write_text("body\na\nb\n")
        encode("one.csv", "-o", "out.npy")
        assert np.array_equal(np.load("out.npy"), model.encode(["a", "b"]))

    def test_json_lines_to_json_lines(self, encode: Folder, model: Embedder) -> None:
        rows = [{"id": i, "body": text, "other": [i]} for i, text in enumerate(TEXTS)]
        content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
        Path("in.jsonl").write_text(content)
        encode("in.jsonl", "-o", "out.jsonl", "--column", "body", "--keep", "id", "--keep", "body")
        found = json_lines("out.jsonl")
        assert [(row["row"], row["id"], row["body"]) for row in found] == [
            (i, i, text) for i, text in enumerate(TEXTS)
        ]
        vectors = np.array([row["embedding"] for row in found], np.float32)
        assert np.array_equal(vectors, model.encode(TEXTS))  # the digits are enough

    def test_folder_pattern_and_stdin(
        self, encode: Folder, model: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (encode.path / "in" / "deep").mkdir(parents=True)
        Path("in/b.txt").write_text("b")
        Path("in/a.jsonl").write_text('{"text": "a"}')
        Path("in/deep/c.csv").write_text("text\nc\n")
        Path("in/readme.md").write_text("no row")
        encode("in", "-o", "out.npy")
        assert np.array_equal(np.load("out.npy"), model.encode(["a", "b", "c"]))
        encode("in/**/*.[tc]*", "-o", "out.npy")
        assert np.array_equal(np.load("out.npy"), model.encode(["b", "c"]))

        class Stdin:
            buffer = io.BytesIO(b'{"text": "x"}\n')

        monkeypatch.setattr(sys, "stdin", Stdin)
        encode("-", "in/b.txt", "--format", "jsonl", "-o", "out.npy", status=0)
        assert np.isnan(np.load("out.npy")[1]).all()  # in/b.txt was read as JSON lines too

    def test_parquet_both_ways(self, encode: Folder, model: Embedder) -> None:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({"n": [1.5, None, 3.0, 4.0, 5.0], "body": TEXTS, "bin": [b"x"] * 5})
        parquet.write_table(table, "in.parquet")
        encode("in.parquet", "-o", "out.parquet", "--column", "body", "--keep", "n", "--dim", "64")
        found = parquet.read_table("out.parquet")
        assert found.column_names == ["row", "n", "embedding"]
        assert found["n"].to_pylist() == [1.5, None, 3.0, 4.0, 5.0]
        assert found.schema.field("embedding").type == pa.list_(pa.float32(), 64)
        vectors = np.array(found["embedding"].to_pylist(), np.float32)
        assert np.array_equal(vectors, model.encode(TEXTS, dim=64))
        assert found.schema.metadata[b"model"].decode() == model.fingerprint

    def test_parquet_without_pyarrow(
        self, encode: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Refused before anything is computed, and nothing is left."""
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        Path("in.txt").write_text("a\n")
        encode("in.txt", "-o", "out.parquet", status=1)
        assert "pip install 'qwen3-embed-native[parquet]'" in capsys.readouterr().err
        assert encode.names() == ["in.txt"]

    def test_parquet_nulls_are_bad_records(self, encode: Folder, model: Embedder) -> None:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.table({"text": ["a", None]}), "in.parquet")
        encode("in.parquet", "-o", "out.parquet")
        assert parquet.read_table("out.parquet")["row"].to_pylist() == [0]
        assert json_lines("out.parquet.bad.jsonl")[0]["row"] == 1

    @pytest.mark.parametrize(
        ("name", "content", "options", "message"),
        [
            ("in.csv", "a,b\n1,2\n", [], "no column 'text', expected one of 'a', 'b'"),
            ("in.csv", "a,b\n1,2\n", ["--column", "c"], "no column 'c'"),
            ("in.txt", "x\n", ["--column", "c"], "no column 'c'"),
            ("none.txt", None, [], "no file or folder 'none.txt'"),
            ("*.txt", None, [], "a file that matches it"),
        ],
    )
    def test_errors_leave_nothing(
        self,
        encode: Folder,
        capsys: pytest.CaptureFixture[str],
        name: str,
        content: str | None,
        options: list[str],
        message: str,
    ) -> None:
        if content is not None:
            Path(name).write_text(content)
        encode(name, "-o", "out.npy", *options, status=1)
        assert message in capsys.readouterr().err
        assert encode.names() == ([name] if content is not None else [])


class TestBadRecords:
    def test_counted_and_written_aside(
        self, encode: Folder, model: Embedder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = [
            b'{"text": "a"}',
            b"{",
            b'{"text": 1}',
            b'{"other": 1}',
            b"[1]",
            b'{"text": "\\ud800"}',
            b'{"text": "\xff"}',
            b"[" * 100_000,
            b'{"text": "b"}',
        ]
        Path("in.jsonl").write_bytes(b"\n".join(lines))
        encode("in.jsonl", "-o", "out.jsonl")
        assert capsys.readouterr().err == (
            "warning: 7 of 9 records were bad, see out.jsonl.bad.jsonl\n"
        )
        assert [row["row"] for row in json_lines("out.jsonl")] == [0, 8]
        bad = json_lines("out.jsonl.bad.jsonl")
        assert [row["row"] for row in bad] == list(range(1, 8))
        assert bad[1]["reason"] == "'text' is int, expected a string"
        assert bad[2]["reason"] == "'text' is missing, expected a string"
        assert bad[2]["content"] == '{"other": 1}'
        encode("in.jsonl", "-o", "out.npy")
        found = np.load("out.npy")
        assert np.array_equal(found[[0, 8]], model.encode(["a", "b"]))
        assert np.isnan(found[1:8]).all()
        Path("in.jsonl").write_bytes(lines[0])
        encode("in.jsonl", "-o", "out.jsonl")
        assert encode.names() == ["in.jsonl", "out.jsonl", "out.npy", "out.npy.bad.jsonl"]

    def test_csv(self, encode: Folder, model: Embedder) -> None:
        Path("in.csv").write_bytes(b"id,text\n1,a\n2\n3,b,c\n4,\xff\n\n5,b\n")
        encode("in.csv", "-o", "out.npy")
        found = np.load("out.npy")
        assert np.array_equal(found[[0, 4]], model.encode(["a", "b"]))
        reasons = [row["reason"] for row in json_lines("out.npy.bad.jsonl")]
        assert reasons == [
            "1 fields, expected 2",
            "3 fields, expected 2",
            "not UTF-8 at character 0",
        ]

    def test_long_lines(self, encode: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("qwen3_embed.corpus.records._MAX_RECORD_BYTES", 10)
        Path("in.txt").write_text("0123456789\n0123456789x\nb\n" + "x" * 30)
        encode("in.txt", "-o", "out.npy")
        assert np.isnan(np.load("out.npy")[:, 0]).tolist() == [False, True, False, True]

    def test_vectors_that_are_not_finite(self, poisoned_folder: Path, encode: Folder) -> None:
        encode.model = poisoned_folder
        Path("in.txt").write_text("a\nb ~ b\nc\n~\nb ~ b\nd\n")
        for options in ([], ["--cache", "c.sqlite"], ["--cache", "c.sqlite"]):
            encode("in.txt", "-o", "out.jsonl", *options)
            assert [row["row"] for row in json_lines("out.jsonl")] == [0, 2, 5]
            bad = json_lines("out.jsonl.bad.jsonl")
            assert [(row["row"], row["content"]) for row in bad] == [
                (1, "b ~ b"),
                (3, "~"),
                (4, "b ~ b"),
            ]


class TestWork:
    def test_identical_texts_are_computed_once(
        self, encode: Folder, model: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(corpus_run, "_CHUNK_RECORDS", 7)
        computed: list[str] = []
        real = corpus_run._encode

        def counting(opened: Embedder, texts: list[str], *others: Any) -> Any:
            computed.extend(texts)
            return real(opened, texts, *others)

        monkeypatch.setattr(corpus_run, "_encode", counting)
        source = np.random.default_rng(3)
        texts = [f"text {n}" for n in source.integers(0, 40, 300)]
        Path("in.txt").write_text("\n".join(texts))
        encode("in.txt", "-o", "out.npy")
        assert sorted(computed) == sorted(set(texts))
        assert np.array_equal(np.load("out.npy"), model.encode(texts))

    def test_distinct(self) -> None:
        source = np.random.default_rng(1)
        table = Distinct()
        right: dict[bytes, int] = {}
        for size in (1, 5, 100, 3, 1000, 0, 64, 64, 2000):
            digests = [source.integers(0, 700).tobytes() * 2 for _ in range(size)]
            numbers, new = table.add(digests)
            expected_new = []
            for i, digest in enumerate(digests):
                if digest not in right:
                    right[digest] = len(right)
                    expected_new.append(i)
            assert numbers.tolist() == [right[digest] for digest in digests]
            assert new == expected_new
        assert table.n_texts == len(right)

    def test_distinct_forgets_the_oldest(self) -> None:
        table = Distinct(max_texts=100)
        for i in range(1000):
            table.add([i.to_bytes(8, "big") * 2])
        assert sum(len(segment.high) for segment in table._segments) <= 100
        assert table.add([(999).to_bytes(8, "big") * 2])[0].tolist() == [999]
        assert table.add([bytes(16)])[0].tolist() == [1000]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([1, None], "int64"),
            ([1, 2.5], "float64"),
            ([True], "bool"),
            ([True, 1], "json"),
            (["a"], "string"),
            ([1 << 70], "json"),
            ([{"a": 1}], "json"),
            ([], "string"),
        ],
    )
    def test_column_types(self, values: list[Any], expected: str) -> None:
        types = ColumnTypes(["x"])
        for value in values:
            types.add((value,))
        assert types.of(0) == expected


class TestResume:
    def stopped(self, encode: Folder, n_records: int = 20) -> None:
        """Leaves a ledger as a run leaves it that was killed after its last commit."""
        Path("in.txt").write_text("".join(f"line {i}\n" for i in range(n_records)))
        with Embedder(encode.model) as opened, pytest.MonkeyPatch.context() as patch:
            patch.setattr(corpus_run, "remove_folder", lambda folder: None)
            from qwen3_embed.corpus.records import Source

            corpus = corpus_run.Corpus([Source("in.txt", "text")], None, [])

            def killed(write: Any, bad: Path) -> None:
                raise SystemExit

            with pytest.raises(SystemExit):
                corpus_run.run_corpus(
                    opened,
                    corpus,
                    Path("out.npy.job"),
                    killed,
                    format="npy",
                    dim=None,
                    prefix="",
                    on_done=lambda n: None,
                )

    def test_goes_on(self, encode: Folder, model: Embedder) -> None:
        self.stopped(encode)
        with open("out.npy.job/vectors", "ab") as file:
            file.write(b"of a commit that never came")
        encode("in.txt", "-o", "out.npy", "--resume")
        expected = model.encode([f"line {i}" for i in range(20)])
        assert np.array_equal(np.load("out.npy"), expected)
        assert encode.names() == ["in.txt", "out.npy"]
        encode("in.txt", "-o", "out.npy", "--resume")  # nothing to do

    @pytest.mark.parametrize(
        ("change", "options", "message"),
        [
            (None, [], "is left from a run that was stopped"),
            (None, ["--resume", "--dim", "64"], "--dim 128, and now it is 64"),
            (None, ["--resume", "--prompt-name", "query"], "prefix="),
            ("line 0\n" * 20, ["--resume"], "the input differs from the one"),
            ("line 0\n", ["--resume"], "the input differs from the one"),
        ],
    )
    def test_refuses(
        self,
        encode: Folder,
        capsys: pytest.CaptureFixture[str],
        change: str | None,
        options: list[str],
        message: str,
    ) -> None:
        self.stopped(encode)
        if change is not None:
            Path("in.txt").write_text(change)
        encode("in.txt", "-o", "out.npy", *options, status=1)
        assert message in capsys.readouterr().err
        assert encode.names() == ["in.txt", "out.npy.job"]

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "job", {}, 8)
        with pytest.raises(BlockingIOError, match="another process is using"):
            Ledger(tmp_path / "job", {}, 8)
        ledger.close()
        Ledger(tmp_path / "job", {}, 8).close()

    def test_ledger_of_another_version(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "job", {}, 8)
        ledger.commit()
        ledger.close()
        Ledger(tmp_path / "job", {}, 8).close()
        path = tmp_path / "job" / "state.json"
        path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
        for _ in range(2):  # the lock is let go
            with pytest.raises(ValueError, match="begun by another version of qwen3_embed"):
                Ledger(tmp_path / "job", {}, 8)

    def test_killed_at_random_moments(self, models: ModelMaker, tmp_path: Path) -> None:
        """benchmarks/resume.py does it more often."""
        write_corpus(tmp_path / "in.jsonl", 8000)
        common = [str(tmp_path / "in.jsonl"), "--dim", "32"]
        common += ["--model", str(models("tiny64", num_hidden_layers=1))]
        whole = tmp_path / "whole.npy"
        whole_s = run_whole([*common, "-o", str(whole)])
        output = tmp_path / "killed.npy"
        assert run_killed([*common, "-o", str(output)], output, whole_s, seed=4) >= 1
        for end in ("", ".bad.jsonl"):
            found = output.with_name(output.name + end).read_bytes()
            assert found == whole.with_name(whole.name + end).read_bytes()
