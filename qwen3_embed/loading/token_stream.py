"""class TokenStream: the token ids of a long text, piece by piece.

`tokenizers` takes 600 bytes and more for each token, and a text is often cut to a few thousand
of them. A piece may end only where no later character can change its ids. Four steps of
Qwen's tokenizer.json decide where that is; `TokenStream.of` accepts no other:

1. Added tokens are found first, in the raw text, leftmost and longest. They split the text into
   parts, each of which is tokenised as if it were alone.
2. NFC. NFC(x + y) = NFC(x) + NFC(y) if y begins with a character that is a starter and never the
   second of a composition (UAX 15, section 9.1, "NFC_QC=Yes and ccc=0").
3. A regular expression cuts a part into words. Its matches follow one another without gaps. If x
   doesn't end in white space, then all words of x but the last are also the first words of x + y:
   an alternative that would match otherwise in x + y has read the end of x. Letters, symbols and
   contractions that do so are the last word, whichever alternative takes them; white space
   can't, for it is not at the end.
4. BPE turns each word into tokens: as long as there is a pair that merges, merge the one of the
   lowest rank, the leftmost of equal ones.

So a stream reads text up to a fitting character, keeps the last word for the next piece, and emits
the ids of the others. That leaves words that are themselves long: a line of a million dashes.
For them, let enc(w) be the tokens of w, and L the length of the vocabulary's longest token.

- If enc(w) has a token boundary at p, then enc(w) = enc(w[:p]) + enc(w[p:]): no merge crosses p, so
  the merges on either side happen in the order in which they would happen alone.
- If enc(u) ends in a, enc(v) begins with c, and enc(a + c) = [a, c], then enc(u + v) = enc(u) +
  enc(v). Until a first merge crosses, a's and c's characters merge in u + v as they do in a + c,
  so the same merge would cross there.
- So let enc(w) have a boundary at p, with the token a before it, and for each b of L positions in a
  row behind p let enc(w[p:b]) begin with a c for which enc(a + c) = [a, c]. Whatever follows w: one
  of those b is a token boundary of the longer word, whose tokens up to b are enc(w[:b]), which has
  a boundary at p. The tokens before p are settled. (The positions p + 2 L + 1..p + 3 L are taken:
  right behind p, the ends of the word are often cut otherwise.)
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

__all__ = ["TokenStream"]

_PIECE = 1 << 15  # characters read at a time
_LONG_WORD = 1 << 14  # characters
_WINDOW = 1 << 16  # bytes of a long word that BPE gets at a time
_MAX_TRIES = 64  # boundaries that are looked at to settle one

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = (  # Unicode's White_Space, which is \s in the expression above
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_SPACES = re.compile(f"[{_SPACE}]*")
_LINE_ENDS = re.compile("[\r\n]*")


class TokenStream:
    """The ids of texts by one tokenizer.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        One that `TokenStream.of` accepts.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        import tokenizers

        self._ids_of_added = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        longest_first = sorted(self._ids_of_added, key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._plain = tokenizers.Tokenizer(tokenizer.model)  # of what is normalised already
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._bpe = tokenizers.Tokenizer(tokenizer.model)  # of one word, in letters for bytes
        self._longest_token = 0  # characters; 0: not looked for yet

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> TokenStream | None:
        """A stream, or None for a tokenizer that it would have to tokenise whole."""
        model = tokenizer.model
        plain = {
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "byte_fallback": False,
            "ignore_merges": False,
            "unk_token": None,
        }
        if type(model).__name__ != "BPE" or any(
            (getattr(model, name, None) or None) != (value or None) for name, value in plain.items()
        ):
            return None
        added = tokenizer.get_added_tokens_decoder().values()
        if any(t.normalized or t.lstrip or t.rstrip or t.single_word for t in added):
            return None
        normalizer = tokenizer.normalizer
        if normalizer is None or json.loads(normalizer.__getstate__()) != {"type": "NFC"}:
            return None
        return cls(tokenizer) if _is_known(tokenizer.pre_tokenizer) else None

    def ids(self, text: str) -> Iterator[list[int]]:
        """Lists whose concatenation is the ids of the text, without those put around it.

        Raises
        ------
        UnicodeEncodeError
            The text holds a lone surrogate, wherever it is.
        """
        text.encode()
        position = 0
        while position < len(text):
            found = self._added.search(text, position)
            yield from self._part(text, position, found.start() if found else len(text))
            if found is None:
                return
            yield [self._ids_of_added[found[0]]]
            position = found.end()

    def _part(self, text: str, start: int, stop: int) -> Iterator[list[int]]:
        """The ids of text[start:stop], which holds no added token."""
        reader = _Reader(text, start, stop)
        while reader.long_space or not reader.at_end:
            if reader.long_space:
                yield from self._long_space(reader)
                continue
            reader.read()
            if reader.long_space or reader.at_end:
                continue
            ids, last = self._all_but_last_word(reader.buffer)
            if last:
                yield ids
                reader.buffer = reader.buffer[last:]
            elif len(reader.buffer) >= _LONG_WORD:
                yield from self._long_word(reader)
        if len(reader.buffer) > 2 * _PIECE:  # there was no place to end a piece
            for word, _ in self._words_of(reader.buffer):
                yield from self._word(word)
        else:
            yield self._plain.encode(reader.buffer).ids

    def _all_but_last_word(self, text: str) -> tuple[list[int], int]:
        """The ids of a normalised text without its last word, and where that begins."""
        encoding = self._plain.encode(text)
        words = encoding.word_ids
        n_tokens = words.index(words[-1])
        return encoding.ids[:n_tokens], encoding.offsets[n_tokens][0]

    def _words_of(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        """The words of a normalised text, in letters for bytes, and where they are."""
        words: list[tuple[str, tuple[int, int]]] = self._pre_tokenizer.pre_tokenize_str(text)
        return words

    def _long_word(self, reader: _Reader) -> Iterator[list[int]]:
        """The ids of the word that the buffer is the beginning of; leaves what follows it."""
        word = _in_letters(reader.buffer)
        goes_on = True
        while goes_on:
            # Four letters, or four symbols, go on as the whole word would: no alternative
            # needs to see more of it.
            reader.buffer = reader.buffer[-4:]
            if not reader.at_end:
                reader.read()
            end = self._words_of(reader.buffer)[0][1][1]
            word += _in_letters(reader.buffer[4:end])
            goes_on = end == len(reader.buffer) and not reader.at_end and not reader.long_space
            if goes_on and len(word) >= 2 * _WINDOW:
                settled, word = self._settle(word)
                yield settled
        if end == len(reader.buffer):
            word += reader.take_line_ends(self._takes_line_ends(reader.buffer))
            reader.buffer = ""
        else:
            reader.buffer = reader.buffer[end:]
        yield from self._word(word)

    def _long_space(self, reader: _Reader) -> Iterator[list[int]]:
        """The ids of the buffer and a long run of white space behind it.

        The regular expression gives up on such runs, so its alternatives are followed here: symbols
        take the line ends behind them; then come all characters up to the last line end; then the
        others, but for one that goes with a character behind the run.
        """
        if reader.buffer:
            ids, last = self._all_but_last_word(reader.buffer)
            yield ids
            word = _in_letters(reader.buffer[last:])
            yield from self._word(
                word + reader.take_line_ends(self._takes_line_ends(reader.buffer))
            )
        run, reader.buffer, reader.long_space = reader.long_space, "", ""
        n_lines = max(run.rfind("\r"), run.rfind("\n")) + 1
        yield from self._word(_in_letters(run[:n_lines]))
        run = run[n_lines:]
        if not reader.at_end:
            run, reader.buffer = run[:-1], run[-1:]
        yield from self._word(_in_letters(run))

    def _takes_line_ends(self, text: str) -> bool:
        """True if the last word of a text takes line ends; the text doesn't end in white space."""
        return len(self._words_of(text[-1] + "\n")) == 1

    def _word(self, word: str) -> Iterator[list[int]]:
        """The ids of one word, in letters for bytes."""
        start = 0
        while len(word) - start > 2 * _WINDOW:
            window = word[start : start + 2 * _WINDOW]
            settled, rest = self._settle(window)
            if not settled:
                break
            yield settled
            start += len(window) - len(rest)
        if start < len(word):
            yield self._bpe.encode(word[start:]).ids

    def _settle(self, word: str) -> tuple[list[int], str]:
        """The first ids of a word, which nothing behind it can change, and the rest of it."""
        if not self._longest_token:
            self._longest_token = max(map(len, self._bpe.get_vocab(with_added_tokens=False)))
        longest = self._longest_token
        encoding = self._bpe.encode(word)
        tokens: list[str] = encoding.tokens
        ends = list(accumulate(map(len, tokens)))
        n_tries = 0
        for i in range(len(tokens) - 1, -1, -1):
            if ends[i] > len(word) - 3 * longest:
                continue
            n_tries += 1
            if n_tries > _MAX_TRIES:
                break
            if self._is_settled(tokens[i], word[ends[i] : ends[i] + 3 * longest], longest):
                return encoding.ids[: i + 1], word[ends[i] :]
        return [], word

    def _is_settled(self, token: str, following: str, longest: int) -> bool:
        """True if no text behind `following`, 3 L letters, changes the boundary before them."""
        starts = [following[:n] for n in range(2 * longest + 1, 3 * longest + 1)]
        ids = {encoding.ids[0] for encoding in self._bpe.encode_batch_fast(starts)}
        firsts = [str(self._bpe.id_to_token(token_id)) for token_id in ids]
        return all(self._bpe.encode(token + first).tokens == [token, first] for first in firsts)


class _Reader:
    """A part of a text, normalised piece by piece into `buffer`, which the caller shortens.

    Attributes
    ----------
    buffer : str
        Doesn't end in white space, unless `at_end`.
    long_space : str
        White space behind the buffer, if there is so much that it is kept apart.
    at_end : bool
        Whether all of the part has been read.
    """

    def __init__(self, text: str, start: int, stop: int) -> None:
        self._text = text
        self._position = start
        self._stop = stop
        self.buffer = ""
        self.long_space = ""
        self.at_end = start >= stop

    def read(self) -> None:
        """Appends about `_PIECE` characters."""
        text, start, stop = self._text, self._position, self._stop
        end = min(start + _PIECE, stop)
        while end < stop:
            if text[end - 1] in _SPACE:
                run_start = start + len(text[start:end].rstrip(_SPACE))
                run = _SPACES.match(text, run_start, stop)
                assert run is not None
                if run.end() - run_start > _LONG_WORD:
                    self.long_space = unicodedata.normalize("NFC", run[0])
                    self.buffer += unicodedata.normalize("NFC", text[start:run_start])
                    self._position = run.end()
                    self.at_end = run.end() == stop
                    return
                end = min(run.end() + 1, stop)
            elif _begins_anew(text[end]):
                break
            else:
                end += 1
        self.buffer += unicodedata.normalize("NFC", text[start:end])
        self._position = end
        self.at_end = end == stop

    def take_line_ends(self, takes: bool) -> str:
        """The line ends that `long_space` begins with, removed from it; if not `takes`, none."""
        found = _LINE_ENDS.match(self.long_space)
        if not takes or found is None:
            return ""
        self.long_space = self.long_space[found.end() :]
        return _in_letters(found[0])


def _begins_anew(character: str) -> bool:
    """True if NFC never joins this character to those before it.

    False in doubt: from U+0300 on, for marks, for what this Python's Unicode doesn't know, for jamo
    of Hangul, and for U+10000 to U+1EFFF, where some vowel signs are letters.
    """
    if character < "\u0300":
        return True
    return (
        not "\u1100" <= character <= "\u11ff"
        and not "\U00010000" <= character <= "\U0001efff"
        and unicodedata.combining(character) == 0
        and unicodedata.category(character)[0] in "LNPSZ"
    )


def _is_known(pre_tokenizer: tokenizers.pre_tokenizers.PreTokenizer | None) -> bool:
    """True for the pre-tokenizer of Qwen's tokenizer.json."""
    if pre_tokenizer is None:
        return False
    steps = json.loads(pre_tokenizer.__getstate__())
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    found = steps.get("pretokenizers", [])
    return (
        steps.get("type") == "Sequence"
        and len(found) == 2
        and found[0] == split
        and {name: found[1].get(name) for name in letters} == letters
    )


def _letters_of_bytes() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary, as GPT-2 has it.

    Visible characters of Latin-1 stand for themselves, the others for U+0100 and what follows.
    """
    others = iter(range(0x100, 0x200))
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return {byte: chr(byte if byte in visible else next(others)) for byte in range(256)}


_LETTERS = _letters_of_bytes()


def _in_letters(text: str) -> str:
    return text.encode().decode("latin-1").translate(_LETTERS)
