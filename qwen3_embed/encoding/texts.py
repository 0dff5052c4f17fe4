"""Turns the texts that a caller passes into a checked list of str."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["Texts", "check_texts", "iterate_texts", "list_texts", "surrogate_error"]

Texts = Iterable[str]
"""Any iterable of str: list, tuple, generator, NumPy object or str array, pandas Series,
pyarrow string array."""


def _refuse_non_iterable(texts: Any, noun: str = "texts") -> None:
    """Raises TypeError for an object that is not an iterable of texts."""
    kind = type(texts).__name__
    # Tables of pandas, Polars, pyarrow and datasets. Iterating over one of pandas gives the
    # names of its columns, which are str too.
    is_table = any(hasattr(texts, name) for name in ("columns", "column_names"))
    if is_table or getattr(texts, "ndim", 1) != 1:
        if isinstance(texts, np.ndarray):
            raise TypeError(f"{noun} is an array of shape {texts.shape}, expected (n,)")
        if not isinstance(texts, memoryview):
            raise TypeError(f"{noun} is {kind} with rows and columns: pass the column of the texts")
    if isinstance(texts, (bytes, bytearray, memoryview, Mapping)) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{noun} is {kind}, expected str or an iterable of str")


def check_texts(texts: list[Any], first_index: int = 0, noun: str = "texts") -> list[str]:
    """Returns the list if all of its items are str.

    In messages `first_index` is the index of the first item and `noun` the name of the list.

    Raises
    ------
    TypeError
        `texts[i] is NoneType, expected str`.
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{noun}[{first_index + i}] is {type(text).__name__}, expected str")
    return texts


def list_texts(texts: Texts, noun: str = "texts") -> list[str]:
    """Lists the texts of an iterable; `noun` is its name in messages.

    pandas, Polars and pyarrow work without being imported: the first two iterate over str, and a
    pyarrow array has `to_pylist`.

    Raises
    ------
    TypeError
        A single str, or not an iterable of str; the message names the first wrong index.
    """
    if isinstance(texts, str):
        raise TypeError(f"{noun} is str, expected an iterable of str")
    _refuse_non_iterable(texts, noun)
    convert = getattr(texts, "to_pylist", None) or getattr(texts, "tolist", None)
    return check_texts(convert() if callable(convert) else list(texts), noun=noun)


def iterate_texts(texts: Texts) -> Iterator[Any]:
    """Iterates over texts without listing them; the items are not checked.

    Raises
    ------
    TypeError
        A single str, or not an iterable.
    """
    if isinstance(texts, str):
        raise TypeError("texts is str, expected an iterable of str")
    _refuse_non_iterable(texts)
    convert = getattr(texts, "to_pylist", None)
    return iter(convert() if callable(convert) else texts)


def surrogate_error(
    prefix: str, texts: list[str], first_index: int, noun: str = "texts"
) -> ValueError:
    """The error for the first lone surrogate in the prompt or the texts, with its position."""
    names = ["the prompt", *(f"{noun}[{first_index + i}]" for i in range(len(texts)))]
    for name, text in zip(names, [prefix, *texts], strict=True):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as found:
            return ValueError(
                f"{name} contains the lone surrogate U+{ord(text[found.start]):04X} at character "
                f"{found.start}, which is not valid Unicode: decode its bytes with errors='replace'"
            )
    return ValueError("a text is not valid Unicode: decode its bytes with errors='replace'")
