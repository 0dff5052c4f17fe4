"""LangChain: `Embeddings`, and a document compressor that reranks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, cast

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, PrivateAttr

from ..embedder import Embedder
from ..encoding.options import EncodeOptions
from ..reranker import Reranker
from .opening import opened

__all__ = ["Qwen3Embeddings", "Qwen3Rerank"]


class Qwen3Embeddings(Embeddings):
    """An `Embedder` as LangChain's `Embeddings`.

    Parameters
    ----------
    model : str or Embedder, default "mini"
        A name, as `Embedder` takes it, or an open model.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For queries; by default the model's own.
    settings : dict, optional
        Keyword arguments of `Embedder`.
    model_name, model_kwargs, cache_folder, encode_kwargs, query_encode_kwargs, show_progress
        As in LangChain's `HuggingFaceEmbeddings`: other names of `model` and `settings`, keyword
        arguments of `Embedder.encode` for documents (and for queries, if they have none of their
        own), and a progress bar.

    Raises
    ------
    TypeError
        An argument under both of its names, or a keyword that `Embedder.encode` doesn't have.

    Examples
    --------
    >>> store = FAISS.from_texts(texts, Qwen3Embeddings("mini"))           # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Embedder | None = None,
        *,
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
        model_name: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        cache_folder: str | None = None,
        encode_kwargs: dict[str, Any] | None = None,
        query_encode_kwargs: dict[str, Any] | None = None,
        show_progress: bool = False,
        multi_process: bool = False,
    ) -> None:
        name = _one_of({"model": model, "model_name": model_name})
        opening = dict(_one_of({"settings": settings, "model_kwargs": model_kwargs}) or {})
        if cache_folder is not None:
            opening["cache_folder"] = cache_folder
        if multi_process:
            raise TypeError(
                "multi_process=True is not supported: one call uses every core; for several GPUs "
                "pass settings={'device': 'cuda:all'}"
            )
        self.dim = dim
        self.instruction = instruction
        shown = {"show_progress_bar": True} if show_progress else {}
        own = {"dim": dim} if dim is not None else {}
        documents = encode_kwargs or {}
        queries = query_encode_kwargs or documents
        own_of_queries = own if instruction is None else own | {"instruction": instruction}
        self._for_documents = shown | _merged("encode_kwargs", documents, own)
        self._for_queries = _merged("query_encode_kwargs", queries, own_of_queries)
        self.embedder = opened(Embedder, "mini" if name is None else name, opening or None)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One list of floats per text."""
        if isinstance(texts, str):
            raise TypeError("texts is str, expected a list of str; for one text: embed_query")
        rows = self.embedder.encode_document(texts, **self._for_documents)
        return cast("list[list[float]]", rows.tolist())

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, with the instruction."""
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}, expected str")
        row = self.embedder.encode_query(text, **self._for_queries)
        return cast("list[float]", row.tolist())

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        return await asyncio.to_thread(self.embed_query, text)


def _one_of(names: dict[str, Any]) -> Any:
    """The argument that is given under one of its names."""
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) > 1:
        raise TypeError(f"{' and '.join(given)} are given at once, expected one of them")
    return next(iter(given.values()), None)


def _merged(name: str, keywords: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Embedder.encode`: those of `name`, and our own ones."""
    for keyword in keywords:
        if keyword not in EncodeOptions.__annotations__:
            near = get_close_matches(keyword, EncodeOptions.__annotations__, 1)
            guess = f": did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{name} has {keyword!r}, which encode doesn't know{guess}")
        if keyword in own:
            raise TypeError(f"{keyword} is given twice: as an argument and in {name}")
    return {**keywords, **own}


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
