"""An Embedder's life: opening, properties, errors of the engine, threads, processes, closing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, Embedder, ModelFileError, NonFiniteError
from qwen3_embed.loading.fingerprint import fingerprint_of
from tests.conftest import HIDDEN, TEXTS
from tests.support.engines import OPENED_ON, cpu_only
from tests.support.make_model import make_model


@pytest.fixture(scope="module")
def poisoned(poisoned_folder: Path) -> Iterator[Embedder]:
    with Embedder(poisoned_folder) as opened:
        yield opened


class TestConstruction:
    def test_properties(self, model: Embedder, folder: Path) -> None:
        assert (model.dim, model.max_length) == (HIDDEN, 4096)
        assert (model.device, model.dtype) == (OPENED_ON, "bfloat16")
        assert (model.name, model.revision, model.folder) == (str(folder), None, folder)
        assert model.special_tokens_in_text is True
        assert len(model.fingerprint) == 64
        assert int(model.fingerprint, 16)
        assert repr(model) == (
            f"Embedder({str(folder)!r}, dim=128, device={OPENED_ON!r}, dtype='bfloat16', "
            f"max_length=4096)"
        )
        with pytest.raises(TypeError):
            model.prompts["query"] = "x"  # type: ignore[index]
        with pytest.raises(AttributeError):
            model.dim = 3  # type: ignore[misc]

    @pytest.mark.parametrize(
        "options",
        [
            {"device": "tpu"},
            {"device": ["cpu", "cpu"]},
            {"device": "cuda:x"},
            {"device": ["cuda", "cuda:all"]},
            {"device": ["cuda", "cuda:0"]},
            {"dtype": "float16"},
            {"dtype": "int4"},
            {"max_length": 0},
            {"max_length": 10**6},
            {"max_length": 5.0},
            {"max_length": True},
            {"batch_tokens": 0},
            {"batch_tokens": 2**31},
            {"num_threads": 10**12},
            {"num_threads": 4097},
            {"device": 0},
            {"device": []},
            {"num_threads": -1},
            {"num_threads": 1.5},
            {"num_threads": True},
        ],
    )
    def test_arguments_out_of_range(self, folder: Path, options: Any) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.*, expected"):
            Embedder(folder, **options)

    @pytest.mark.parametrize("dtype", ["float8", "int8-weights"])
    def test_dtypes_of_gpus(self, folder: Path, dtype: str) -> None:
        with pytest.raises(DeviceError, match=f"dtype {dtype}: not on device cpu; use 'bfloat16'"):
            Embedder(folder, device="cpu", dtype=dtype)

    def test_the_table_of_embeddings_is_a_gpus_choice(self, folder: Path) -> None:
        for embedding in ("device", "host"):
            with pytest.raises(DeviceError, match=f"embedding {embedding}: not on device cpu"):
                Embedder(folder, device="cpu", embedding=embedding)
        with pytest.raises(ValueError, match="embedding: 'disk', expected 'auto', 'device' or"):
            Embedder(folder, device="cpu", embedding="disk")

    def test_unknown_argument(self, folder: Path) -> None:
        with pytest.raises(TypeError, match="trust_remote_code"):
            Embedder(folder, trust_remote_code=True)  # type: ignore[call-arg]

    @cpu_only
    def test_threads_and_batch_change_nothing(self, folder: Path, rows: Any) -> None:
        for options in ({"num_threads": 1}, {"num_threads": 3, "batch_tokens": 64}):
            with Embedder(folder, device="cpu", dtype="bfloat16", **options) as other:
                assert other.info["num_threads"] == options["num_threads"]
                assert np.array_equal(other.encode(TEXTS), rows)

    def test_close(self, folder: Path) -> None:
        other = Embedder(folder)
        other.close()
        other.close()
        for call in (other.encode, other.encode_query, lambda t: list(other.encode_iter(t))):
            with pytest.raises(ValueError, match="the model is closed: open it again"):
                call(["x"])
        assert other.dim == HIDDEN

    def test_close_with_a_cache_and_out(self, folder: Path, tmp_path: Path) -> None:
        """No vector comes out of the cache of a closed model, and its file stays closed."""
        out = np.empty((1, HIDDEN), np.float32)
        with Embedder(folder, cache=tmp_path / "cache.sqlite") as other:
            other.encode(["x"], out=out)
        for texts in (["x"], []):
            with pytest.raises(ValueError, match="closed"):
                other.encode(texts, out=out[: len(texts)])

    def test_special_tokens_in_text(self, folder: Path, model: Embedder) -> None:
        text = "a<|endoftext|>"
        with Embedder(folder, special_tokens_in_text=False) as plain:
            assert plain.count_tokens(text) > model.count_tokens(text) == 3
            assert np.array_equal(plain.encode("a b"), model.encode("a b"))
            assert plain.fingerprint != model.fingerprint

    def test_fingerprint(self, model: Embedder, folder: Path, tmp_path: Path) -> None:
        """It changes with whatever changes vectors, and with nothing else."""
        make_model(tmp_path / "same", "tiny64")
        make_model(tmp_path / "weights", "tiny64", seed=1)
        make_model(tmp_path / "config", "tiny64", rope_theta=999999)
        make_model(tmp_path / "unused", "tiny64", torch_dtype="float32", use_cache=False)
        make_model(tmp_path / "tokenizer", "tiny64")
        with (tmp_path / "tokenizer" / "tokenizer.json").open("a") as file:
            file.write("\n")
        found = {path.name: Embedder(path).fingerprint for path in sorted(tmp_path.iterdir())}
        assert found["same"] == found["unused"] == model.fingerprint
        assert len(set(found.values())) == 4
        assert Embedder(folder, max_length=99).fingerprint != model.fingerprint
        for dtype in ("bfloat16", "float8", "int8", "int8-weights"):
            other = fingerprint_of(
                model._files,
                dtype=dtype,
                max_length=model.max_length,
                special_tokens_in_text=model.special_tokens_in_text,
            )
            assert (other == model.fingerprint) == (dtype == model.dtype)
        assert Embedder(folder, num_threads=1).fingerprint == model.fingerprint

    def test_fingerprint_notices_changed_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kept hash of a file is not used once the file has changed."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        made = make_model(tmp_path / "model", "tiny64")
        first = Embedder(made).fingerprint
        assert len(list((tmp_path / "cache").rglob("*-*"))) == 1
        assert Embedder(made).fingerprint == first
        weights = made / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        assert Embedder(made).fingerprint != first
        (tmp_path / "cache").rename(tmp_path / "gone")
        (tmp_path / "cache").write_text("a file, so that nothing can be kept")
        assert Embedder(made).fingerprint != first

    def test_damaged_weights_name_the_file(self, tmp_path: Path) -> None:
        made = make_model(tmp_path, "tiny64")
        with (made / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            Embedder(made)

    def test_both_errors_come_out(self, tmp_path: Path) -> None:
        """Tokenizer and weights are opened side by side; a failure of either is raised."""
        made = make_model(tmp_path, "tiny64")
        (made / "tokenizer.json").write_text("{}")
        with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
            Embedder(made)
        n_threads = threading.active_count()
        (made / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            Embedder(made)
        assert threading.active_count() == n_threads


class TestNonFinite:
    def test_index(self, poisoned: Embedder, model: Embedder) -> None:
        with pytest.raises(NonFiniteError, match=r"texts\[2\]") as caught:
            poisoned.encode(["a", "b", "c~", "d"])
        assert caught.value.index == 2
        assert isinstance(caught.value, ArithmeticError)
        assert np.array_equal(poisoned.encode("a"), model.encode("a"))

    def test_index_in_a_later_chunk(self, poisoned: Embedder) -> None:
        texts = ["some words " * 20] * 2000
        texts[1777] = "~"
        with pytest.raises(NonFiniteError) as caught:
            poisoned.encode(texts)
        assert caught.value.index == 1777

    def test_index_in_a_stream(self, poisoned: Embedder) -> None:
        with pytest.raises(NonFiniteError, match=r"texts\[23\] gave") as caught:
            list(poisoned.encode_iter(["a"] * 23 + ["~"], chunk=10))
        assert caught.value.index == 23


def encode_here(model: Embedder) -> Any:
    return model.encode(TEXTS)


class TestProcessesAndThreads:
    def test_pickle(self, folder: Path, rows: Any, monkeypatch: Any, tmp_path: Path) -> None:
        monkeypatch.chdir(folder.parent)
        with Embedder(folder.name, max_length=999, num_threads=1, token="secret") as other:
            data = pickle.dumps(other)
        assert b"secret" not in data
        monkeypatch.chdir(tmp_path)  # a relative name was made absolute
        with pickle.loads(data) as copy:
            assert (copy.max_length, copy.info["num_threads"]) == (999, 1)
            assert np.array_equal(copy.encode(TEXTS), rows)

    @pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=cpu_only)])
    def test_multiprocessing(self, model: Embedder, rows: Any, method: str) -> None:
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            for found in pool.map(encode_here, [model] * 3):
                assert np.array_equal(found, rows)

    def test_asyncio(self, model: Embedder, rows: Any) -> None:
        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*[asyncio.to_thread(model.encode, t) for t in TEXTS])

        assert np.array_equal(np.stack(asyncio.run(all_of_them())), rows)

    def test_threads_get_their_own_rows_and_errors(self, model: Embedder) -> None:
        texts = [f"thread text {i} " + "word " * (i % 40) for i in range(160)]
        expected = model.encode(texts)

        def work(i: int) -> None:
            if i % 5 == 4:
                with pytest.raises(TypeError, match=r"texts\[1\]"):
                    model.encode([texts[i], None])  # type: ignore[list-item]
            else:
                mine = [texts[(i + k) % 160] for k in range(4)]
                assert np.array_equal(model.encode(mine), expected[np.arange(i, i + 4) % 160])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(160)))


class TestProgress:
    def test_bar(self, model: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
        model.encode(TEXTS, show_progress_bar=True)
        captured = capsys.readouterr()
        assert "5/5" in captured.err
        assert captured.out == ""
        model.encode(TEXTS)
        model.encode(TEXTS, show_progress_bar=False)
        assert capsys.readouterr().err == ""
        list(model.encode_iter(TEXTS, show_progress_bar=True))
        assert "5text" in capsys.readouterr().err

    def test_none_follows_the_logger(
        self, model: Embedder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logger = logging.getLogger("qwen3_embed")
        logger.setLevel(logging.INFO)
        try:
            model.encode(TEXTS)
            assert "5/5" in capsys.readouterr().err
            model.encode(TEXTS, show_progress_bar=False)
            assert capsys.readouterr().err == ""
        finally:
            logger.setLevel(logging.NOTSET)
