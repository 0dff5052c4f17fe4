"""The progress bar: on standard error, and only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["logger", "progress"]

logger = logging.getLogger("qwen3_embed")


@contextmanager
def progress(show: bool | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of texts just finished.

    Parameters
    ----------
    show : bool or None
        None: only if the logger "qwen3_embed" is at level INFO, as in sentence-transformers.
    total : int or None
        Number of texts, if known.
    """
    if show is None:
        show = logger.isEnabledFor(logging.INFO)
    if not show:
        yield lambda n_texts: None
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc="encode", unit="text") as bar:
        yield bar.update
