"""LangChain: `Embeddings`, and a document compressor that reranks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, PrivateAttr

from ..embedder import Embedder
from ..reranker import Reranker
from .opening import opened

__all__ = ["Qwen3Embeddings", "Qwen3Rerank"]


class Qwen3Embeddings(Embeddings):
    """An `Embedder` as LangChain's `Embeddings`.

    Parameters
    ----------
    model : str or Embedder
        A name, as `Embedder` takes it, or an open model.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For queries; by default the model's own.
    settings : dict, optional
        Keyword arguments of `Embedder`.

    Examples
    --------
    >>> store = FAISS.from_texts(texts, Qwen3Embeddings("mini"))           # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Embedder = "mini",
        *,
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.embedder = opened(Embedder, model, settings)
        self.dim = dim
        self.instruction = instruction

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One list of floats per text."""
        if isinstance(texts, str):
            raise TypeError("texts is str, expected a list of str; for one text: embed_query")
        return cast(
            "list[list[float]]", self.embedder.encode_document(texts, dim=self.dim).tolist()
        )

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, with the instruction."""
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}, expected str")
        row = self.embedder.encode_query(text, dim=self.dim, instruction=self.instruction)
        return cast("list[float]", row.tolist())

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        return await asyncio.to_thread(self.embed_query, text)


class Qwen3Rerank(BaseDocumentCompressor):
    """A `Reranker` as a compressor: keeps the best documents and adds "relevance_score" to each.

    Attributes
    ----------
    model : str or Reranker
    top_n : int, optional
        Documents to keep; by default all, in their new order.
    instruction : str, optional
    settings : dict, optional
        Keyword arguments of `Reranker`.
    """

    model: str | Reranker = "Qwen3-Reranker-0.6B"
    top_n: int | None = None
    instruction: str | None = None
    settings: dict[str, Any] | None = None
    _ranker: Reranker = PrivateAttr()

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def model_post_init(self, context: Any) -> None:
        """Opens the model."""
        self._ranker = opened(Reranker, self.model, self.settings)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Copies of the best documents, best first, with "relevance_score" in the metadata."""
        ranked = self._ranker.rank(
            query,
            [document.page_content for document in documents],
            top_k=self.top_n,
            instruction=self.instruction,
        )
        kept = []
        for entry in ranked:
            document = documents[entry["corpus_id"]]
            metadata = {**document.metadata, "relevance_score": entry["score"]}
            kept.append(document.model_copy(update={"metadata": metadata}))
        return kept
