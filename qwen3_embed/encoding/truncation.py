"""class Truncation: how many texts were longer than the model takes, and the longest of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputTooLongError, TruncationWarning
from ..loading.tokenizer import tokens_in_words

__all__ = ["LengthReport", "Truncation"]


@dataclass(slots=True)
class Truncation:
    """Counts of the texts that were truncated.

    Attributes
    ----------
    n_cut : int
        Truncated texts.
    longest : int
        Tokens of the longest of them before truncation; 0 if there is none.
    longest_index : int
        Index of that text.
    """

    n_cut: int = 0
    longest: int = 0
    longest_index: int = 0

    def add(self, lengths: npt.NDArray[np.int64], max_length: int, first_index: int = 0) -> None:
        """Counts more texts.

        Parameters
        ----------
        lengths : ndarray
            (n,) int64 tokens of each text before truncation; n may be 0.
        max_length : int
            Tokens that the model takes.
        first_index : int
            Index of the first of these texts.
        """
        longest = int(lengths.max(initial=0))
        if longest <= max_length:
            return
        self.n_cut += int(np.count_nonzero(lengths > max_length))
        if longest > self.longest:
            self.longest = longest
            self.longest_index = first_index + int(lengths.argmax())

    def sentence(self, max_length: int, noun: str, longest_name: str) -> str:
        """The message for users; `noun` is the plural of what was truncated."""
        many = f"1 {noun[:-1]} was" if self.n_cut == 1 else f"{self.n_cut} {noun} were"
        return (
            f"{many} cut at max_length={max_length} tokens; the longest, {longest_name}, has "
            f"{tokens_in_words(self.longest, max_length)}"
        )


class LengthReport:
    """Reports texts of a call that are longer than the model takes.

    Parameters
    ----------
    max_length : int
        In tokens.
    on_long : {"warn", "error"}
    noun : str
        What messages call the texts.
    """

    def __init__(self, max_length: int, on_long: str, noun: str = "texts") -> None:
        if on_long not in ("warn", "error"):
            raise ValueError(f"on_long={on_long!r}, expected 'warn' or 'error'")
        self._max_length = max_length
        self._on_long = on_long
        self.noun = noun
        self._truncation = Truncation()

    def add(self, lengths: npt.NDArray[np.int64], first_index: int) -> None:
        """Notes the lengths of the texts from `first_index` on.

        Raises
        ------
        InputTooLongError
            With on_long="error", if one of them is too long.
        """
        self._truncation.add(lengths, self._max_length, first_index)
        if self._truncation.n_cut and self._on_long == "error":
            longest = tokens_in_words(self._truncation.longest, self._max_length)
            raise InputTooLongError(
                f"{self._longest_name()} has {longest} tokens, expected at most "
                f"{self._max_length}: split it, raise max_length, or pass on_long='warn' to cut it"
            )

    def warn(self, stacklevel: int) -> None:
        """Gives one warning for the whole call, if a text was truncated."""
        if self._truncation.n_cut:
            warnings.warn(
                self._truncation.sentence(self._max_length, self.noun, self._longest_name()),
                TruncationWarning,
                stacklevel=stacklevel + 1,
            )

    def _longest_name(self) -> str:
        return f"{self.noun}[{self._truncation.longest_index}]"
