"""Chroma: an embedding function that a stored collection finds again by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from ..embedder import Embedder

__all__ = ["Qwen3EmbeddingFunction"]


@register_embedding_function
class Qwen3EmbeddingFunction(EmbeddingFunction[Documents]):
    """An `Embedder` as Chroma's embedding function; queries get the model's query prompt.

    Parameters
    ----------
    model : str
        As `Embedder` takes it; stored with the collection.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For queries.
    device : str

    Examples
    --------
    >>> client.create_collection("notes", embedding_function=Qwen3EmbeddingFunction("mini"))
    ... # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "mini",
        dim: int | None = None,
        instruction: str | None = None,
        device: str = "auto",
    ) -> None:
        self._config: dict[str, Any] = {
            "model": model,
            "dim": dim,
            "instruction": instruction,
            "device": device,
        }
        self._embedder = Embedder(model, device=device)

    def __call__(self, input: Documents) -> Embeddings:
        """One vector per document."""
        rows = self._embedder.encode_document(list(input), dim=self._config["dim"])
        return [np.asarray(row) for row in rows]

    def embed_query(self, input: Documents) -> Embeddings:
        """One vector per query."""
        rows = self._embedder.encode_query(
            list(input), dim=self._config["dim"], instruction=self._config["instruction"]
        )
        return [np.asarray(row) for row in rows]

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores it."""
        return "qwen3_embed"

    def default_space(self) -> Space:
        """Unit vectors: cosine."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """All of them order unit vectors alike."""
        return ["cosine", "l2", "ip"]

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Qwen3EmbeddingFunction:
        """The function that `get_config` described."""
        return Qwen3EmbeddingFunction(**config)

    def get_config(self) -> dict[str, Any]:
        """The arguments that open the same model again."""
        return dict(self._config)
