"""A call's lead over the engine, and clean-up after it, with an engine that counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder
from tests.conftest import ModelMaker

BATCH_TOKENS = 32


class CountedEngine:
    """Stands between a model and its engine: notes what is on its way, and can fail."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.jobs: list[CountedJob] = []
        self.fail_at = -1
        self.most_waiting = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __len__(self) -> int:
        return len(self.engine)

    def submit(self, *arguments: Any) -> CountedJob:
        job = CountedJob(self.engine.submit(*arguments), len(self.jobs) == self.fail_at)
        self.jobs.append(job)
        self.most_waiting = max(self.most_waiting, self.n_waiting())
        return job

    def n_waiting(self) -> int:
        return sum(job.state == "waiting" for job in self.jobs)

    def states(self) -> list[str]:
        return [job.state for job in self.jobs]


class CountedJob:
    def __init__(self, job: Any, fails: bool) -> None:
        self.job = job
        self.fails = fails
        self.state = "waiting"

    def wait(self) -> None:
        self.job.wait()
        if self.fails:
            raise MemoryError("made to fail")
        self.state = "done"

    def cancel(self) -> None:
        self.job.cancel()
        self.state = "cancelled"


@pytest.fixture(scope="module")
def folder(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture
def counted(folder: Path) -> Iterator[tuple[Embedder, CountedEngine]]:
    with Embedder(folder, batch_tokens=BATCH_TOKENS) as model:
        engine = CountedEngine(model._engines)
        model._engines = engine  # type: ignore[assignment]
        yield model, engine


TEXTS = [f"some text of about forty characters {i}" for i in range(300)]


def test_few_jobs_at_a_time(counted: Any) -> None:
    model, engine = counted
    model.encode(TEXTS)
    assert len(engine.jobs) > 20
    assert engine.most_waiting == 3
    assert set(engine.states()) == {"done"}


def test_a_chunk_is_handed_out_when_its_rows_are_written(counted: Any) -> None:
    model, engine = counted
    expected = model.encode(TEXTS)
    engine.jobs.clear()
    jobs_before: list[int] = []
    seen = 0
    for rows in model.encode_iter(iter(TEXTS), chunk=50):
        # The jobs of this chunk are done; those that wait are of the next, and few.
        jobs_before.append(len(engine.jobs))
        if len(jobs_before) > 1:
            assert "waiting" not in engine.states()[: jobs_before[-2] - 3]
        done = engine.states().count("done")
        assert done >= len(engine.jobs) - 3
        assert np.array_equal(rows, expected[seen : seen + 50])
        seen += 50
    assert seen == len(TEXTS)


def test_rows_of_a_short_chunk_are_finished_first(counted: Any) -> None:
    """Chunks of one job each: with several jobs allowed, the oldest is still waited for."""
    model, engine = counted
    stream = model.encode_iter(iter(TEXTS), chunk=1)
    for i in range(20):
        next(stream)
        assert engine.states()[: i + 1] == ["done"] * (i + 1)
    stream.close()
    assert engine.n_waiting() == 0


def test_failure_cancels_the_rest(counted: Any) -> None:
    model, engine = counted
    engine.fail_at = 4
    with pytest.raises(MemoryError, match="made to fail"):
        model.encode(TEXTS)
    states = engine.states()
    assert states[:4] == ["done"] * 4
    assert set(states[4:]) == {"cancelled"}
    assert len(states) <= 8


@pytest.mark.parametrize("bad", [None, "\ud800"])
def test_bad_text_late_in_a_stream_cancels_the_rest(counted: Any, bad: Any) -> None:
    model, engine = counted
    with pytest.raises((TypeError, ValueError), match=r"texts\[280\]"):
        list(model.encode_iter([*TEXTS[:280], bad], chunk=40))
    assert engine.n_waiting() == 0


def test_leaving_a_stream_cancels_the_rest(counted: Any) -> None:
    model, engine = counted
    for _ in model.encode_iter(iter(TEXTS), chunk=100):
        break
    assert engine.n_waiting() == 0
    assert "cancelled" in engine.states()


def test_long_text_as_an_error_cancels_the_rest(folder: Path) -> None:
    with Embedder(folder, batch_tokens=BATCH_TOKENS, max_length=64) as model:
        engine = CountedEngine(model._engines)
        model._engines = engine  # type: ignore[assignment]
        with pytest.raises(ValueError, match=r"texts\[250\]"):
            model.encode([*TEXTS[:250], "x" * 99, *TEXTS], on_long="error")
        assert engine.n_waiting() == 0
