"""One corpus job: rows in, distinct texts through the model, a result that appears whole.

The vectors don't depend on how rows are cut into chunks, nor on when the ledger was committed, so a
job that was killed and resumed writes the same bytes as one that was not.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..encoding.options import Request
from ..encoding.truncation import Truncation
from ..errors import NonFiniteError
from .distinct import DIGEST_BYTES, Distinct
from .ledger import BAD, Ledger
from .output import Block, ColumnTypes, write_jsonl, write_npy, write_parquet
from .rows import Row, Source, import_parquet, read_rows

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["Corpus", "Summary", "remove_folder", "run_job"]

_CHUNK_ROWS = 2048
_CHUNK_CHARACTERS = 1 << 17  # what a killed process may lose, three times over
_CHUNKS_AHEAD = 3
_COMMIT_S = 1.0
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files to encode.

    Attributes
    ----------
    sources : sequence of Source
    column : str or None
        Where the text is; None: `read_rows` chooses.
    keep : list of str
        Columns to carry over.
    """

    sources: Sequence[Source]
    column: str | None
    keep: list[str]

    def rows(self) -> Iterator[Row]:
        """Every row of every file."""
        for source in self.sources:
            yield from read_rows(source, self.column, self.keep)


class Summary(NamedTuple):
    """The outcome of a job."""

    n_rows: int
    n_bad: int
    n_distinct: int
    truncation: Truncation  # `longest_index` is a row's number


class _Chunk(NamedTuple):
    rows: list[Row]
    numbers: npt.NDArray[np.int64]  # (n,): of each row's vector, or BAD
    new: list[int]  # indices of rows whose text comes for the first time
    digest: str  # of everything up to here


def run_job(
    model: Embedder,
    corpus: Corpus,
    folder: Path,
    publish: Callable[[Callable[[IO[bytes]], None], Path], None],
    *,
    format: str,
    dim: int | None,
    prefix: str,
    on_done: Callable[[int], None],
) -> Summary:
    """Reads, computes, and writes the result.

    Parameters
    ----------
    model : Embedder
    corpus : Corpus
    folder : Path
        Of the ledger; one that is there already is gone on with. Removed at the end.
    publish : callable
        Given a function that writes the result to a file, and the file of bad rows, one JSON
        object per line, makes both appear.
    format : {"npy", "jsonl", "parquet"}
        Of the result.
    dim : int or None
        Floats per vector.
    prefix : str
        Put before every text.
    on_done : callable
        Told how many more rows are done.

    Returns
    -------
    Summary
    """
    if format == "parquet":
        import_parquet()  # now, not when all is computed
    dim = Request.of({"dim": dim}, model.dim, stacklevel=1).dim
    settings = {
        "model": model.fingerprint,
        "dim": dim,
        "prefix": prefix,
        "column": corpus.column,
        "keep": corpus.keep,
    }
    ledger = Ledger(folder, settings, dim)
    state = ledger.state
    types = ColumnTypes(corpus.keep)

    def write(file: IO[bytes]) -> None:
        blocks = _blocks(ledger, bool(corpus.keep))
        if format == "npy":
            write_npy(file, blocks, state.n_rows, dim)
        elif format == "jsonl":
            write_jsonl(file, blocks, corpus.keep)
        else:
            metadata = {name: str(settings[name]) for name in ("model", "dim", "prefix")}
            write_parquet(file, blocks, dim, types, metadata)

    try:
        _compute(model, corpus, ledger, dim, prefix, types, on_done)
        publish(write, folder / "bad")
    except BaseException:
        if state.n_rows == 0:  # nothing is lost
            remove_folder(folder)
        raise
    finally:
        ledger.close()
    remove_folder(folder)
    return Summary(state.n_rows, state.n_bad, state.n_vectors, state.truncation)


def remove_folder(folder: Path) -> None:
    """Takes the folder away at once, then deletes it: no half of it is ever resumed."""
    done = folder.with_name(folder.name + ".done")
    shutil.rmtree(done, ignore_errors=True)
    if folder.exists():
        os.replace(folder, done)
        shutil.rmtree(done)


def _compute(
    model: Embedder,
    corpus: Corpus,
    ledger: Ledger,
    dim: int,
    prefix: str,
    types: ColumnTypes,
    on_done: Callable[[int], None],
) -> None:
    """Appends to the ledger whatever isn't there yet."""
    n_finished = ledger.state.n_rows
    n_seen = 0
    pending: deque[tuple[_Chunk, Future[_Result]]] = deque()
    committed_at = time.monotonic()
    workers = ThreadPoolExecutor(2, thread_name_prefix="qwen3_embed corpus")

    def take() -> None:
        nonlocal committed_at
        chunk, result = pending.popleft()
        _append(ledger, chunk, result.result(), model.max_length)
        on_done(len(chunk.rows))
        if time.monotonic() - committed_at > _COMMIT_S:
            ledger.commit()
            committed_at = time.monotonic()

    try:
        for chunk in _chunks(corpus):
            for row in chunk.rows:
                if row.text is not None:
                    types.add(row.kept)
            n_seen += len(chunk.rows)
            if n_seen <= n_finished:
                _check_same(ledger, chunk, n_seen)
                on_done(len(chunk.rows))
                continue
            texts = [chunk.rows[i].text or "" for i in chunk.new]
            pending.append((chunk, workers.submit(_encode, model, texts, prefix, dim)))
            if len(pending) == _CHUNKS_AHEAD:
                take()
        if n_seen < n_finished:
            raise _changed(ledger)
        while pending:
            take()
        ledger.commit()
    except BaseException:
        model.close()  # so that the workers leave what they are waiting for
        raise
    finally:
        workers.shutdown(cancel_futures=True)


def _check_same(ledger: Ledger, chunk: _Chunk, n_seen: int) -> None:
    if n_seen == ledger.state.n_rows and chunk.digest != ledger.state.digest:
        raise _changed(ledger)


def _changed(ledger: Ledger) -> ValueError:
    return ValueError(
        f"the input is not the one that {ledger.folder} was begun with: restore it, or "
        f"delete the folder and start anew"
    )


def _chunks(corpus: Corpus) -> Iterator[_Chunk]:
    """Cuts rows into runs of at most about `_CHUNK_CHARACTERS`, and numbers their texts."""
    distinct = Distinct()
    everything = blake2b(digest_size=32)
    rows = corpus.rows()
    while chunk := _take(rows):
        digests, good = [], []
        for index, row in enumerate(chunk):
            content = row.raw if row.text is None else row.text
            digest = blake2b(content.encode(), digest_size=DIGEST_BYTES).digest()
            everything.update(digest)
            if row.text is None:
                everything.update(b"bad")
                continue
            if row.kept:
                everything.update(json.dumps(row.kept, ensure_ascii=True).encode())
            digests.append(digest)
            good.append(index)
        numbers = np.full(len(chunk), BAD, np.int64)
        found, new = distinct.add(digests)
        numbers[good] = found
        yield _Chunk(chunk, numbers, [good[i] for i in new], everything.hexdigest())


def _take(rows: Iterator[Row]) -> list[Row]:
    chunk, n_characters = [], 0
    for row in islice(rows, _CHUNK_ROWS):
        chunk.append(row)
        n_characters += len(row.text or row.raw)
        if n_characters >= _CHUNK_CHARACTERS:
            break
    return chunk


class _Result(NamedTuple):
    vectors: npt.NDArray[np.float32]  # (k, dim); NaN where one isn't finite
    lengths: npt.NDArray[np.int64]  # (k,): tokens before the cut


def _encode(model: Embedder, texts: list[str], prefix: str, dim: int) -> _Result:
    """Vectors of distinct texts, through the model's cache if it has one."""

    def compute(places: list[int]) -> _Result:
        if not places:
            return _Result(np.empty((0, dim), np.float32), np.empty(0, np.int64))
        batch = model.tokenizer.encode([prefix + texts[i] for i in places])
        try:
            vectors = model.encode_tokens(batch.tokens, batch.cu_seqlens, dim)
        except NonFiniteError as error:
            bad = error.index
            before, after = compute(places[:bad]), compute(places[bad + 1 :])
            none = np.full((1, dim), np.nan, np.float32)
            vectors = np.concatenate([before.vectors, none, after.vectors])
        return _Result(vectors, batch.lengths)

    if model.cache is None or not texts:
        return compute(list(range(len(texts))))
    rows = np.empty((len(texts), dim), np.float32)
    return _Result(rows, model.look_up(texts, rows, prefix=prefix).fill(compute))


def _append(ledger: Ledger, chunk: _Chunk, result: _Result, max_length: int) -> None:
    state = ledger.state
    first_row = state.n_rows
    lengths = np.zeros(len(chunk.rows), np.int64)
    lengths[chunk.new] = result.lengths
    state.truncation.add(lengths, max_length, first_row)
    unfit = np.flatnonzero(np.isnan(result.vectors).any(axis=1)) + state.n_vectors
    state.not_finite.extend(unfit.tolist())
    numbers = chunk.numbers
    if state.not_finite:
        numbers = np.where(np.isin(numbers, state.not_finite), BAD, numbers)
    kept, bad = [], []
    for index, (row, number) in enumerate(zip(chunk.rows, numbers, strict=True)):
        if number != BAD:
            if row.kept:
                kept.append(_line(row.kept))
            continue
        reason = row.reason or "its vector is not finite"
        content = row.raw if row.text is None else row.text
        bad.append(_line({"row": first_row + index, "reason": reason, "content": content}))
    state.n_bad += len(bad)
    state.digest = chunk.digest
    ledger.append(numbers, result.vectors, b"".join(kept), b"".join(bad))


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _blocks(ledger: Ledger, has_kept: bool) -> Iterator[Block]:
    with (
        open(ledger.folder / "numbers", "rb") as numbers,
        open(ledger.folder / "kept", encoding="utf-8", newline="\n") as kept,
    ):
        first_row = 0
        while content := numbers.read(8 * _BLOCK_ROWS):
            block = np.frombuffer(content, "<i8")
            bad = block == BAD
            values = [
                tuple(json.loads(kept.readline())) if has_kept and not is_bad else ()
                for is_bad in bad
            ]
            rows = np.arange(first_row, first_row + len(block))
            yield Block(rows, ledger.vectors(block), bad, values)
            first_row += len(block)
