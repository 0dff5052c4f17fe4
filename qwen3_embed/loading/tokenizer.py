"""list[str] to two int32 arrays, on Hugging Face `tokenizers`.

`tokenizers` is asked for the bare ids of each text only; what its post-processor would put
around them, the end token above all, and the cut at `max_length` are done here on the ids, so
that the full length of every text is known.
"""

from __future__ import annotations

import copy
import re
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError, ModelNotFoundError
from .gguf import read_gguf
from .gguf_model import tokenizer_json
from .token_stream import TokenStream

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Surroundings", "TokenBatch", "Tokenizer", "counted_tokens", "tokens_in_words"]

_END_TOKEN = "<|endoftext|>"
_MAX_FILE_BYTES = 64 << 20
# So little is tokenised on the spot: other threads would cost more than they save, most of all
# where the engine has every core.
_FEW_TEXTS = 64
_FEW_CHARACTERS = 4096
_LONG_TEXT = 1 << 17  # characters; longer ones are tokenised piece by piece
_COUNTED_TOKENS = 1 << 15
_INCOMPLETE = "\ufffd"  # the bytes of an incomplete character are decoded to these


def counted_tokens(max_length: int) -> int:
    """The number up to which the tokens of a text are counted that is cut at `max_length`."""
    return max(max_length, _COUNTED_TOKENS)


def tokens_in_words(length: int, max_length: int) -> str:
    """A length of a TokenBatch for messages: "51", or "more than 32768".

    Examples
    --------
    >>> tokens_in_words(32769, 4096)
    'more than 32768'
    """
    limit = counted_tokens(max_length)
    return str(length) if length <= limit else f"more than {limit}"


_CONTROL_TOKEN = re.compile(r"<\|[a-z_]+\|>|</?think>")


class Surroundings(NamedTuple):
    """A prompt around every text.

    Attributes
    ----------
    before, after : str
    rest : str
        How every text ends, and a text that is cut too.
    samples : tuple of str
        Texts to check the prompt with.
    """

    before: str
    after: str
    rest: str
    samples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Texts as the engine takes them.

    Attributes
    ----------
    tokens : ndarray
        (T,) int32, the texts back to back, each at most `max_length` long.
    cu_seqlens : ndarray
        (n + 1,) int32: text i is tokens[cu_seqlens[i]:cu_seqlens[i + 1]].
    lengths : ndarray
        (n,) int64: tokens of each text before the cut. A text with more than
        `counted_tokens(max_length)` has that number plus 1: the rest of it isn't read.
    """

    tokens: npt.NDArray[np.int32]
    cu_seqlens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]


class Tokenizer:
    """A model's tokenizer.json, with the end token and the length limit of its model.

    Parameters
    ----------
    path : Path
        The tokenizer.json, or the GGUF file that holds its content.
    vocab_size : int
        Rows of the embedding. Added tokens with ids past them are dropped, so that their text
        is split like any other; an id of the base vocabulary past them is an error.
    max_length : int
        Tokens of the longest text, the end token included.
    special_tokens_in_text : bool
        True: text that looks like an added token (``<|im_end|>``) becomes it, as in
        `transformers`. False: it stays text.
    around : Surroundings, optional
        Texts to put before and after every text instead of what the file says. Control tokens
        in them always mean themselves.

    Raises
    ------
    ModelNotFoundError
        No such file.
    ModelFileError
        A damaged file, one without an end token, or one of another model.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_size: int,
        max_length: int,
        special_tokens_in_text: bool = True,
        around: Surroundings | None = None,
    ) -> None:
        loaded = _load(path)
        base_size = loaded.get_vocab_size(with_added_tokens=False)
        largest_id = base_size - 1
        if loaded.model.id_to_token(largest_id) is None:  # ids with holes: look at each
            largest_id = max(loaded.get_vocab(with_added_tokens=False).values(), default=0)
        if around is None:
            self._before, self._after = _surroundings(loaded, path)
        else:
            self._before, self._after = (
                tuple(loaded.encode(text, add_special_tokens=False).ids) for text in around[:2]
            )
        largest_id = max((largest_id, *self._before, *self._after))
        if largest_id >= vocab_size:
            raise ModelFileError(
                f"{path} holds the token id {largest_id}, but the model's embedding has "
                f"{vocab_size} rows: the two files belong to different models"
            )
        self._fast = _without_added_tokens(
            loaded, vocab_size if special_tokens_in_text else 0, path
        )
        self.adds_end = _adds_end(loaded)
        self._rest: list[int] = []
        if around is not None:
            self._rest = loaded.encode(around.rest, add_special_tokens=False).ids
            _check_around(loaded, self._fast, around, path)
        self._stream = TokenStream.of(self._fast)
        self._n_around = len(self._before) + len(self._after)
        least = self._n_around + len(self._rest)
        if max_length < least:
            raise ValueError(
                f"max_length={max_length}, expected at least {least}: "
                f"the tokens that every text of this model gets"
            )
        self._max_length = max_length

    def encode(self, texts: Sequence[str], *, frees_gil: bool = False) -> TokenBatch:
        """Tokenises; a text over `max_length` loses its tail and keeps its end token.

        Parameters
        ----------
        texts : sequence of str
            n texts.
        frees_gil : bool
            Lets other Python threads run meanwhile even if the texts are few.

        Returns
        -------
        TokenBatch

        Raises
        ------
        UnicodeError
            A text holds a lone surrogate; its `object` attribute is the text.
        """
        before, rest, after = self._before, self._rest, self._after
        room = self._max_length - self._n_around
        longest = counted_tokens(self._max_length) + 1
        tokens = array("i")
        lengths = np.empty(len(texts), np.int64)
        for i, ids in enumerate(self._ids(texts, longest, frees_gil)):
            lengths[i] = min(len(ids) + self._n_around, longest)
            if before:
                tokens.extend(before)
            tokens.fromlist(ids if len(ids) <= room else ids[: room - len(rest)] + rest)
            tokens.extend(after)
        cu_seqlens = np.zeros(len(texts) + 1, np.int32)
        np.cumsum(np.minimum(lengths, self._max_length), out=cu_seqlens[1:])
        return TokenBatch(np.frombuffer(tokens, np.int32), cu_seqlens, lengths)

    def encode_ends(self, texts: Sequence[str], prefix: str = "") -> TokenBatch:
        """As `encode` of prefix + text, but a text over `max_length` loses its beginning.

        The tokens of the prefix are kept, so that a query keeps its instruction.

        Raises
        ------
        ValueError
            The prefix alone takes up `max_length`.
        UnicodeError
            As `encode`.
        """
        around = [*self._before, *self._encode_batch([prefix])[0].ids]
        room = self._max_length - len(around) - len(self._after)
        if room < 1:
            raise ValueError(
                f"max_length={self._max_length}, expected at least "
                f"{len(around) + len(self._after) + 1}: the prompt's tokens and one of the text"
            )
        sequences: list[list[int]] = []
        lengths = np.empty(len(texts), np.int64)
        for i, text in enumerate(texts):
            kept: deque[int] = deque(maxlen=room)
            n_tokens = 0
            for ids in self._pieces_of(text):
                kept.extend(ids)
                n_tokens += len(ids)
            lengths[i] = len(around) + n_tokens + len(self._after)
            if n_tokens > room:
                sequences.append([*around, *kept, *self._after])
            else:
                sequences.append(self.encode([prefix + text]).tokens.tolist())
        cu_seqlens = np.zeros(len(texts) + 1, np.int32)
        np.cumsum([len(ids) for ids in sequences], out=cu_seqlens[1:])
        tokens = np.array([i for ids in sequences for i in ids], np.int32)
        return TokenBatch(tokens, cu_seqlens, lengths)

    def first_tokens(self, text: str, n_tokens: int) -> str:
        """The text of the first n_tokens tokens, without a character that is cut in two."""
        kept: list[int] = []
        for ids in self._pieces_of(text):
            kept += ids
            if len(kept) > n_tokens:
                found: str = self._fast.decode(kept[:n_tokens], skip_special_tokens=False)
                return found.rstrip(_INCOMPLETE)
        return text

    def last_tokens(self, text: str, n_tokens: int) -> str:
        """The text of the last n_tokens tokens, without a character that is cut in two."""
        kept: deque[int] = deque(maxlen=n_tokens)
        total = 0
        for ids in self._pieces_of(text):
            kept.extend(ids)
            total += len(ids)
        if total <= n_tokens:
            return text
        found: str = self._fast.decode(list(kept), skip_special_tokens=False)
        return found.lstrip(_INCOMPLETE)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids.

        Raises
        ------
        ValueError
            An id that the vocabulary doesn't have.
        """
        for token_id in ids:
            if self._fast.id_to_token(token_id) is None:
                raise ValueError(f"token id {token_id} is not in the vocabulary")
        text: str = self._fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def with_max_length(self, max_length: int) -> Tokenizer:
        """The same tokenizer with another limit."""
        if max_length < self._n_around:
            raise ValueError(
                f"max_length={max_length}, expected at least {self._n_around}: "
                f"the tokens that every text of this model gets"
            )
        other = copy.copy(self)
        setattr(other, "_max_length", max_length)  # noqa: B010 - a new object of this class
        return other

    def id_of(self, token: str) -> int | None:
        """The id of a token of the base vocabulary; None: there is no such token."""
        found: int | None = self._fast.token_to_id(token)
        return found

    def count(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64: tokens of each text, with its end token, before any cut."""
        counts = np.empty(len(texts), np.int64)
        is_long = [self._stream is not None and len(text) > _LONG_TEXT for text in texts]
        short = [text for text, long in zip(texts, is_long, strict=True) if not long]
        encodings = iter(self._encode_batch(short))
        for i, text in enumerate(texts):
            if is_long[i] and self._stream is not None:
                counts[i] = sum(map(len, self._stream.ids(text)))
            else:
                counts[i] = len(next(encodings))
        return counts + self._n_around

    def pieces(self, text: str) -> list[tuple[int, tuple[int, int] | None]]:
        """Each token's id and the characters it stands for; None: a token put around the text."""
        found = self._fast.encode(text, add_special_tokens=False)
        around = [[(token_id, None) for token_id in ids] for ids in (self._before, self._after)]
        return [*around[0], *zip(found.ids, found.offsets, strict=True), *around[1]]

    @property
    def end(self) -> tuple[int, ...]:
        """The ids that every text ends with."""
        return self._after

    def _ids(
        self, texts: Sequence[str], n_needed: int, frees_gil: bool = False
    ) -> Iterator[list[int]]:
        """The ids of each text; of a long one the first, at least `n_needed` if it has as many."""
        short = [text for text in texts if self._stream is None or len(text) <= _LONG_TEXT]
        encodings = iter(self._encode_batch(short, frees_gil))
        for text in texts:
            if self._stream is None or len(text) <= _LONG_TEXT:
                yield next(encodings).ids
                continue
            ids: list[int] = []
            for piece in self._stream.ids(text):
                ids += piece
                if len(ids) >= n_needed:
                    break
            yield ids

    def _pieces_of(self, text: str) -> Iterator[list[int]]:
        """All ids of a text; those of a long one are never held together."""
        if self._stream is None or len(text) <= _LONG_TEXT:
            yield self._encode_batch([text])[0].ids
        else:
            yield from self._stream.ids(text)

    def _encode_batch(
        self, texts: Sequence[str], frees_gil: bool = False
    ) -> list[tokenizers.Encoding]:
        fast = self._fast
        try:
            few = len(texts) <= _FEW_TEXTS and sum(map(len, texts)) <= _FEW_CHARACTERS
            if few and not frees_gil:  # `encode` keeps the GIL, and starts no threads
                return [fast.encode(text, add_special_tokens=False) for text in texts]
            return fast.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            # How `tokenizers` reports a str that isn't Unicode: find it and say so.
            for text in texts:
                text.encode("utf-8")
            raise


def _load(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        size_bytes = path.stat().st_size
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ModelNotFoundError(
            f"{path} can't be read: {error.strerror}; a model folder needs its tokenizer.json"
        ) from error
    if size_bytes > _MAX_FILE_BYTES and path.suffix.lower() != ".gguf":
        raise ModelFileError(f"{path} has {size_bytes} bytes, expected at most {_MAX_FILE_BYTES}")
    text = tokenizer_json(read_gguf(path)) if path.suffix.lower() == ".gguf" else None
    try:
        if text is None:
            loaded = tokenizers.Tokenizer.from_file(str(path))
        else:
            loaded = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise ModelFileError(
            f"{path} is not a tokenizer file ({error}); it may be cut short: fetch it again"
        ) from error
    if getattr(loaded.model, "dropout", None):
        raise ModelFileError(
            f"{path}: dropout is {loaded.model.dropout}, expected null: "
            f"the same text must give the same tokens"
        )
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _surroundings(
    loaded: tokenizers.Tokenizer, path: Path
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids around every text's own: what the file says; after it at least the end token."""
    bare = loaded.encode("a", add_special_tokens=False).ids
    full = loaded.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        stop = start + len(bare)
        if full[start:stop] == bare:
            break
    else:
        raise ModelFileError(f"{path}: the post-processor changes a text's own tokens")
    before, after = tuple(full[:start]), tuple(full[stop:])
    if after:
        return before, after
    end = loaded.token_to_id(_END_TOKEN)
    if end is None:
        raise ModelFileError(
            f"{path}: the post-processor adds no end token, and {_END_TOKEN} is not in the "
            f"vocabulary"
        )
    return before, (end,)


def _adds_end(loaded: tokenizers.Tokenizer) -> bool:
    """True if the file itself appends a token to every text."""
    bare, full = (loaded.encode("a", add_special_tokens=on).ids for on in (False, True))
    return bool(full[-1:] != bare[-1:])


def _check_around(
    loaded: tokenizers.Tokenizer, fast: tokenizers.Tokenizer, around: Surroundings, path: Path
) -> None:
    """That a prompt's parts, tokenised apart, are what the whole is."""
    for text in around[:2]:
        found = _CONTROL_TOKEN.search(text)
        if found and loaded.token_to_id(found[0]) is None:
            start = text[found.start() :]
            raise ModelFileError(
                f"{path} has no token for the start of {start[:16]!r}, which this model's prompt "
                f"needs"
            )
    for sample in around.samples:
        parts = [
            *loaded.encode(around.before, add_special_tokens=False).ids,
            *fast.encode(sample, add_special_tokens=False).ids,
            *loaded.encode(around.after, add_special_tokens=False).ids,
        ]
        whole = around.before + sample + around.after
        if parts == loaded.encode(whole, add_special_tokens=False).ids:
            continue
        if _CONTROL_TOKEN.search(sample):
            raise ModelFileError(
                f"{path.parent}: the model's prompt has control tokens between query and document: "
                f"open it with special_tokens_in_text=True, with which texts may hold them too"
            )
        raise ModelFileError(
            f"{path}: the tokens of the model's prompt depend on the texts in it, expected control "
            f"tokens or new lines at its borders"
        )


def _without_added_tokens(
    loaded: tokenizers.Tokenizer, first_dropped: int, path: Path
) -> tokenizers.Tokenizer:
    """The same tokenizer without the added tokens from the id `first_dropped` on.

    `tokenizers` can't remove an added token, but a second tokenizer over the same model, which
    is shared, can be given fewer.
    """
    added = loaded.get_added_tokens_decoder()
    if all(token_id < first_dropped for token_id in added):
        return loaded
    import tokenizers

    fewer = tokenizers.Tokenizer(loaded.model)
    if loaded.normalizer is not None:
        fewer.normalizer = loaded.normalizer
    if loaded.pre_tokenizer is not None:
        fewer.pre_tokenizer = loaded.pre_tokenizer
    if loaded.decoder is not None:
        fewer.decoder = loaded.decoder
    for token_id in sorted(added):
        if token_id >= first_dropped:
            continue
        token = added[token_id]
        if token.special:
            fewer.add_special_tokens([token])
        else:
            fewer.add_tokens([token])
        if fewer.token_to_id(token.content) != token_id:
            raise ModelFileError(
                f"{path}: the added token {token.content!r} has the id {token_id}, expected "
                f"ids that follow one another"
            )
    return fewer
