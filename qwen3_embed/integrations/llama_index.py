"""LlamaIndex: an embedding model, and a node postprocessor that reranks."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from ..embedder import Embedder
from ..reranker import Reranker
from .opening import opened

__all__ = ["Qwen3Embedding", "Qwen3Rerank"]

_BATCH = 2048  # LlamaIndex's maximum; the engine packs texts by tokens


class Qwen3Embedding(BaseEmbedding):
    """An `Embedder` as LlamaIndex's embedding.

    Parameters
    ----------
    model : str or Embedder
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For queries; by default the model's own.
    settings : dict, optional
        Keyword arguments of `Embedder`.
    **others
        Keyword arguments of `BaseEmbedding`.

    Examples
    --------
    >>> Settings.embed_model = Qwen3Embedding("mini")                      # doctest: +SKIP
    """

    dim: int | None = Field(default=None, description="Floats per vector.")
    instruction: str | None = Field(default=None, description="For queries.")
    _embedder: Embedder = PrivateAttr()

    def __init__(
        self,
        model: str | Embedder = "mini",
        *,
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        embedder = opened(Embedder, model, settings)
        base: dict[str, Any] = {"embed_batch_size": _BATCH, "model_name": embedder.name} | others
        super().__init__(dim=dim, instruction=instruction, **base)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "Qwen3Embedding"

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **others: Any
    ) -> list[list[float]]:
        """One list of floats per text."""
        if isinstance(texts, str):
            raise TypeError("texts is str, expected list of str; for one text: get_text_embedding")
        return super().get_text_embedding_batch(texts, show_progress, **others)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows = self._embedder.encode_document(texts, dim=self.dim)
        return cast("list[list[float]]", rows.tolist())

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        if not isinstance(query, str):
            raise TypeError(f"query is {type(query).__name__}, expected str")
        row = self._embedder.encode_query(query, dim=self.dim, instruction=self.instruction)
        return cast("list[float]", row.tolist())

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class Qwen3Rerank(BaseNodePostprocessor):
    """A `Reranker` as a postprocessor: keeps the best nodes and sets their scores.

    Parameters
    ----------
    model : str or Reranker
    top_n : int, optional
        Nodes to keep; by default all.
    instruction : str, optional
    settings : dict, optional
        Keyword arguments of `Reranker`.
    """

    top_n: int | None = Field(default=None, description="Nodes to keep.")
    instruction: str | None = Field(default=None, description="What makes a node relevant.")
    _ranker: Reranker = PrivateAttr()

    def __init__(
        self,
        model: str | Reranker = "Qwen3-Reranker-0.6B",
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(top_n=top_n, instruction=instruction)
        self._ranker = opened(Reranker, model, settings)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "Qwen3Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("Qwen3Rerank needs the query: pass query_bundle or query_str")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranked = self._ranker.rank(
            query_bundle.query_str, texts, top_k=self.top_n, instruction=self.instruction
        )
        return [
            NodeWithScore(node=nodes[entry["corpus_id"]].node, score=entry["score"])
            for entry in ranked
        ]
