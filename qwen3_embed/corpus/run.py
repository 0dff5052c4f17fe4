"""One corpus run: reads records, encodes their distinct texts, writes the result in one step.

The vectors depend neither on how records are cut into chunks nor on when the ledger was committed,
so a run that was killed and resumed writes the same bytes as one that was not.
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
from .records import ENCODING_ADVICE, Record, Source, import_parquet, read_records

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["BadRecordsError", "Corpus", "Summary", "remove_folder", "run_corpus"]

_CHUNK_RECORDS = 2048
_CHUNK_CHARACTERS = 1 << 17  # what a killed process may lose, three times over
_CHUNKS_AHEAD = 3
_COMMIT_S = 1.0
_BLOCK_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files to encode.

    Attributes
    ----------
    sources : sequence of Source
    column : str or None
        The column of the text; None: `read_records` chooses.
    keep : list of str
        Columns to copy to the output.
    """

    sources: Sequence[Source]
    column: str | None
    keep: list[str]

    def records(self) -> Iterator[Record]:
        """Reads every record of every file."""
        for source in self.sources:
            yield from read_records(source, self.column, self.keep)


class Summary(NamedTuple):
    """The counts of a finished run."""

    n_records: int
    n_bad: int
    n_empty: int
    n_distinct: int
    truncation: Truncation  # `longest_index` is a record's index


class BadRecordsError(ValueError):
    """Too many records are bad for a result."""


class _Chunk(NamedTuple):
    records: list[Record]
    numbers: npt.NDArray[np.int64]  # (n,): of each record's vector, or BAD
    new: list[int]  # indices of records whose text comes for the first time
    digest: str  # of everything up to here


def run_corpus(
    model: Embedder,
    corpus: Corpus,
    folder: Path,
    publish: Callable[[Callable[[IO[bytes]], None], Path], None],
    *,
    format: str,
    dim: int | None,
    prefix: str,
    on_done: Callable[[int], None],
    max_bad: int | None = None,
) -> Summary:
    """Encodes a corpus and writes the result.

    Parameters
    ----------
    model : Embedder
    corpus : Corpus
    folder : Path
        Ledger directory. Resumed if it exists; deleted on success.
    publish : callable
        Called with a function that writes the result to a file, and with the path of the bad
        records (one JSON object per line); publishes both.
    format : {"npy", "jsonl", "parquet"}
        Format of the result.
    dim : int or None
        Floats per vector; None: all.
    prefix : str
        Put before every text.
    on_done : callable
        Called with the number of records just finished.
    max_bad : int or None
        How many records may be bad; None: all but one.

    Returns
    -------
    Summary

    Raises
    ------
    BadRecordsError
        More are bad; the message has the first reason. The folder stays if it holds vectors.
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
            write_npy(file, blocks, state.n_records, dim)
        elif format == "jsonl":
            write_jsonl(file, blocks, corpus.keep)
        else:
            metadata = {name: str(settings[name]) for name in ("model", "dim", "prefix")}
            write_parquet(file, blocks, dim, types, metadata)

    try:
        _compute(model, corpus, ledger, dim, prefix, types, on_done)
        _check_bad(ledger, max_bad)
        publish(write, folder / "bad")
    except BaseException:
        if state.n_vectors == 0:  # nothing is lost
            remove_folder(folder)
        raise
    finally:
        ledger.close()
    remove_folder(folder)
    return Summary(state.n_records, state.n_bad, state.n_empty, state.n_vectors, state.truncation)


def _check_bad(ledger: Ledger, max_bad: int | None) -> None:
    state = ledger.state
    allowed = state.n_records - 1 if max_bad is None else max_bad
    if state.n_bad == 0 or state.n_bad <= allowed:
        return
    with open(ledger.folder / "bad", encoding="utf-8") as file:
        first = json.loads(file.readline())
    advice = f": {ENCODING_ADVICE}" if first["reason"].startswith("not UTF-8") else ""
    raise BadRecordsError(
        f"{state.n_bad} of {state.n_records} records are bad, expected at most {allowed}; the "
        f"first, record {first['row']}, is {first['reason']}{advice}"
    )


def remove_folder(folder: Path) -> None:
    """Renames the folder, then deletes it, so that a partly deleted ledger is never resumed."""
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
    """Encodes the records that are not in the ledger yet, and appends them."""
    n_finished = ledger.state.n_records
    n_seen = 0
    pending: deque[tuple[_Chunk, Future[_Result]]] = deque()
    committed_at = time.monotonic()
    workers = ThreadPoolExecutor(2, thread_name_prefix="qwen3_embed corpus")

    def take() -> None:
        nonlocal committed_at
        chunk, result = pending.popleft()
        _append(ledger, chunk, result.result(), model.max_length)
        on_done(len(chunk.records))
        if time.monotonic() - committed_at > _COMMIT_S:
            ledger.commit()
            committed_at = time.monotonic()

    try:
        for chunk in _chunks(corpus):
            for record in chunk.records:
                if record.text is not None:
                    types.add(record.kept)
            n_seen += len(chunk.records)
            if n_seen <= n_finished:
                _check_same(ledger, chunk, n_seen)
                on_done(len(chunk.records))
                continue
            texts = [chunk.records[i].text or "" for i in chunk.new]
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
    if n_seen == ledger.state.n_records and chunk.digest != ledger.state.digest:
        raise _changed(ledger)


def _changed(ledger: Ledger) -> ValueError:
    return ValueError(
        f"the input differs from the one that {ledger.folder} was begun with: restore it, or "
        f"delete the folder and start again"
    )


def _chunks(corpus: Corpus) -> Iterator[_Chunk]:
    """Cuts records into chunks of at most about `_CHUNK_CHARACTERS`, and numbers their texts."""
    distinct = Distinct()
    everything = blake2b(digest_size=32)
    records = corpus.records()
    while chunk := _take(records):
        digests, good = [], []
        for index, record in enumerate(chunk):
            content = record.raw if record.text is None else record.text
            digest = blake2b(content.encode(), digest_size=DIGEST_BYTES).digest()
            everything.update(digest)
            if record.text is None:
                everything.update(b"bad")
                continue
            if record.kept:
                everything.update(json.dumps(record.kept, ensure_ascii=True).encode())
            digests.append(digest)
            good.append(index)
        numbers = np.full(len(chunk), BAD, np.int64)
        found, new = distinct.add(digests)
        numbers[good] = found
        yield _Chunk(chunk, numbers, [good[i] for i in new], everything.hexdigest())


def _take(records: Iterator[Record]) -> list[Record]:
    chunk, n_characters = [], 0
    for record in islice(records, _CHUNK_RECORDS):
        chunk.append(record)
        n_characters += len(record.text or record.raw)
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
    first_record = state.n_records
    lengths = np.zeros(len(chunk.records), np.int64)
    lengths[chunk.new] = result.lengths
    state.truncation.add(lengths, max_length, first_record)
    unfit = np.flatnonzero(np.isnan(result.vectors).any(axis=1)) + state.n_vectors
    state.not_finite.extend(unfit.tolist())
    numbers = chunk.numbers
    if state.not_finite:
        numbers = np.where(np.isin(numbers, state.not_finite), BAD, numbers)
    kept, bad = [], []
    for index, (record, number) in enumerate(zip(chunk.records, numbers, strict=True)):
        if number != BAD:
            if record.kept:
                kept.append(_line(record.kept))
            continue
        reason = record.reason or "its vector is not finite"
        content = record.raw if record.text is None else record.text
        bad.append(_line({"row": first_record + index, "reason": reason, "content": content}))
    state.n_bad += len(bad)
    state.n_empty += sum(record.text == "" for record in chunk.records)
    state.digest = chunk.digest
    ledger.append(numbers, result.vectors, b"".join(kept), b"".join(bad))


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _blocks(ledger: Ledger, has_kept: bool) -> Iterator[Block]:
    with (
        open(ledger.folder / "numbers", "rb") as numbers,
        open(ledger.folder / "kept", encoding="utf-8", newline="\n") as kept,
    ):
        first_record = 0
        while content := numbers.read(8 * _BLOCK_RECORDS):
            block = np.frombuffer(content, "<i8")
            bad = block == BAD
            values = [
                tuple(json.loads(kept.readline())) if has_kept and not is_bad else ()
                for is_bad in bad
            ]
            indices = np.arange(first_record, first_record + len(block))
            yield Block(indices, ledger.vectors(block), bad, values)
            first_record += len(block)
