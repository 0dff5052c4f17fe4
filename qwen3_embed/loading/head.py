"""A reranker's head: one vector, whose product with the pooled row is the score's logit.

The vocabulary has 150,000 rows and the answer needs those of yes and no: their difference is
read once from the weight files. A conversion for sequence classification stores it as such.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from .config import read_json
from .files import ModelFiles
from .gguf import CLASSIFIER
from .tensors import Tensor, TensorFiles, as_floats

__all__ = ["HEADS", "logits_of", "read_head"]

HEADS = frozenset({"lm_head.weight", "score.weight"})
"""Tensors that no forward pass multiplies by."""


def read_head(
    files: ModelFiles, replaced: dict[str, npt.NDArray[np.generic]], answers: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """The head of a model.

    Parameters
    ----------
    files : ModelFiles
    replaced : dict of str to ndarray
        Tensors that stand in for the files', by bare name, bf16 as uint16.
    answers : tuple of int
        The ids of the tokens for yes and for no, or of one token whose logit is the score.

    Returns
    -------
    ndarray
        (hidden_size,) float64.

    Raises
    ------
    ModelFileError
        No such tensor, or one of another shape: an embedding model, for instance.
    """
    tensors = TensorFiles(files.shards).by_bare_name()
    width = files.config.hidden_size
    classifier = tensors.get(CLASSIFIER)
    if classifier is not None:  # of GGUF: the rows of yes and no
        if classifier.shape != (2, width):
            raise ModelFileError(
                f"{files.name}: cls.output.weight has shape {classifier.shape}, expected {2, width}"
            )
        return _head_of(classifier, "lm_head.weight", replaced, answers)
    config: Any = {"tie_word_embeddings": True}
    if files.places is None:
        config = read_json(files.config_file)
    if "Qwen3ForSequenceClassification" in (config.get("architectures") or ()):
        score = tensors.get("score.weight")
        if score is None or score.shape != (1, width):
            found = "missing" if score is None else f"of shape {score.shape}"
            raise ModelFileError(
                f"{files.config_file}: Qwen3ForSequenceClassification, but score.weight is "
                f"{found}, expected (1, {width}): one score"
            )
        return _head_of(score, "score.weight", replaced, (0,))
    name = "lm_head.weight"  # as in Transformers, a stored head counts, tied or not
    table = tensors.get(name)
    if table is None and config.get("tie_word_embeddings", False):
        name = "embed_tokens.weight"
        table = tensors.get(name)
    if config.get("tie_word_embeddings", False) and "embed_tokens.weight" in replaced:
        raise ModelFileError(
            f"{files.name}: the adapter changes embed_tokens, with which the head is tied, and "
            f"does not say whether the head changes too: merge it with PEFT"
        )
    if table is None:
        raise ModelFileError(
            f"{files.name}: lm_head.weight is missing and tie_word_embeddings is false: an "
            f"embedding model makes no logits; expected a reranker such as Qwen3-Reranker-0.6B"
        )
    if len(table.shape) != 2 or table.shape[1] != width or table.shape[0] <= max(answers):
        raise ModelFileError(
            f"{table.name}: shape {table.shape}, expected {width} columns and rows for the "
            f"tokens {' and '.join(map(str, answers))} that answer yes and no"
        )
    if "lm_head.weight" in replaced:
        name = "lm_head.weight"
    return _head_of(table, name, replaced, answers)


def logits_of(
    rows: npt.NDArray[np.float32], head: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(n,) logit(yes) - logit(no) of pooled rows (n, hidden_size).

    Accumulated row by row in float64, so that a pair's score doesn't depend on its batch.
    """
    logits: npt.NDArray[np.float32] = (rows * head).sum(axis=1).astype(np.float32)
    return logits


def _head_of(
    table: Tensor,
    name: str,
    replaced: dict[str, npt.NDArray[np.generic]],
    ids: tuple[int, ...],
) -> npt.NDArray[np.float64]:
    """The first row, less the second if there are two."""
    stored = replaced.get(name)
    if stored is None:
        ids = (0, 1) if table.name == CLASSIFIER else ids
        rows = table.rows(ids).astype(np.float64)
    else:
        rows = as_floats(stored[list(ids)]).astype(np.float64)
    head: npt.NDArray[np.float64] = rows[0] - rows[1] if len(rows) == 2 else rows[0]
    if not np.isfinite(head).all():
        raise ModelFileError(f"{table.name}: the rows of yes and no hold NaN or infinity")
    return head
