"""A reranker's head: one vector, with which the pooled row gives the logit for yes minus no.

The vocabulary has 150,000 rows and the answer needs two of them: their difference is read once
from the weight files. A conversion for sequence classification holds the difference itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from .config import read_json
from .files import ModelFiles
from .tensors import Tensor, TensorFiles, as_floats

__all__ = ["HEADS", "logits_of", "read_head"]

HEADS = frozenset({"lm_head.weight", "score.weight"})
"""Tensors that no forward pass multiplies by."""


def read_head(
    files: ModelFiles, replaced: dict[str, npt.NDArray[np.generic]], answers: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """The head of a model.

    Parameters
    ----------
    files : ModelFiles
    replaced : dict of str to ndarray
        Tensors that stand in for the files', by name without "model.", bf16 as uint16.
    answers : tuple of int
        The ids of the tokens for yes and for no.

    Returns
    -------
    ndarray
        (hidden_size,) float64.

    Raises
    ------
    ModelFileError
        No such tensor, or one of another shape: an embedding model, for instance.
    """
    path = files.folder / "config.json"
    config = read_json(path)
    tensors = TensorFiles(files.shards)
    width = files.config.hidden_size
    if "Qwen3ForSequenceClassification" in (config.get("architectures") or ()):
        score = tensors.find("score.weight")
        if score is None or score.shape != (1, width):
            found = "missing" if score is None else f"of shape {score.shape}"
            raise ModelFileError(
                f"{path}: Qwen3ForSequenceClassification, but score.weight is {found}, expected "
                f"(1, {width}): one score"
            )
        return _difference(_rows(score, replaced, [0]), score.name)
    if config.get("tie_word_embeddings", False):
        table = tensors.find("model.embed_tokens.weight", "embed_tokens.weight")
    else:
        table = tensors.find("lm_head.weight")
    if table is not None and config.get("tie_word_embeddings", False):
        if "embed_tokens.weight" in replaced:
            raise ModelFileError(
                f"{files.name}: the adapter changes embed_tokens, with which the head is tied, and "
                f"does not say whether the head changes too: merge it with PEFT"
            )
        if "lm_head.weight" in replaced:
            table = replace(table, name="lm_head.weight")
    if table is None:
        raise ModelFileError(
            f"{files.name}: lm_head.weight is missing and tie_word_embeddings is false: an "
            f"embedding model makes no logits; expected a reranker such as Qwen3-Reranker-0.6B"
        )
    if len(table.shape) != 2 or table.shape[1] != width or table.shape[0] <= max(answers):
        raise ModelFileError(
            f"{table.name}: shape {table.shape}, expected {width} columns and rows for the "
            f"tokens {answers[0]} (yes) and {answers[1]} (no)"
        )
    return _difference(_rows(table, replaced, list(answers)), table.name)


def logits_of(
    rows: npt.NDArray[np.float32], head: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(n,) logit(yes) - logit(no) of pooled rows (n, hidden_size).

    Summed row by row in float64, so that a pair's score doesn't depend on its company.
    """
    logits: npt.NDArray[np.float32] = (rows * head).sum(axis=1).astype(np.float32)
    return logits


def _rows(
    table: Tensor, replaced: dict[str, npt.NDArray[np.generic]], ids: list[int]
) -> npt.NDArray[np.float64]:
    stored = replaced.get(table.name.removeprefix("model."))
    return as_floats((table.stored() if stored is None else stored)[ids]).astype(np.float64)


def _difference(rows: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    head: npt.NDArray[np.float64] = rows[0] - rows[1] if len(rows) == 2 else rows[0]
    if not np.isfinite(head).all():
        raise ModelFileError(f"{name}: the rows of yes and no hold NaN or infinity")
    return head
