"""class ForeignIds: token ids of another tokenizer, back to the texts that they stand for.

Some clients, LangChain's OpenAIEmbeddings among them, send ids of OpenAI's tokenizer whatever the
model. They say the same as the text did, so the text is what the model gets to see.
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Problem

__all__ = ["ForeignIds"]


class ForeignIds:
    """A tokenizer of tiktoken, for decoding alone.

    Parameters
    ----------
    name : str
        Of the tokenizer: "cl100k_base".

    Raises
    ------
    ImportError
        tiktoken is not installed.
    OSError
        tiktoken has not kept the tokenizer's file, and can't download it.
    """

    def __init__(self, name: str) -> None:
        try:
            import tiktoken
        except ImportError:
            raise ImportError(
                f"--token-ids {name} needs tiktoken: pip install 'qwen3-embed-native[tiktoken]'"
            ) from None
        try:
            self._encoding = tiktoken.get_encoding(name)
        except Exception as error:  # of whatever it downloads with
            raise OSError(
                f"tiktoken has no file of {name} and could not download it "
                f"({type(error).__name__}): allow it to once, or put the file in the folder "
                f"that TIKTOKEN_CACHE_DIR names"
            ) from None
        self._name = name

    def texts_of(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The texts of n sequences.

        Clients cut long texts into runs of ids, also in the middle of a character, of which
        neither run has all: it is left out of both.

        Raises
        ------
        Problem
            400: ids that this tokenizer doesn't have, or that are no text.
        """
        return [self._text_of(i, ids) for i, ids in enumerate(sequences)]

    def _text_of(self, index: int, ids: Sequence[int]) -> str:
        try:
            content = self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            raise self._problem(index, "holds token ids that are none") from None
        try:
            return _whole_characters(content).decode()
        except UnicodeDecodeError:
            raise self._problem(index, "is no text by the token ids") from None

    def _problem(self, index: int, what: str) -> Problem:
        return Problem(
            400,
            f"input {index} {what} of {self._name}, which this server was started to expect: send "
            f"texts, or start it with --token-ids model for the model's own",
            param="input",
            code="foreign_token_ids",
        )


def _whole_characters(content: bytes) -> bytes:
    """Without the rest of a character at the start, and the beginning of one at the end."""
    start = 0
    while start < min(3, len(content)) and content[start] & 0xC0 == 0x80:
        start += 1
    for length in range(1, min(3, len(content) - start) + 1):
        lead = content[-length]
        if lead & 0xC0 == 0x80:
            continue
        needed = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        return content[start:-length] if length < needed else content[start:]
    return content[start:]
