"""class ForeignIds: decodes token ids of another tokenizer back to text.

Some clients, LangChain's OpenAIEmbeddings among them, send ids of OpenAI's tokenizer whatever the
model is. They are decoded here, and the text is tokenised for the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Problem

__all__ = ["ForeignIds"]


class ForeignIds:
    """A tokenizer of tiktoken, used for decoding only.

    Parameters
    ----------
    name : str
        The tokenizer's, such as "cl100k_base".

    Raises
    ------
    ImportError
        tiktoken is not installed.
    OSError
        tiktoken has no file of the tokenizer in its cache and can't download it.
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
        except Exception as error:  # tiktoken's HTTP library has types of its own
            raise OSError(
                f"tiktoken has no file of {name} and could not download it "
                f"({type(error).__name__}): start it once with network access, or put the file in "
                f"the folder that TIKTOKEN_CACHE_DIR names"
            ) from None
        self._name = name

    def texts_of(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The texts of n sequences.

        Clients split long texts into runs of ids, sometimes in the middle of a character. Neither
        run contains all of its bytes, so it is left out of both.

        Raises
        ------
        Problem
            400: ids that this tokenizer doesn't have, or whose bytes are not UTF-8.
        """
        return [self._text_of(i, ids) for i, ids in enumerate(sequences)]

    def _text_of(self, index: int, ids: Sequence[int]) -> str:
        try:
            content = self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            raise self._problem(index, "contains token ids that are not in") from None
        try:
            return _whole_characters(content).decode()
        except UnicodeDecodeError:
            raise self._problem(index, "does not decode to valid UTF-8 with") from None

    def _problem(self, index: int, what: str) -> Problem:
        return Problem(
            400,
            f"input {index} {what} {self._name}, the tokenizer given with --token-ids: send texts, "
            f"or start the server with --token-ids model if the ids are the model's own",
            param="input",
            code="foreign_token_ids",
        )


def _whole_characters(content: bytes) -> bytes:
    """The bytes without an incomplete character at the start or the end."""
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
