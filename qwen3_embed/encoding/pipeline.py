"""class Pipeline: takes one call's texts through tokenizer and engines, chunk by chunk.

The next chunk is tokenised while the engines compute the ones before it. At most `_MAX_JOBS` chunks
per engine are pending, so a call needs memory for its rows and a few chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import NonFiniteError
from ..loading.tokenizer import TokenBatch, Tokenizer
from .options import Request
from .texts import surrogate_error
from .truncation import LengthReport

if TYPE_CHECKING:
    from .._core import Job
    from ..loading.engines import Engines

__all__ = ["Pipeline", "chunk_bounds", "moved"]

_MAX_JOBS = 3
_MAX_CHUNK_BYTES = 1 << 20
_CHUNK_BATCHES = 4  # forward passes per chunk, approximately: larger chunks pack better
_BYTES_PER_TOKEN = 4  # of English text; other texts have fewer, so their chunks are shorter


def chunk_bounds(
    texts: list[str], batch_tokens: int, prefix: str = ""
) -> Iterator[tuple[int, int]]:
    """Divides texts into chunks [start, stop) of about `_CHUNK_BATCHES` forward passes each.

    No chunk exceeds 1 MB of text, prefixes included, unless it is a single text. The first chunk is
    short, so that the engine starts early. A remainder of up to half a forward pass joins the last
    chunk: on its own it would cost almost a whole pass.
    """
    around_bytes = len(prefix) * 3 + _BYTES_PER_TOKEN  # the prefix and the end token
    full_bytes = min(_MAX_CHUNK_BYTES, _CHUNK_BATCHES * batch_tokens * _BYTES_PER_TOKEN)
    limit_bytes = pass_bytes = full_bytes // _CHUNK_BATCHES
    # A character outside ASCII counts as three bytes, which most have.
    sizes = [len(text) * (1 if text.isascii() else 3) + around_bytes for text in texts]
    start, size_bytes, left_bytes = 0, 0, sum(sizes)
    for i, own_bytes in enumerate(sizes):
        whole_bytes = size_bytes + left_bytes
        is_rest = left_bytes <= pass_bytes // 2 and whole_bytes <= _MAX_CHUNK_BYTES
        if size_bytes + own_bytes > limit_bytes and i > start and not is_rest:
            yield start, i
            start, size_bytes = i, 0
            limit_bytes = full_bytes
        size_bytes += own_bytes
        left_bytes -= own_bytes
    if start < len(texts):
        yield start, len(texts)


class Pipeline:
    """Submits the chunks of one call and waits for them in order.

    Parameters
    ----------
    engines : Engines
    tokenizer : Tokenizer
    request : Request
    report : LengthReport
    on_done : callable
        Called with the number of texts just finished.
    """

    def __init__(
        self,
        engines: Engines,
        tokenizer: Tokenizer,
        request: Request,
        report: LengthReport,
        on_done: Callable[[int], None],
    ) -> None:
        self._engines = engines
        self._max_jobs = _MAX_JOBS * len(engines)
        self._tokenizer = tokenizer
        self._request = request
        self._report = report
        self._on_done = on_done
        self._jobs: deque[_Chunk] = deque()

    def feed(
        self,
        texts: list[str],
        rows: npt.NDArray[np.float32],
        first_index: int = 0,
        *,
        waits: bool = False,
    ) -> int:
        """Tokenises and submits all texts; the vector of text i goes to rows[i].

        Returns the number of jobs once the last is submitted; `finish` waits for the rows.
        `first_index` is the index of texts[0] in messages. `waits`: the caller calls `finish` next.
        """
        n_jobs = 0
        for start, stop in chunk_bounds(texts, self._engines.batch_tokens, self._request.prefix):
            batch = self._tokenise(texts[start:stop], first_index + start)
            self.finish(self._max_jobs - 1)
            job = self._engines.submit(
                batch.tokens,
                batch.cu_seqlens,
                rows,
                start,
                self._request.normalize,
                self._request.adapter,
                waits and stop == len(texts),
            )
            self._jobs.append(_Chunk(job, stop - start, first_index))
            n_jobs += 1
        return n_jobs

    def _tokenise(self, texts: list[str], first_index: int) -> TokenBatch:
        prefix = self._request.prefix
        try:
            batch = self._tokenizer.encode([prefix + text for text in texts] if prefix else texts)
        except UnicodeError:
            raise surrogate_error(prefix, texts, first_index, self._report.noun) from None
        self._report.add(batch.lengths, first_index)
        return batch

    def finish(self, n_left: int = 0) -> None:
        """Waits until at most `n_left` jobs, the newest, are pending."""
        while len(self._jobs) > n_left:
            chunk = self._jobs[0]
            try:
                chunk.job.wait()
            except NonFiniteError as error:
                if chunk.first_index == 0 and self._report.noun == "texts":
                    raise
                raise moved(error, chunk.first_index + error.index, self._report.noun) from error
            self._jobs.popleft()
            self._on_done(chunk.n_texts)

    def cancel(self) -> None:
        """Cancels all pending jobs; does nothing after `finish`."""
        while self._jobs:
            self._jobs.popleft().job.cancel()


class _Chunk(NamedTuple):
    job: Job
    n_texts: int
    first_index: int  # of row 0 of the array that the job writes to


def moved(error: NonFiniteError, index: int, noun: str = "texts") -> NonFiniteError:
    """The same error for text `index` of the whole call."""
    moved_error = NonFiniteError(f"{noun}[{index}] gave a vector that is not finite")
    moved_error.index = index
    return moved_error
