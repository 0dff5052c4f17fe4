"""Several engines behind one call: order, shares, failure. Two on the CPU stand for two GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, DeviceMemoryError, Embedder
from qwen3_embed import model as model_module
from qwen3_embed.loading import engines
from qwen3_embed.loading.engines import Engines, open_engines
from tests.conftest import ModelMaker
from tests.support.engines import cpu_only, open_engine
from tests.support.make_adapter import make_adapter

TEXTS = [f"text number {i} " + "and more " * (i % 13) for i in range(400)]

pytestmark = cpu_only


class Watched:
    """An engine that counts its jobs; the one numbered `fails_at` fails as a lost GPU does."""

    def __init__(self, engine: Any, fails_at: int = -1) -> None:
        self.engine = engine
        self.fails_at = fails_at
        self.jobs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def submit(self, *arguments: Any) -> Any:
        job = self.engine.submit(*arguments)
        self.jobs.append(job if len(self.jobs) != self.fails_at else FailedJob(job))
        return self.jobs[-1]


class FailedJob:
    def __init__(self, job: Any) -> None:
        self.job = job
        self.cancel = job.cancel
        self.done = job.done

    def wait(self) -> None:
        raise DeviceError("device cuda:1: forward: an illegal memory access")


@pytest.fixture
def pair(models: ModelMaker) -> Iterator[tuple[Embedder, list[Watched]]]:
    folder = models("tiny64")
    with Embedder(folder, batch_tokens=64) as model:
        watched = [Watched(open_engine(folder, batch_tokens=64)) for _ in range(2)]
        model._engines.close()
        model._engines = Engines(watched)  # type: ignore[arg-type]
        yield model, watched


def test_rows_are_those_of_one_engine(models: ModelMaker, pair: Any) -> None:
    model, watched = pair
    with Embedder(models("tiny64")) as single:
        expected = single.encode(TEXTS)
        np.testing.assert_array_equal(model.encode(TEXTS), expected)
        chunks = list(model.encode_iter(iter(TEXTS), chunk=150))
        np.testing.assert_array_equal(np.concatenate(chunks), expected)
    shares = [len(engine.jobs) for engine in watched]
    assert min(shares) > 0.2 * sum(shares), shares
    assert model.device == "cpu,cpu"


def test_the_real_ones_share_by_what_is_pending(models: ModelMaker) -> None:
    folder = models("tiny64")
    both = Engines([open_engine(folder, batch_tokens=64) for _ in range(2)])
    assert len(both) == 2
    rows = both.rows(4, 16)
    tokens, cu_seqlens = np.arange(300, dtype=np.int32), np.array([0, 300], np.int32)
    jobs = [both.submit(tokens, cu_seqlens, rows, i, True) for i in range(4)]
    for job in jobs:
        job.wait()
    assert all(engine.pending_tokens() == 0 for engine in both._engines)
    np.testing.assert_array_equal(rows[1:], rows[:1].repeat(3, axis=0))
    both.close()
    with pytest.raises(ValueError, match="closed"):
        both.submit(tokens, cu_seqlens, rows, 0, True)


def test_one_fails(pair: Any) -> None:
    """The call says so, cancels what the other has, and the other goes on."""
    model, watched = pair
    watched[1].fails_at = 1
    with pytest.raises(DeviceError, match="cuda:1"):
        model.encode(TEXTS)
    for engine in watched:
        for job in engine.jobs:
            with suppress(RuntimeError):  # cancelled
                getattr(job, "job", job).wait()
        assert engine.pending_tokens() == 0
    watched[1].fails_at = -1
    assert model.encode(TEXTS[:9]).shape == (9, 128)


def test_an_adapter_that_one_engine_has_no_room_for(
    models: ModelMaker, pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails, and the next adapter is the same one on all."""
    model, watched = pair
    folder = models("tiny64")
    first = make_adapter(tmp_path / "first", folder)
    second = make_adapter(tmp_path / "second", folder, seed=2)

    def no_room(tensors: Any) -> int:
        raise DeviceMemoryError("device cuda:1: 9.00 GB needed for the adapter")

    with monkeypatch.context() as patch:
        patch.setattr(watched[1], "add_adapter", no_room, raising=False)
        with pytest.raises(DeviceMemoryError, match="needed for the adapter"):
            model.add_adapter("first", first)
    assert not model.adapters
    model.add_adapter("second", second)
    model.set_adapter("second")
    with Embedder(folder, adapter=second) as single:
        np.testing.assert_array_equal(model.encode(TEXTS), single.encode(TEXTS))
    assert all(engine.jobs for engine in watched)


def test_all_or_none_are_opened(models: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_or_fail(paths: Any, config: Any, *, device: str, **options: Any) -> Any:
        if device == "cuda:1":
            raise DeviceError("device cuda:1: not found, expected 0 to 0")
        opened.append(open_engine(models("tiny64")))
        return opened[-1]

    monkeypatch.setattr(engines, "Engine", open_or_fail)
    with pytest.raises(DeviceError, match="cuda:1: not found"):
        open_engines([], {}, devices=["cuda:0", "cuda:1", "cuda:2"], num_threads=None)
    assert [engine.info["closed"] for engine in opened] == [True, True]


def test_pending_tokens(models: ModelMaker, tmp_path: Path) -> None:
    """Tokens of cancelled, refused and closed jobs are no longer pending."""
    engine = open_engine(models("small"), batch_tokens=512)
    tokens = np.zeros(16 * 256, np.int32)
    cu_seqlens = np.arange(0, 4097, 256, dtype=np.int32)
    jobs = [engine.submit(tokens, cu_seqlens, engine.rows(16, 8), 0, True) for _ in range(3)]
    assert engine.pending_tokens() > 4096
    jobs[2].cancel()
    jobs[1].cancel()
    with pytest.raises(ValueError, match="token id"):
        engine.submit(tokens - 1, cu_seqlens, engine.rows(16, 8), 0, True)
    jobs[0].wait()
    for job in jobs[1:]:
        with pytest.raises(RuntimeError, match="cancelled"):
            job.wait()
    assert engine.pending_tokens() == 0
    counts = engine.counts()
    assert counts["batches"] >= 8  # 4096 tokens in batches of 512
    assert counts["texts"] >= 16
    assert counts["tokens"] <= 256 * counts["texts"]
    assert 0 < counts["forward_s"] < 60
    engine.close()
    for count in (engine.pending_tokens, engine.counts):
        with pytest.raises(ValueError, match="closed"):
            count()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A GPU that "auto" finds, and that opens nothing: it raises what is put into the list."""
    failure: list[Exception] = []

    def open_or_fail(*arguments: Any, devices: Any, **options: Any) -> Any:
        if devices != ("cpu",):
            raise failure[0]
        return open_engines(*arguments, devices=devices, **options)

    monkeypatch.setattr(model_module, "resolve_device", lambda device, split: ("cuda:0",))
    monkeypatch.setattr(model_module, "open_engines", open_or_fail)
    return failure


def test_auto_takes_the_cpu_for_what_a_gpu_cannot_compute(
    models: ModelMaker, gpu: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    gpu.append(DeviceError("device cuda: head_dim 160, expected 64, 96, 128 or 256"))
    with Embedder(models("tiny64")) as model:
        assert model.device == "cpu"
    assert "head_dim 160" in caplog.text
    assert "using the CPU" in caplog.text
    with pytest.raises(DeviceError, match="head_dim 160"):
        Embedder(models("tiny64"), device="cuda")


def test_auto_never_hides_a_full_gpu(models: ModelMaker, gpu: list[Exception]) -> None:
    gpu.append(DeviceMemoryError("device cuda:0: 9.00 GB needed, 1.00 of 80.00 GB free"))
    with pytest.raises(DeviceMemoryError, match=r"9\.00 GB needed"):
        Embedder(models("tiny64"))
