"""Arguments of `encode` and its variants: types, lengths, and refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, InputTooLongError, TruncationWarning
from qwen3_embed.encoding.pipeline import chunk_bounds
from tests.conftest import HIDDEN, TEXTS, ModelMaker


@pytest.fixture(scope="module")
def short(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder, max_length=16) as opened:
        yield opened


class ArrowLike:
    """A pyarrow string array: iterating gives scalars, not str; None for missing values."""

    def __init__(self, texts: list[Any]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Any]:
        return iter([types.SimpleNamespace(as_py=lambda t=t: t) for t in self.texts])

    def to_pylist(self) -> list[Any]:
        return list(self.texts)


class DataFrameLike(list[str]):
    """A pandas DataFrame: iterating gives the names of its columns."""

    ndim = 2


class TestInputs:
    @pytest.mark.parametrize(
        "make",
        [
            list,
            tuple,
            iter,
            lambda t: (x for x in t),
            lambda t: dict.fromkeys(t).keys(),
            lambda t: np.array(t, object),
            lambda t: np.array(t),
            ArrowLike,
            lambda t: map(str, t),
            lambda t: np.array(t, object)[::1],
        ],
    )
    def test_any_iterable_of_str(self, model: Embedder, rows: Any, make: Any) -> None:
        assert np.array_equal(model.encode(make(TEXTS)), rows)
        assert np.array_equal(np.concatenate(list(model.encode_iter(make(TEXTS)))), rows)
        assert len(model.count_tokens(make(TEXTS))) == len(TEXTS)

    def test_pandas_and_pyarrow(self, model: Embedder, rows: Any) -> None:
        pandas = pytest.importorskip("pandas")
        pyarrow = pytest.importorskip("pyarrow")
        for texts in (pandas.Series(TEXTS), pyarrow.array(TEXTS), pyarrow.chunked_array([TEXTS])):
            assert np.array_equal(model.encode(texts), rows)
        with pytest.raises(TypeError, match=r"texts\[1\] is (float|NoneType|NAType), expected str"):
            model.encode(pandas.Series(["a", None]))

    def test_subclass_of_str(self, model: Embedder, rows: Any) -> None:
        class Name(str):
            __slots__ = ()

        assert np.array_equal(model.encode(Name(TEXTS[0])), rows[0])
        assert np.array_equal(model.encode([Name(TEXTS[0])])[0], rows[0])
        assert np.array_equal(model.encode(np.str_(TEXTS[0])), rows[0])

    @pytest.mark.parametrize(
        ("value", "name"),
        [(None, "NoneType"), (b"x", "bytes"), (1, "int"), (2.5, "float"), (["a"], "list")],
    )
    def test_wrong_item(self, model: Embedder, value: Any, name: str) -> None:
        for call in (model.encode, model.count_tokens, lambda t: list(model.encode_iter(t))):
            with pytest.raises(TypeError, match=rf"^texts\[2\] is {name}, expected str$"):
                call(["a", "b", value])

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, "texts is NoneType"),
            (b"abc", "texts is bytes"),
            (7, "texts is int"),
            ({"a": 1}, "texts is dict"),
            (bytearray(b"a"), "texts is bytearray"),
            (np.array("a"), r"shape \(\)"),
            (np.array([["a"]]), r"shape \(1, 1\)"),
            (DataFrameLike(["text", "label"]), "DataFrameLike with rows and columns: pass"),
        ],
    )
    def test_wrong_whole(self, model: Embedder, value: Any, words: str) -> None:
        for call in (model.encode, model.count_tokens, model.encode_iter):
            with pytest.raises(TypeError, match=words):
                call(value)
        with pytest.raises(TypeError, match="texts is str"):
            model.encode_iter("abc")

    def test_error_of_the_iterable_passes_through(self, model: Embedder) -> None:
        def failing() -> Iterator[str]:
            yield "a"
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            model.encode(failing())
        with pytest.raises(OSError, match="disk"):
            list(model.encode_iter(failing(), chunk=1))

    def test_lone_surrogates(self, model: Embedder) -> None:
        bad = ["fine", "x" * 30 + "\udc80"]
        message = r"^texts\[1\] contains the lone surrogate U\+DC80 at character 30"
        for call in (model.encode, model.encode_query, model.count_tokens):
            with pytest.raises(ValueError, match=message):
                call(bad)
        with pytest.raises(ValueError, match=r"^texts\[5\] contains"):
            list(model.encode_iter(["a"] * 4 + bad, chunk=3))
        with pytest.raises(ValueError, match=r"^the prompt contains the lone surrogate"):
            model.encode(["a"], prompt="\ud800")
        assert model.encode("still works").shape == (HIDDEN,)

    def test_nul_and_newlines_are_text(self, model: Embedder) -> None:
        vectors = model.encode(["a\0b", "a", "a\nb", "a\r\nb"])
        assert len(np.unique(vectors, axis=0)) == 4


class TestLength:
    def test_one_warning_a_call_at_the_callers_line(self, short: Embedder) -> None:
        texts = ["x" * 40, "x", "x" * 99, "x" * 16, "x" * 15] * 100
        for call in (
            short.encode,
            short.encode_document,
            lambda t: short.encode_query(t, prompt=""),
            lambda t: list(short.encode_iter(t, chunk=70)),
        ):
            with pytest.warns(TruncationWarning) as caught:
                call(texts)
            assert len(caught) == 1
            assert str(caught[0].message) == (
                "300 texts were cut at max_length=16 tokens; the longest, texts[2], has 100"
            )
            assert caught[0].filename == __file__

    def test_the_cut_keeps_the_head_and_the_end_token(self, short: Embedder) -> None:
        with pytest.warns(TruncationWarning, match="1 text was cut"):
            cut = short.encode("abcdefghijklmnopqrstuvwxyz")
        ids = short.tokenizer.encode(["abcdefghijklmnopqrstuvwxyz"]).tokens
        assert len(ids) == 16
        assert ids[-1] == 319
        expected = short.encode_tokens(ids, np.array([0, 16], np.int32))[0]
        assert np.array_equal(cut, expected)

    def test_error(self, short: Embedder) -> None:
        out = np.zeros((3, HIDDEN), np.float32)
        with pytest.raises(InputTooLongError, match=r"texts\[1\] has 41 tokens, expected at most"):
            short.encode(["x", "x" * 40, "x"], on_long="error", out=out)
        with pytest.raises(InputTooLongError, match=r"texts\[7\]"):
            list(short.encode_iter(["x"] * 7 + ["x" * 40], chunk=3, on_long="error"))
        assert isinstance(InputTooLongError(), ValueError)
        assert len(short.encode(["x"], on_long="error")) == 1
        with pytest.raises(ValueError, match="on_long='cut'"):
            short.encode("x", on_long="cut")  # type: ignore[arg-type]

    def test_count_is_before_the_cut(self, short: Embedder) -> None:
        counts = short.count_tokens(["x" * 99, "", "x"])
        assert counts.dtype == np.int64
        assert counts.tolist() == [100, 1, 2]
        assert short.count_tokens("x" * 99) == 100
        with pytest.raises(TypeError, match="unexpected keyword argument 'dim'"):
            short.count_tokens("x", dim=3)


class TestTokens:
    def test_same_as_texts(self, model: Embedder, rows: Any) -> None:
        batch = model.tokenizer.encode(TEXTS)
        found = model.encode_tokens(batch.tokens, batch.cu_seqlens)
        assert np.array_equal(found, rows)
        cut = model.encode_tokens(batch.tokens, batch.cu_seqlens, 64)
        assert np.array_equal(cut, model.encode(TEXTS, dim=64))
        raw = model.encode_tokens(batch.tokens, batch.cu_seqlens, normalize=False)
        assert np.array_equal(raw, model.encode(TEXTS, normalize=False))

    def test_nothing_is_appended(self, model: Embedder) -> None:
        one = model.encode_tokens(np.array([5], np.int32), np.array([0, 1], np.int32))
        two = model.encode_tokens(np.array([5, 319], np.int32), np.array([0, 2], np.int32))
        assert not np.array_equal(one, two)

    def test_strided_input_and_none(self, model: Embedder) -> None:
        ids = np.arange(20, dtype=np.int32)
        offsets = np.array([0, 10], np.int32)
        assert np.array_equal(
            model.encode_tokens(ids[::2], offsets), model.encode_tokens(ids[::2].copy(), offsets)
        )
        assert model.encode_tokens(ids[:0], offsets[:1]).shape == (0, HIDDEN)

    @pytest.mark.parametrize(
        ("tokens", "offsets", "error"),
        [
            (np.array([1, 2]), np.array([0, 2], "i4"), TypeError),
            (np.array([1, 2], "i4"), np.array([0, 2]), TypeError),
            (np.array([[1, 2]], "i4"), np.array([0, 2], "i4"), TypeError),
            (np.array([1, 2], "i4"), np.array([], "i4"), ValueError),
            (np.array([1, 2], "i4"), np.array([0, 3], "i4"), ValueError),
            (np.array([1, 2], "i4"), np.array([0, 1], "i4"), ValueError),
            (np.array([1, 2], "i4"), np.array([1, 2], "i4"), ValueError),
            (np.array([1, 2], "i4"), np.array([0, 0, 2], "i4"), ValueError),
            (np.array([1, 2], "i4"), np.array([0, 2, 1, 2], "i4"), ValueError),
            (np.array([1, 320], "i4"), np.array([0, 2], "i4"), ValueError),
            (np.array([-1, 2], "i4"), np.array([0, 2], "i4"), ValueError),
            (np.zeros(4097, "i4"), np.array([0, 4097], "i4"), ValueError),
        ],
    )
    def test_refused(self, model: Embedder, tokens: Any, offsets: Any, error: Any) -> None:
        with pytest.raises(error):
            model.encode_tokens(tokens, offsets)


MEMORY = """
import sys
import numpy as np
from qwen3_embed import Embedder

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

texts = (f"document number {i % 90}" for i in range(48_000))  # few words: they are cached
sizes = [resident_mb() for _ in Embedder(sys.argv[1]).encode_iter(texts, chunk=1000)]
print(max(sizes) - sizes[5])
"""


def test_streams_need_bounded_memory(models: ModelMaker) -> None:
    """42,000 rows of 512 bytes more, and the process has not grown by half of that."""
    folder = models("tiny64", num_hidden_layers=1)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10.7


class TestStreams:
    def test_equals_encode(self, model: Embedder) -> None:
        texts = [f"text {i}" for i in range(1003)]
        chunks = list(model.encode_iter(iter(texts), chunk=100, dim=64))
        assert [len(rows) for rows in chunks] == [100] * 10 + [3]
        assert np.array_equal(np.concatenate(chunks), model.encode(texts, dim=64))

    def test_reads_one_chunk_ahead_and_no_more(self, model: Embedder) -> None:
        taken = 0

        def endless() -> Iterator[str]:
            nonlocal taken
            while True:
                taken += 1
                yield f"text {taken}"

        stream = model.encode_iter(endless(), chunk=50)
        assert taken == 0
        for n_chunks in range(1, 6):
            assert next(stream).shape == (50, HIDDEN)
            assert taken == 50 * (n_chunks + 1)
        stream.close()  # type: ignore[attr-defined]

    def test_arguments_are_checked_at_once(self, model: Embedder) -> None:
        with pytest.raises(ValueError, match="chunk=0"):
            model.encode_iter([], chunk=0)
        with pytest.raises(ValueError, match="dim=500"):
            model.encode_iter([], dim=500)
        with pytest.raises(ValueError, match="on_long='cut'"):
            model.encode_iter([], on_long="cut")  # type: ignore[typeddict-item]
        with pytest.raises(TypeError, match="no out="):
            model.encode_iter([], out=np.empty((1, HIDDEN), np.float32))

    def test_error_counts_from_the_start_of_the_stream(self, model: Embedder) -> None:
        with pytest.raises(TypeError, match=r"texts\[12\] is int"):
            list(model.encode_iter(["a"] * 12 + [1], chunk=5))  # type: ignore[list-item]

    def test_precision_of_chunks(self, model: Embedder) -> None:
        for rows in model.encode_iter(["a", "b", "c"], chunk=2, precision="float16"):
            assert rows.dtype == np.float16


def test_chunk_bounds() -> None:
    """Chunks follow one another, hold a bounded amount of text, and the first is short."""
    texts = ["x" * (i % 700) for i in range(5000)] + ["", "y" * 3_000_000, "z"] + [""] * 9
    for batch_tokens, prefix in ((512, ""), (512, "p" * 100), (1 << 20, "")):
        bounds = list(chunk_bounds(texts, batch_tokens, prefix))
        assert bounds[0][0] == 0
        assert bounds[-1][1] == len(texts)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        limit = min(1 << 20, 18 * batch_tokens)  # four passes, and half a one that is left
        sizes = [sum(len(t) + len(prefix) for t in texts[a:b]) for a, b in bounds]
        for (start, stop), size in zip(bounds, sizes, strict=True):
            assert size <= limit or stop == start + 1
        assert sizes[0] <= min(1 << 20, 16 * batch_tokens) / 4
    assert list(chunk_bounds([], 512)) == []
    # 512 tokens are about 2048 bytes, here 20 texts; half as many go with those before them.
    assert list(chunk_bounds(["x" * 98] * 30, 512)) == [(0, 30)]
    assert list(chunk_bounds(["x" * 98] * 31, 512)) == [(0, 20), (20, 31)]
    # Beyond ASCII a character counts as three bytes: fewer of them make a chunk.
    assert len(list(chunk_bounds(["重" * 100] * 1000, 512))) >= 36


def test_huge_single_text(model: Embedder) -> None:
    """1 MB in one text: cut, and read no further than the cut asks for."""
    with pytest.warns(TruncationWarning, match="has more than 32768"):
        assert model.encode("#" * 1_000_000).shape == (HIDDEN,)
