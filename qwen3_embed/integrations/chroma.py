"""Chroma: an embedding function, registered by name so that stored collections find it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from ..embedder import Embedder
from ..encoding.texts import list_texts
from .opening import opened

__all__ = ["Qwen3EmbeddingFunction"]


@register_embedding_function
class Qwen3EmbeddingFunction(EmbeddingFunction[Documents]):
    """An `Embedder` as Chroma's embedding function; queries get the model's query prompt.

    Parameters
    ----------
    model : str
        A name, as `Embedder` takes it; stored with the collection.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For queries.
    settings : dict, optional
        Keyword arguments of `Embedder`; stored with the collection, so JSON values only.

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
        settings: dict[str, Any] | None = None,
    ) -> None:
        self._config: dict[str, Any] = {
            "model": model,
            "dim": dim,
            "instruction": instruction,
            "settings": settings,
        }
        self._embedder = opened(Embedder, model, settings)

    def __call__(self, input: Documents) -> Embeddings:
        """One vector per document."""
        texts = list_texts(input, "input")
        rows = self._embedder.encode_document(texts, dim=self._config["dim"])
        return [np.asarray(row) for row in rows]

    def embed_query(self, input: Documents) -> Embeddings:
        """One vector per query."""
        rows = self._embedder.encode_query(
            list_texts(input, "input"),
            dim=self._config["dim"],
            instruction=self._config["instruction"],
        )
        return [np.asarray(row) for row in rows]

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores this function."""
        return "qwen3_embed"

    def default_space(self) -> Space:
        """Cosine, since the vectors have length 1."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """All spaces: they rank vectors of length 1 alike."""
        return ["cosine", "l2", "ip"]

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Qwen3EmbeddingFunction:
        """Creates the function that `get_config` described."""
        return Qwen3EmbeddingFunction(**config)

    def get_config(self) -> dict[str, Any]:
        """The arguments that create this function again."""
        return dict(self._config)
