"""Threads, signals, processes: an Embedder shared, interrupted, forked, closed."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwen3_embed import Embedder, _core
from tests.conftest import ModelMaker
from tests.support.c_build import ASAN, ENGINE, TSAN, build
from tests.support.engines import cpu_only, embed, engine_config, open_engine, random_texts

ROOT = Path(__file__).resolve().parents[1]


@cpu_only
@pytest.mark.parametrize("sanitize", [TSAN, ASAN, ""])
def test_threads_in_c(models: ModelMaker, sanitize: str) -> None:
    """8 threads, calls cancelled now and then: every row has the bits of its text alone."""
    folder = models("tiny64", num_hidden_layers=2)
    program = build("test_engine", [*ENGINE, "tests/c/test_engine.c"], sanitize=sanitize)
    config = engine_config(folder)
    names = ["hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads", "head_dim"]
    numbers = [str(config[name]) for name in [*names, "vocab_size", "max_length"]]
    done = subprocess.run(
        [str(program), "8", "40", *numbers, str(folder / "model.safetensors")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "ok: 8 threads" in done.stdout


def test_a_short_job_is_left_to_the_thread_that_waits(models: ModelMaker) -> None:
    """Nothing computes it before that thread does, unless another job comes."""
    engine = open_engine(models("tiny64"))
    ids, cu_seqlens = np.arange(5, dtype=np.int32), np.array([0, 5], np.int32)
    expected = embed(engine, [ids], 16)  # the first batch is the worker's

    def submit(waits: bool) -> tuple[_core.Job, np.ndarray]:
        rows = engine.rows(1, 16)
        return engine.submit(ids, cu_seqlens, rows, 0, True, 0, waits), rows

    def done_soon(job: _core.Job, within_s: float) -> bool:
        end = time.monotonic() + within_s
        while not job.done() and time.monotonic() < end:
            time.sleep(0.001)
        return job.done()

    left, rows = submit(waits=True)
    assert not done_soon(left, 0.05)
    left.wait()
    np.testing.assert_array_equal(rows, expected)

    left, rows = submit(waits=True)
    other, other_rows = submit(waits=False)
    assert done_soon(left, 10)
    assert done_soon(other, 10)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(other_rows, expected)

    embed(engine, [ids], 16)  # alone in its batch again
    left, _ = submit(waits=True)
    left.cancel()
    assert left.done()
    submit(waits=True)  # dropped at once: nobody waits for it
    left, _ = submit(waits=True)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        left.wait()


def run_threads(n: int, work: Callable[[int], None]) -> None:
    """Runs work(0..n-1) at once; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_shared_by_threads(models: ModelMaker) -> None:
    engine = open_engine(models("tiny128"), batch_tokens=300)
    texts = random_texts([1, 5, 40, 64, 65, 100, 7, 33])
    alone = [embed(engine, [text], 32) for text in texts]

    def work(index: int) -> None:
        for turn in range(20):
            mine = [(index + turn) % 8, (index * turn) % 8]
            rows = embed(engine, [texts[i] for i in mine], 32)
            np.testing.assert_array_equal(rows, np.concatenate([alone[i] for i in mine]))

    run_threads(8, work)


def test_own_errors_in_company(models: ModelMaker) -> None:
    """Texts of concurrent calls share batches; a refused call fails alone."""
    model = Embedder(models("tiny64"))
    expected = model.encode("fine")

    def work(index: int) -> None:
        for _ in range(10):
            if index % 2:
                with pytest.raises(TypeError, match=r"texts\[1\] is int"):
                    model.encode(["fine", 3])  # type: ignore[list-item]
            else:
                np.testing.assert_array_equal(model.encode("fine"), expected)

    run_threads(6, work)


def test_close_while_encoding(models: ModelMaker) -> None:
    """Calls in the queue get ValueError("closed"); none hangs."""
    engine = open_engine(models("small"), batch_tokens=256)
    texts = random_texts([200] * 64, vocab_size=100)
    started = threading.Barrier(5)
    outcomes: list[str] = []

    def work(index: int) -> None:
        started.wait()
        if index == 0:
            time.sleep(0.05)
            engine.close()
            return
        try:
            while True:
                embed(engine, texts, 8)
        except ValueError as error:
            outcomes.append(str(error))

    run_threads(5, work)
    assert outcomes == ["closed"] * 4


def test_close_while_measuring(models: ModelMaker) -> None:
    """close() waits for a measurement, which reads what it would free."""
    engine = open_engine(models("tiny64"))
    peaks: list[tuple[float, float]] = []
    thread = threading.Thread(target=lambda: peaks.append(engine.measure()))
    thread.start()
    time.sleep(0.1)  # of some seconds
    engine.close()
    thread.join(timeout=0.5)
    assert not thread.is_alive()
    assert len(peaks) == 1
    assert min(peaks[0]) > 0


def test_dropped_job_keeps_its_array(models: ModelMaker) -> None:
    """The worker may still write to a dropped job's array, so it must live on."""
    folder = models("small", num_hidden_layers=2)
    engine = open_engine(folder, batch_tokens=512)
    texts = random_texts([256] * 16, vocab_size=100)
    tokens = np.concatenate(texts)
    cu_seqlens = np.arange(0, 16 * 256 + 1, 256, dtype=np.int32)
    for _ in range(5):
        engine.submit(tokens, cu_seqlens, np.zeros((16, 64), np.float32), 0, True)
        gc.collect()
    expected = embed(open_engine(folder), texts[:1], 64)
    np.testing.assert_array_equal(embed(engine, texts[:1], 64), expected)


def test_the_end_of_a_dropped_array_may_call_the_engine(models: ModelMaker) -> None:
    """It frees, meanwhile, a dropped job that was not yet done when the engine looked at it."""
    run_python(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from tests.support.engines import open_engine
        engine = open_engine(Path(sys.argv[1]), batch_tokens=2048)
        random = np.random.default_rng(0)
        def submit(rows, n_tokens=1024):
            tokens = random.integers(0, 100, n_tokens, dtype=np.int32)
            return engine.submit(tokens, np.array([0, n_tokens], np.int32), rows, 0, True)
        later = []
        class Ending(np.ndarray):
            def __del__(self):
                company.wait()
                later.append(submit(engine.rows(1, 8)))
        first = submit(engine.rows(1, 8), 2048)  # a batch of its own
        running, company = submit(engine.rows(1, 8)), submit(engine.rows(1, 8))
        first.wait()
        waiting = submit(np.zeros((1, 8), np.float32).view(Ending))
        del waiting, running
        submit(engine.rows(1, 8)).wait()
        [job.wait() for job in later]
        """,
        models("small"),
        PYTHONMALLOC="debug",  # overwrites what is freed
    )


def test_done_fd(models: ModelMaker) -> None:
    """An event loop is woken by what is done, also by a cancelled job, and by nothing else."""
    engine = open_engine(models("small"))
    fd = engine.done_fd()
    assert engine.done_fd() == fd
    tokens, offsets = np.zeros(2048, np.int32), np.array([0, 2048], np.int32)
    assert not select.select([fd], [], [], 0)[0]
    first = engine.submit(tokens, offsets, engine.rows(1, 8), 0, True)
    second = engine.submit(tokens, offsets, engine.rows(1, 8), 0, True)
    second.cancel()
    n_done = 0
    while n_done < 2:
        assert select.select([fd], [], [], 60)[0]
        n_done += int.from_bytes(os.read(fd, 8), "little")
        assert n_done <= first.done() + second.done()
    assert not select.select([fd], [], [], 0)[0]
    first.wait()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.done_fd()


@cpu_only
def test_counts_after_fork(models: ModelMaker) -> None:
    """A child that has not called yet has nothing pending: the jobs are the parent's."""
    engine = open_engine(models("small"))
    tokens, offsets = np.zeros(4096, np.int32), np.array([0, 2048, 4096], np.int32)
    job = engine.submit(tokens, offsets, engine.rows(2, 8), 0, True)
    pid = os.fork()
    if pid == 0:
        os._exit(engine.pending_tokens() != 0 or engine.counts()["texts"] != 0)
    assert os.waitpid(pid, 0)[1] == 0
    job.wait()


@cpu_only
def test_done_fd_after_fork(models: ModelMaker) -> None:
    """The child has a descriptor of its own: what it computes does not wake the parent."""
    engine = open_engine(models("small"))
    fd = engine.done_fd()
    tokens, offsets = np.zeros(4, np.int32), np.array([0, 4], np.int32)
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            listened = engine.done_fd()
            engine.submit(tokens, offsets, engine.rows(1, 8), 0, True).wait()
            code = 0 if select.select([listened], [], [], 0)[0] else 3
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert not select.select([fd], [], [], 0)[0]


def test_cancelled_job(models: ModelMaker) -> None:
    engine = open_engine(models("small"))
    rows = engine.rows(16, 64)
    tokens = np.zeros(16 * 256, np.int32)
    job = engine.submit(tokens, np.arange(0, 4097, 256, dtype=np.int32), rows, 0, True)
    job.cancel()
    with pytest.raises(RuntimeError, match="cancelled"):
        job.wait()
    with pytest.raises(RuntimeError, match="cancelled"):
        job.wait()


def run_python(code: str, *arguments: object, timeout_s: float = 120, **variables: str) -> str:
    """Runs a program in a new interpreter, with environment variables; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(code)]
        + [str(a) for a in arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **variables,
        },
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interrupt(models: ModelMaker) -> None:
    """Ctrl-C leaves within 250 ms, and the next call is right."""
    output = run_python(
        """
        import os, signal, sys, threading, time
        import numpy as np
        from qwen3_embed import Embedder
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
        model = Embedder(sys.argv[1], batch_tokens=2048)
        expected = model.encode("again")
        sent = []
        def interrupt():
            time.sleep(0.5)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            model.encode(["a long text " * 150] * 4000)
        except KeyboardInterrupt:
            print(time.perf_counter() - sent[0])
        assert (model.encode("again") == expected).all()
        """,
        models("small"),
    )
    assert float(output) < 0.25


@cpu_only
def test_signals_are_not_for_the_engines_threads(models: ModelMaker) -> None:
    """So a program that blocks a signal, to wait for it, is not ended by it after all."""
    engine = open_engine(models("tiny64"), num_threads=3)
    embed(engine, random_texts([5]), 8)
    names = []
    for status in Path("/proc/self/task").glob("*/status"):
        fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        if fields["Name"].startswith("qe "):
            names.append(fields["Name"])
            assert int(fields["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1, fields["Name"]
    assert {"qe cpu", "qe forward"} <= set(names)


def test_exit_with_calls_in_flight(models: ModelMaker) -> None:
    """A daemon thread in encode() does not keep the process, nor crash it."""
    start = time.perf_counter()
    run_python(
        """
        import sys, threading, time
        from qwen3_embed import Embedder
        model = Embedder(sys.argv[1])
        work = lambda: model.encode(["a long text " * 150] * 4000)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.5)
        """,
        models("small"),
    )
    assert time.perf_counter() - start < 20.0


def encode_in_child(model: Embedder, texts: list[str], queue: multiprocessing.Queue) -> None:
    queue.put(model.encode(texts, dim=16))


@pytest.mark.parametrize("method", [pytest.param("fork", marks=cpu_only), "spawn"])
def test_multiprocessing(models: ModelMaker, method: str) -> None:
    """After use in the parent, a child encodes too: by fork, and by pickling."""
    model = Embedder(models("tiny64"))
    texts = ["one", "two", "three"]
    expected = model.encode(texts, dim=16)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=encode_in_child, args=(model, texts, queue))
    child.start()
    rows = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(model.encode(texts, dim=16), expected)


@cpu_only  # tests/cuda has how a GPU's engine refuses
def test_fork_with_calls_in_flight(models: ModelMaker) -> None:
    """Other threads compute while the process forks; parent and child both go on."""
    run_python(
        """
        import os, sys, threading
        import numpy as np
        from qwen3_embed import Embedder
        model = Embedder(sys.argv[1])
        expected = model.encode("x")
        stop = threading.Event()
        def work():
            while not stop.is_set():
                model.encode(["other text"] * 20)
        threads = [threading.Thread(target=work) for _ in range(2)]
        [t.start() for t in threads]
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if (model.encode("x") == expected).all() else 3)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        [t.join() for t in threads]
        assert (model.encode("x") == expected).all()
        """,
        models("tiny64"),
    )


def test_fork_then_close(models: ModelMaker) -> None:
    """A child that only closes, or only ends, what it inherited."""
    model = Embedder(models("tiny64"))
    model.encode("used")
    for close in (True, False):
        pid = os.fork()
        if pid == 0:
            if close:
                model.close()
            del model
            gc.collect()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    model.encode("still here")


def test_asyncio(models: ModelMaker) -> None:
    model = Embedder(models("tiny64"))
    texts = [f"text {i}" for i in range(10)]

    async def encode_all() -> list[np.ndarray]:
        return await asyncio.gather(*(asyncio.to_thread(model.encode, text) for text in texts))

    np.testing.assert_array_equal(asyncio.run(encode_all()), model.encode(texts))
