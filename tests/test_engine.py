"""The border of the C engine: what it refuses, and who owns the memory."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen3_embed import _core, errors
from tests.conftest import ModelMaker
from tests.support.engines import embed, engine_config, open_engine, random_texts

TOKENS = np.arange(10, dtype=np.int32)


@pytest.fixture
def engine(models: ModelMaker) -> _core.Engine:
    return open_engine(models("tiny64"))


def offsets(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("tokens", "cu_seqlens", "message"),
    [
        (TOKENS, offsets(0, 9), "from 0 to 9, expected from 0 to the number of tokens, 10"),
        (TOKENS, offsets(1, 10), "from 1 to 10"),
        (TOKENS, offsets(0, 5, 5, 10), r"texts\[3\]: 0 tokens, expected 1 to"),
        (TOKENS, offsets(0, 8, 3, 10), r"texts\[3\]: -5 tokens"),
        (TOKENS, offsets(0, 2**31 - 1, 10), r"texts\[2\]: 2147483647 tokens"),
        (offsets(1, 2, -1), offsets(0, 1, 3), r"texts\[3\]: token id -1, expected 0 to 319"),
        (offsets(1, 320, 2), offsets(0, 1, 3), r"texts\[3\]: token id 320, expected 0 to 319"),
        (np.zeros(5000, np.int32), offsets(0, 5000), r"5000 tokens, expected 1 to 4096"),
    ],
)
def test_bad_sequences(
    engine: _core.Engine, tokens: np.ndarray, cu_seqlens: np.ndarray, message: str
) -> None:
    rows = engine.rows(10, 8)
    with pytest.raises(ValueError, match=message):
        engine.submit(tokens, cu_seqlens, rows, 2, True)


@pytest.mark.parametrize(
    ("tokens", "cu_seqlens"),
    [
        (TOKENS.astype(np.int64), offsets(0, 10)),
        (TOKENS.astype(np.float32), offsets(0, 10)),
        (TOKENS.reshape(2, 5), offsets(0, 10)),
        (TOKENS, np.array([0, 10], np.uint32)),
        (b"0123456789", offsets(0, 10)),
    ],
)
def test_wrong_buffers(engine: _core.Engine, tokens: object, cu_seqlens: object) -> None:
    with pytest.raises(TypeError, match="expected a one-dimensional int32 buffer"):
        engine.submit(tokens, cu_seqlens, engine.rows(1, 8), 0, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 8)),
        np.zeros(8, np.float32),
        np.zeros((1, 16), np.float32)[:, ::2],
        [[0.0] * 8],
        np.zeros((1, 8), ">f4"),
    ],
)
def test_wrong_out(engine: _core.Engine, out: np.ndarray) -> None:
    with pytest.raises(TypeError, match="out: expected a writeable C-contiguous float32"):
        engine.submit(TOKENS, offsets(0, 10), out, 0, True)


def test_read_only_out(engine: _core.Engine) -> None:
    out = np.zeros((1, 8), np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError, match="writeable"):
        engine.submit(TOKENS, offsets(0, 10), out, 0, True)


@pytest.mark.parametrize("first_row", [-1, 1, 2**62])
def test_rows_outside_out(engine: _core.Engine, first_row: int) -> None:
    with pytest.raises(ValueError, match="rows from row"):
        engine.submit(TOKENS, offsets(0, 10), engine.rows(1, 8), first_row, True)


@pytest.mark.parametrize(("n", "dim"), [(-1, 8), (1, 0), (2**62, 8), (2, 2**61)])
def test_impossible_rows(engine: _core.Engine, n: int, dim: int) -> None:
    with pytest.raises(ValueError, match="rows: shape"):
        engine.rows(n, dim)


def test_dim_past_hidden_size(engine: _core.Engine) -> None:
    with pytest.raises(ValueError, match="dim: 129, expected 1 to 128"):
        engine.submit(TOKENS, offsets(0, 10), engine.rows(1, 129), 0, True)


def test_nothing_to_do(engine: _core.Engine) -> None:
    job = engine.submit(offsets(), offsets(0), engine.rows(0, 8), 0, True)
    assert job.done()
    job.wait()


@pytest.mark.parametrize("missing", ["hidden_size", "rope_scale", "rope_inv_freq"])
def test_incomplete_config(models: ModelMaker, missing: str) -> None:
    folder = models("tiny64")
    config = engine_config(folder)
    del config[missing]
    with pytest.raises(TypeError, match=f"'{missing}' is missing"):
        _core.Engine([str(folder / "model.safetensors")], config)


def test_unknown_instruction_set(models: ModelMaker) -> None:
    with pytest.raises(ValueError, match=r"QWEN3_EMBED_ISA|sse9.*portable"):
        open_engine(models("tiny64"), "sse9")


def test_unknown_device(models: ModelMaker) -> None:
    with pytest.raises(errors.DeviceError, match="abacus, expected cpu"):
        open_engine(models("tiny64"), device="abacus")


def test_rows_are_the_engines_memory_and_outlive_it(models: ModelMaker) -> None:
    engine = open_engine(models("tiny64"))
    texts = random_texts([5, 70])
    rows = embed(engine, texts, 32)
    before = rows.copy()
    assert type(rows.base).__name__ == "PyCapsule"
    assert rows.ctypes.data % 64 == 0
    assert rows.flags.c_contiguous
    assert rows.flags.writeable
    assert not rows.flags.owndata
    engine.close()
    del engine
    gc.collect()
    np.testing.assert_array_equal(rows, before)
    rows += 1.0


def test_only_the_dims_asked_for_are_written(engine: _core.Engine) -> None:
    out = np.full((3, 16), 7.0, np.float32)
    engine.submit(TOKENS, offsets(0, 10), out, 1, True).wait()
    assert (out[[0, 2]] == 7.0).all()
    assert abs(np.linalg.norm(out[1]) - 1.0) < 1e-6


def test_dims_are_cut_before_the_norm(engine: _core.Engine) -> None:
    full = embed(engine, [TOKENS], 128, normalize=False)
    cut = embed(engine, [TOKENS], 40, normalize=False)
    np.testing.assert_array_equal(full[:, :40], cut)
    unit = embed(engine, [TOKENS], 40)
    np.testing.assert_allclose(unit, cut / np.linalg.norm(cut), rtol=1e-6)


def test_one_non_finite_text_fails_alone(models: ModelMaker, tmp_path: Path) -> None:
    """A NaN row of the embedding: its text's error names it, its neighbours' bits stay."""
    folder = models("tiny64")
    broken = tmp_path / "model.safetensors"
    raw = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    begin = start + header["embed_tokens.weight"]["data_offsets"][0]
    raw[begin + 2 * 128 * 7 : begin + 2 * 128 * 8] = b"\xc0\x7f" * 128  # token 7
    broken.write_bytes(raw)
    shutil.copy(folder / "config.json", tmp_path)
    good, bad = open_engine(folder), open_engine(tmp_path)
    healthy = [text % 7 for text in random_texts([40, 3])]
    expected = embed(good, healthy, 64)

    rows = bad.rows(3, 64)
    texts = [healthy[0], np.array([3, 7, 2], np.int32), healthy[1]]
    cu_seqlens = offsets(0, 40, 43, 46)
    job = bad.submit(np.concatenate(texts), cu_seqlens, rows, 0, True)
    with pytest.raises(errors.NonFiniteError, match=r"texts\[1\]") as caught:
        job.wait()
    assert caught.value.index == 1
    assert np.isnan(rows[1]).all()
    np.testing.assert_array_equal(rows[[0, 2]], expected)
    np.testing.assert_array_equal(embed(bad, healthy, 64), expected)


def test_failures_leak_no_references(engine: _core.Engine) -> None:
    rows = engine.rows(1, 8)
    cu_seqlens = offsets(0, 5)
    gc.collect()
    counts = [sys.getrefcount(x) for x in (rows, cu_seqlens, TOKENS, _core.Engine, _core.Job)]
    for _ in range(1000):
        with pytest.raises(ValueError, match="expected from 0"):
            engine.submit(TOKENS, cu_seqlens, rows, 0, True)
    engine.submit(TOKENS, offsets(0, 10), rows, 0, True).wait()
    assert counts == [
        sys.getrefcount(x) for x in (rows, cu_seqlens, TOKENS, _core.Engine, _core.Job)
    ]


def test_engine_init_twice(engine: _core.Engine, models: ModelMaker) -> None:
    folder = models("tiny64")
    with pytest.raises(TypeError, match="called before"):
        engine.__init__([str(folder / "model.safetensors")], engine_config(folder))  # type: ignore[misc]


def test_closed_engine(models: ModelMaker) -> None:
    engine = open_engine(models("tiny64"))
    rows = engine.rows(1, 8)
    engine.close()
    engine.close()
    for call in (
        lambda: engine.submit(TOKENS, offsets(0, 10), rows, 0, True),
        lambda: engine.rows(1, 8),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert engine.info["closed"]


def test_import_is_light() -> None:
    """No tokenizer, no hub client, no progress bars until they are needed."""
    code = (
        "import sys, qwen3_embed; "
        "print([m for m in ('tokenizers', 'huggingface_hub', 'tqdm', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
