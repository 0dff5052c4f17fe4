"""Spark: a function of a column of texts, with one engine in each of its Python workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark import TaskContext
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql.types import ArrayType, FloatType

from ..embedder import Embedder

__all__ = ["embedding_udf"]


def _given_to_task() -> dict[str, Any]:
    """The GPUs that Spark assigned to the running task, otherwise one thread per assigned CPU."""
    task = TaskContext.get()
    if task is None:
        return {}
    if gpu := task.resources().get("gpu"):
        return {"device": [f"cuda:{address}" for address in gpu.addresses]}
    return {"device": "cpu", "num_threads": task.cpus()}


def embedding_udf(
    model: str = "mini",
    *,
    dim: int | None = None,
    instruction: str | None = None,
    batch_size: int = 2048,
    settings: dict[str, Any] | None = None,
) -> Any:
    """A pandas UDF from texts to arrays of floats.

    Each Python worker opens the model for its first task and keeps it for later ones.

    Parameters
    ----------
    model : str
        As `Embedder` takes it; a folder must exist on every machine.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For every text; by default the texts are documents and get none.
    batch_size : int
        Texts per call of the engine, which packs them by tokens.
    settings : dict, optional
        Keyword arguments of `Embedder`; device and num_threads replace what Spark assigned.

    Returns
    -------
    callable
        Takes one column of str without nulls, returns array<float>.

    Examples
    --------
    >>> embed = embedding_udf("Qwen3-Embedding-0.6B", dim=512)             # doctest: +SKIP
    >>> table.withColumn("embedding", embed("text"))                       # doctest: +SKIP
    """

    def open_model() -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
        embedder = Embedder(model, **(_given_to_task() | (settings or {})))

        def encode(texts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            if instruction is None:
                return embedder.encode_document(texts.tolist(), dim=dim)
            return embedder.encode(texts.tolist(), dim=dim, instruction=instruction)

        return encode

    return predict_batch_udf(open_model, return_type=ArrayType(FloatType()), batch_size=batch_size)
