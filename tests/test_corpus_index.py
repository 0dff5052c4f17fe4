"""A folder is searched again: only what is new is embedded, and what is gone is not found."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder
from qwen3_embed.cli import main
from qwen3_embed.retrieval import corpus_files, corpus_index
from qwen3_embed.retrieval.corpus_files import find_files
from qwen3_embed.retrieval.corpus_index import CorpusIndex
from qwen3_embed.retrieval.passages import CUTTING_VERSION, read_files
from qwen3_embed.stores.corpus_vectors import CorpusVectors

FILES = {
    "git.md": "# Git\n\nTake back the last commit\n\nShow the changes\n",
    "food/eggs.txt": "Boil the eggs\nPeel them\n",
    "food/空.md": "冰箱里的牛奶\n",
    "empty.txt": "",
    "a.jsonl": '{"text": "one", "body": "uno"}\n{"text": "two", "body": "dos"}\n',
}
N_TEXTS = 7


@pytest.fixture(scope="module")
def mini() -> Iterator[Embedder]:
    with Embedder("mini", num_threads=1) as model:
        yield model


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its files count as written long ago."""
    monkeypatch.setattr(corpus_files, "_SETTLED_NS", 0)
    folder = tmp_path / "corpus"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CorpusVectors]:
    opened = CorpusVectors(tmp_path / "store.sqlite")
    yield opened
    opened.close()


def index_of(model: Embedder, corpus: Path, store: CorpusVectors | None, **options: Any) -> Any:
    return CorpusIndex(model, corpus, find_files(corpus), store=store, **options)


def found(model: Embedder, index: CorpusIndex, dim: int | None = None) -> list[tuple[Any, ...]]:
    query = model.encode_query("how do I cook eggs", dim=dim)
    return [(hit.score, *hit.passage.in_context.split("\n")) for hit in index.nearest(query, 99)]


def test_only_a_changed_passage_is_embedded(
    mini: Embedder, corpus: Path, store: CorpusVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are unchanged are not even read; the hits are those of an index made anew."""
    first = index_of(mini, corpus, store)
    assert (first.n_passages, first.n_computed) == (N_TEXTS, N_TEXTS)
    again = index_of(mini, corpus, store)
    assert again.n_computed == 0
    assert found(mini, again) == found(mini, first)

    (corpus / "food/eggs.txt").write_text("Boil the eggs\nFry the eggs in a pan\n")
    read: list[str] = []

    def reading(files: Any, *arguments: Any, **options: Any) -> Any:
        files = list(files)
        read.extend(file.path for file in files)
        return read_files(files, *arguments, **options)

    monkeypatch.setattr(corpus_index, "read_files", reading)
    changed = index_of(mini, corpus, store)
    assert read == [str(corpus / "food/eggs.txt")]
    assert changed.n_computed == 1
    hits = found(mini, changed)
    assert hits == found(mini, index_of(mini, corpus, None))
    texts = [text for _, *text in hits]
    assert ["Fry the eggs in a pan"] in texts
    assert ["Peel them"] not in texts


def test_files_that_are_gone_or_moved(mini: Embedder, corpus: Path, store: CorpusVectors) -> None:
    index_of(mini, corpus, store)
    os.rename(corpus / "food", corpus / "kitchen")
    os.remove(corpus / "git.md")
    index = index_of(mini, corpus, store)
    assert (index.n_passages, index.n_computed) == (N_TEXTS - 2, 0)  # moved, not embedded again
    with sqlite3.connect(store.path) as database:
        paths = {os.fsdecode(path) for (path,) in database.execute("SELECT path FROM files")}
    assert paths == {str(corpus / n) for n in ("a.jsonl", "empty.txt")} | {
        str(corpus / "kitchen" / n) for n in ("eggs.txt", "空.md")
    }


def test_a_folder_and_one_within_share_their_files(
    mini: Embedder, corpus: Path, store: CorpusVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_of(mini, corpus / "food", store)
    assert index_of(mini, corpus, store).n_computed == N_TEXTS - 3
    monkeypatch.chdir(corpus)
    for part in ("food", "food/", "./food", "food/eggs.txt", "."):
        assert index_of(mini, Path(part), store).n_computed == 0
    (corpus.parent / "corpus0.txt").write_text("its name begins alike")
    assert index_of(mini, corpus, store).n_passages == N_TEXTS


def test_whatever_decides_a_vector_is_an_entry_of_its_own(
    mini: Embedder, corpus: Path, store: CorpusVectors, folder: Path
) -> None:
    index_of(mini, corpus, store)
    assert index_of(mini, corpus, store, dim=64).n_computed == N_TEXTS
    assert index_of(mini, corpus, store, column="body").n_computed == N_TEXTS
    with Embedder(folder, num_threads=1) as other:
        assert index_of(other, corpus, store).n_computed == N_TEXTS
    assert index_of(mini, corpus, store).n_computed == 0
    assert found(mini, index_of(mini, corpus, store, dim=64), 64) == found(
        mini, index_of(mini, corpus, None, dim=64), 64
    )


def test_rebuild(mini: Embedder, corpus: Path, store: CorpusVectors) -> None:
    first = found(mini, index_of(mini, corpus, store))
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE files SET vectors = zeroblob(length(vectors))")
    assert found(mini, index_of(mini, corpus, store)) != first
    assert index_of(mini, corpus, store, rebuild=True).n_computed == N_TEXTS
    assert found(mini, index_of(mini, corpus, store)) == first


def test_a_file_changed_a_moment_ago_is_read_again(
    mini: Embedder, corpus: Path, store: CorpusVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the clock's resolution leaves size, times and inode as they were."""
    monkeypatch.setattr(corpus_files, "_SETTLED_NS", 10**12)
    index_of(mini, corpus, store)
    with sqlite3.connect(store.path) as database:
        assert {s for (s,) in database.execute("SELECT stamp FROM files")} == {""}
    monkeypatch.setattr(corpus_files, "_SETTLED_NS", 0)
    assert index_of(mini, corpus, store).n_computed == 0
    with sqlite3.connect(store.path) as database:
        assert "" not in {s for (s,) in database.execute("SELECT stamp FROM files")}


def test_a_file_that_changes_during_the_search(mini: Embedder, corpus: Path) -> None:
    index = index_of(mini, corpus, None)
    (corpus / "food/eggs.txt").write_text("Something else\n")
    with pytest.warns(UserWarning, match=r"eggs\.txt changed since it was read"):
        texts = [text for _, *text in found(mini, index)]
    assert len(texts) == N_TEXTS - 2
    assert ["Something else"] not in texts


def test_equal_texts_are_embedded_once(mini: Embedder, corpus: Path) -> None:
    (corpus / "copy.txt").write_text(FILES["food/eggs.txt"])
    index = index_of(mini, corpus, None)
    assert (index.n_passages, index.n_computed) == (N_TEXTS + 2, N_TEXTS)


def test_slices(mini: Embedder, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(mini, index_of(mini, corpus, None))
    monkeypatch.setattr(corpus_index, "_SLICE_BYTES", 1)
    assert found(mini, index_of(mini, corpus, None)) == whole


def test_cutting_has_not_changed(tmp_path: Path) -> None:
    """If it has, raise CUTTING_VERSION: passages are remembered by file."""
    texts = {
        "a.md": "# A\n\nOne:\n\n- two\n\n## B\n" + "A sentence. " * 200 + "\n",
        "b.py": "import os\n\n\nclass A:\n    x = 1\n\n    def f(self):\n        pass\n\n\ny = 2\n",
        "c.txt": "one\ntwo\n" + "很长的一句话。" * 200,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
    digest = sha256()
    for _, passages in read_files(find_files(tmp_path)):
        for passage in passages:
            digest.update(f"{passage.line} {passage.last_line} {passage.in_context}\0".encode())
    assert (CUTTING_VERSION, digest.hexdigest()[:16]) == (1, "6da5191283d80e38")


PROCESS = """
import sys
from pathlib import Path
from qwen3_embed import Embedder
from qwen3_embed.retrieval.corpus_files import find_files
from qwen3_embed.retrieval.corpus_index import CorpusIndex
from qwen3_embed.stores.corpus_vectors import CorpusVectors
corpus, path = sys.argv[1:]
with Embedder("mini", num_threads=1) as model:
    sys.stdin.readline()
    for _ in range(5):
        index = CorpusIndex(
            model, corpus, find_files(corpus), store=CorpusVectors(path), rebuild=True
        )
        hits = index.nearest(model.encode_query("how do I cook eggs"), 1)
        assert hits[0].passage.text == "Boil the eggs", hits
"""


def test_searches_at_once(mini: Embedder, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    command = [sys.executable, "-W", "error", "-c", PROCESS, str(corpus), str(path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        process.communicate("\n", timeout=60)
    assert [process.returncode for process in running] == [0, 0]
    assert index_of(mini, corpus, CorpusVectors(path)).n_passages == N_TEXTS


def test_full(mini: Embedder, tmp_path: Path) -> None:
    """The files written first are forgotten, and the result is right all the same."""
    store = CorpusVectors(tmp_path / "small.sqlite", max_bytes=1 << 20)
    keys = b"k" * 32 * 40
    rows = np.ones((40, 256), np.float32)
    for i in range(50):
        store.put(b"s", [(b"/f/%d" % i, corpus_index.FileVectors("1", keys, rows))])
    kept = store.get(b"s", b"/f", 256)
    assert 5 < len(kept) < 30
    assert b"/f/49" in kept
    assert b"/f/0" not in kept
    assert os.path.getsize(store.path) <= 1 << 20


class TestCommand:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def search(self, capsys: Any, *arguments: str) -> tuple[str, str]:
        assert main(["search", *arguments, "eggs", "--json"]) == 0
        return capsys.readouterr()

    def test_remembers_in_the_users_cache_folder(
        self, corpus: Path, tmp_path: Path, capsys: Any
    ) -> None:
        output = self.search(capsys, str(corpus))
        path = tmp_path / "cache/qwen3_embed/search/vectors.sqlite"
        assert len(CorpusVectors(path).get(*self.space(path), 256)) == len(FILES)
        assert self.search(capsys, str(corpus)) == output
        assert self.search(capsys, str(corpus), "--rebuild") == output

    def space(self, path: Path) -> tuple[bytes, bytes]:
        with sqlite3.connect(path) as database:
            ((space,),) = database.execute("SELECT DISTINCT space FROM files")
        return space, b"/"

    def test_a_file_of_ones_own(self, corpus: Path, tmp_path: Path, capsys: Any) -> None:
        self.search(capsys, str(corpus), "--cache", str(tmp_path / "own.sqlite"))
        assert (tmp_path / "own.sqlite").exists()
        assert not (tmp_path / "cache/qwen3_embed/search").exists()

    def test_a_folder_that_cannot_be_written(
        self, corpus: Path, tmp_path: Path, capsys: Any
    ) -> None:
        (tmp_path / "cache").write_text("not a folder")
        out, err = self.search(capsys, str(corpus))
        assert out.count("\n") == 5
        assert err.startswith("warning: the next search will be no faster: ")

    @pytest.mark.parametrize("content", [b"not a database" * 99, b"SQLite format 3\0" + b"x" * 999])
    def test_other_files_are_refused(
        self, corpus: Path, tmp_path: Path, capsys: Any, content: bytes
    ) -> None:
        (tmp_path / "other").write_bytes(content)
        assert main(["search", str(corpus), "x", "--cache", str(tmp_path / "other")]) == 1
        assert "use another file, or delete this one" in capsys.readouterr().err
        assert (tmp_path / "other").read_bytes() == content

    def test_the_cache_of_texts_is_another_kind(self, corpus: Path, tmp_path: Path) -> None:
        from qwen3_embed import VectorCache

        VectorCache(tmp_path / "texts").close()
        with pytest.raises(ValueError, match="is not a cache of searched folders"):
            CorpusVectors(tmp_path / "texts")

    def test_damage_is_said_and_the_results_are_right(
        self, corpus: Path, tmp_path: Path, capsys: Any
    ) -> None:
        path = tmp_path / "own.sqlite"
        out, _ = self.search(capsys, str(corpus), "--cache", str(path))
        content = bytearray(path.read_bytes())
        for page in range(4096, len(content), 4096):
            content[page : page + 512] = b"\xff" * 512
        path.write_bytes(content)
        again = self.search(capsys, str(corpus), "--cache", str(path))
        assert again[0] == out
        assert "if the file is damaged, delete it" in again[1]
