"""The vector cache: right vectors, never another model's; threads, processes, bounds, damage."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, InputTooLongError, TruncationWarning, VectorCache
from qwen3_embed.cache import CacheKeys
from tests.conftest import TEXTS, ModelMaker
from tests.support.child import child

KEYS = CacheKeys("fingerprint", 8, True)


def submitted(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of texts of each job that reaches the engine from now on."""
    seen: list[int] = []
    engines = model._engines

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(engines, name)

        def __len__(self) -> int:
            return len(engines)

        def submit(self, tokens: Any, cu_seqlens: Any, *others: Any) -> Any:
            seen.append(len(cu_seqlens) - 1)
            return engines.submit(tokens, cu_seqlens, *others)

    monkeypatch.setattr(model, "_engines", Counting())
    return seen


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Any:
    with Embedder(folder, cache=tmp_path / "cache.sqlite") as opened:
        yield opened


class TestEmbedder:
    def test_same_bits_and_no_work(
        self, cached: Embedder, model: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = submitted(cached, monkeypatch)
        mixed = [*TEXTS, "another", TEXTS[0]]
        assert np.array_equal(cached.encode(TEXTS[:3]), model.encode(TEXTS[:3]))
        assert np.array_equal(cached.encode(mixed), model.encode(mixed))
        assert np.array_equal(cached.encode(mixed), model.encode(mixed))
        assert sum(work) == len(set(mixed))  # each text once
        assert np.array_equal(cached.encode("another"), model.encode("another"))
        out = np.zeros((2, 64), np.float32)
        for _ in range(2):
            assert cached.encode(["x", "y"], dim=64, out=out) is out
            assert np.array_equal(out, model.encode(["x", "y"], dim=64))
        assert cached.encode([]).shape == (0, 128)

    def test_everything_that_changes_a_vector_is_in_the_key(
        self, cached: Embedder, model: Embedder
    ) -> None:
        ways: list[dict[str, Any]] = [
            {},
            {"dim": 64},
            {"normalize": False},
            {"instruction": "Find it"},
            {"prompt": "Find it"},
            {"precision": "float16"},
        ]
        for _ in range(2):
            for way in ways:
                assert np.array_equal(cached.encode(TEXTS, **way), model.encode(TEXTS, **way))

    def test_models_share_a_file(self, models: ModelMaker, folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "cache.sqlite"
        settings: list[dict[str, Any]] = [
            {"model": folder},
            {"model": models("tiny64", seed=7)},  # other weights of the same shape
            {"model": folder, "max_length": 4},
            {"model": folder, "special_tokens_in_text": False},
        ]
        texts = ["one two three", "<|im_end|>"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            right = [Embedder(**each).encode(texts) for each in settings]
            assert not np.array_equal(right[0], right[1])
            for _ in range(2):
                for each, expected in zip(settings, right, strict=True):
                    with Embedder(**each, cache=path) as opened:
                        assert np.array_equal(opened.encode(texts), expected)

    def test_stream(self, cached: Embedder, model: Embedder) -> None:
        texts = [f"text {i % 5}" for i in range(23)]
        rows = np.concatenate(list(cached.encode_iter(texts, chunk=4)))
        assert np.array_equal(rows, model.encode(texts))

    def test_long_texts_are_reported_from_the_cache_too(self, folder: Path, tmp_path: Path) -> None:
        with Embedder(folder, max_length=9, cache=tmp_path / "c.sqlite") as opened:
            for _ in range(2):
                with pytest.warns(TruncationWarning, match=r"1 text .* texts\[1\], has 51"):
                    opened.encode(["short", "x" * 50])
                with pytest.raises(InputTooLongError, match=r"texts\[1\] has 51 tokens"):
                    opened.encode(["short", "x" * 50], on_long="error")

    def test_lone_surrogate_is_named(self, cached: Embedder) -> None:
        with pytest.raises(ValueError, match=r"texts\[1\] contains the lone surrogate U\+D800"):
            cached.encode(["ok", "\ud800"])

    def test_look_up(self, cached: Embedder, model: Embedder) -> None:
        expected = cached.encode(["a", "b"], prompt="P: ")
        rows = np.zeros((4, cached.dim), np.float32)
        found = cached.look_up(["b", "new", "a", "new"], rows, prefix="P: ")
        assert found.places == [1]
        assert np.array_equal(rows[[2, 0]], expected)
        assert found.fill(lambda places: (expected[:1], np.array([7]))).tolist()[1::2] == [7, 7]
        assert np.array_equal(rows[1::2], expected[[0, 0]])
        with pytest.raises(ValueError, match="has no cache: open it with cache="):
            model.look_up(["a"], rows)

    def test_pickle(self, folder: Path, tmp_path: Path) -> None:
        cache = VectorCache(tmp_path / "c.sqlite", max_bytes=2 << 20)
        with Embedder(folder, cache=cache) as opened:
            opened.encode("a")
            copy = pickle.loads(pickle.dumps(opened))
        with copy:
            assert copy._cache.max_bytes == 2 << 20
            assert len(copy._cache) == 1


def write(path: str, seed: int, barrier: Any) -> None:
    """For a process of its own: put and get beside others; exits 1 on a wrong vector."""
    barrier.wait(30)
    cache = VectorCache(path, max_bytes=1 << 20)
    source = np.random.default_rng(seed)
    for _ in range(20):
        numbers = source.integers(0, 300, 50)
        keys = KEYS.of("", [str(n) for n in numbers])
        hits = cache.get(keys, 8)
        expected = np.repeat(numbers[hits.indices].astype(np.float32)[:, None], 8, axis=1)
        if not np.array_equal(hits.vectors, expected):
            raise SystemExit(1)
        rows = np.repeat(numbers.astype(np.float32)[:, None], 8, axis=1)
        cache.put(keys, numbers.astype(np.int64), rows)


class TestFile:
    def test_processes_at_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(4)
        path = str(tmp_path / "c.sqlite")
        workers = [context.Process(target=write, args=(path, i, barrier)) for i in range(4)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert len(VectorCache(path)) > 290

    def test_threads_at_once(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(6)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                write(str(tmp_path / "c.sqlite"), seed, barrier)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_fork(self, tmp_path: Path) -> None:
        """The child opens its own connection, even where a thread of the parent held the lock."""
        cache = VectorCache(tmp_path / "c.sqlite")
        keys = KEYS.of("", ["a"])
        cache.put(keys, np.ones(1, np.int64), np.ones((1, 8), np.float32))
        with cache._held():
            child = os.fork()
            if child == 0:
                os._exit(0 if len(cache.get(keys, 8).indices) == 1 else 1)
            deadline = time.monotonic() + 30
            while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert done[1] == 0

    def test_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "c.sqlite"
        limit = 1 << 20
        cache = VectorCache(path, max_bytes=limit)
        keys_of = CacheKeys("f", 256, True)
        for block in range(60):
            keys = keys_of.of("", [f"{block} {i}" for i in range(100)])
            rows = np.full((100, 256), block, np.float32)
            cache.put(keys, np.full(100, 3), rows)
            assert path.stat().st_size <= limit
        assert len(cache.get(keys, 256).indices) == 100  # the newest are there,
        assert 500 < len(cache) < 1000  # the oldest aren't, and the room is used

    def test_killed_while_writing(self, tmp_path: Path) -> None:
        path = tmp_path / "c.sqlite"
        code = (
            "import sys, numpy as np\n"
            "from qwen3_embed.cache import CacheKeys, VectorCache\n"
            "cache, keys = VectorCache(sys.argv[1]), CacheKeys('f', 64, True)\n"
            "for i in range(10**6):\n"
            "    cache.put(keys.of('', [f'{i} {j}' for j in range(64)]),\n"
            "              np.full(64, i), np.full((64, 64), i, np.float32))\n"
            "    print(i, flush=True)\n"
        )
        with child([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(30):
                last = int(process.stdout.readline())
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
        cache, keys_of = VectorCache(path), CacheKeys("f", 64, True)
        for i in range(last + 1):
            hits = cache.get(keys_of.of("", [f"{i} {j}" for j in range(64)]), 64)
            assert np.array_equal(hits.vectors, np.full((64, 64), i, np.float32))

    @pytest.mark.parametrize("content", [b"a text file, not a database\n" * 40, b"\0" * 4096])
    def test_other_files_are_refused_and_not_changed(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a cache"):
            VectorCache(path)
        assert path.read_bytes() == content

    def test_other_databases_are_refused_and_not_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE mine (a)")
        database.close()
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is not a cache of this version"):
            VectorCache(path)
        assert path.read_bytes() == before

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="cannot be opened"):
            VectorCache(tmp_path / "no" / "c.sqlite")
        with pytest.raises(ValueError, match="max_bytes=5, expected at least"):
            VectorCache(tmp_path / "c.sqlite", 5)

    def test_damage_is_a_warning_and_right_vectors(
        self, folder: Path, model: Embedder, tmp_path: Path
    ) -> None:
        path = tmp_path / "c.sqlite"
        with Embedder(folder, cache=path) as opened:
            opened.encode(TEXTS)
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xa5" * (len(content) - 4096)
        path.write_bytes(content)
        with (
            Embedder(folder, cache=path) as opened,
            pytest.warns(RuntimeWarning, match="could not be (read|written)"),
        ):
            assert np.array_equal(opened.encode(TEXTS), model.encode(TEXTS))
