"""Haystack: components that embed documents and queries, and one that reranks.

Each opens its model when its pipeline warms up. They save and load with a pipeline if their model
is a name: `Pipeline.load(file, allowed_modules=["qwen3_embed.*"])`. An open model may be shared by
several components, but can't be saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haystack import Document, component

from ..embedder import Embedder
from ..reranker import Reranker
from .opening import opened

__all__ = ["Qwen3DocumentEmbedder", "Qwen3Ranker", "Qwen3TextEmbedder"]


def _check_documents(documents: Any) -> None:
    """Raises TypeError for texts, which Haystack's embedders and rankers don't take."""
    for i, document in enumerate([documents] if isinstance(documents, str) else documents):
        if not isinstance(document, Document):
            where = "documents" if isinstance(documents, str) else f"documents[{i}]"
            raise TypeError(
                f"{where} is {type(document).__name__}, expected Document; for one text: "
                f"Qwen3TextEmbedder"
            )


class _EmbedderComponent:
    """The base of both embedders: opens the model."""

    def __init__(
        self,
        model: str | Embedder = "mini",
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.dim = dim
        self.instruction = instruction
        self.settings = settings
        self._embedder = opened(Embedder, model, settings) if isinstance(model, Embedder) else None

    def warm_up(self) -> None:
        """Opens the model, once."""
        self._open()

    def _open(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(str(self.model), **(self.settings or {}))
        return self._embedder


@component
class Qwen3TextEmbedder(_EmbedderComponent):
    """The vector of a query.

    Parameters
    ----------
    model : str or Embedder
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        By default the model's own for queries.
    settings : dict, optional
        Keyword arguments of `Embedder`.

    Examples
    --------
    >>> pipeline.add_component("embedder", Qwen3TextEmbedder("mini"))      # doctest: +SKIP
    >>> pipeline.connect("embedder.embedding", "retriever.query_embedding")
    ... # doctest: +SKIP
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """{"embedding": floats}"""
        if not isinstance(text, str):
            raise TypeError(
                f"text is {type(text).__name__}, expected str; for documents: Qwen3DocumentEmbedder"
            )
        row = self._open().encode_query(text, dim=self.dim, instruction=self.instruction)
        return {"embedding": row.tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`; the engine works while the loop goes on."""
        return await asyncio.to_thread(self.run, text)


@component
class Qwen3DocumentEmbedder(_EmbedderComponent):
    """Documents with their vectors.

    Parameters
    ----------
    model : str or Embedder
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        Documents get none, unless told otherwise.
    settings : dict, optional
        Keyword arguments of `Embedder`.
    meta_fields_to_embed : list of str, optional
        Metadata put before a document's text, such as its title, a line each.

    Examples
    --------
    >>> Qwen3DocumentEmbedder("mini").run(documents)["documents"]          # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Embedder = "mini",
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
        meta_fields_to_embed: Sequence[str] | None = None,
    ) -> None:
        # `component` makes the class anew, so that super() without arguments isn't of it.
        _EmbedderComponent.__init__(self, model, dim, instruction, settings)
        self.meta_fields_to_embed = meta_fields_to_embed

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": the same ones with `embedding`}; those given aren't changed."""
        _check_documents(documents)
        texts = [self._text(document) for document in documents]
        rows = self._open().encode_document(texts, dim=self.dim, instruction=self.instruction)
        found = zip(documents, rows.tolist(), strict=True)
        return {"documents": [replace(document, embedding=row) for document, row in found]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`; the engine works while the loop goes on."""
        return await asyncio.to_thread(self.run, documents)

    def _text(self, document: Document) -> str:
        fields = (document.meta.get(name) for name in self.meta_fields_to_embed or ())
        lines = [str(field) for field in fields if field is not None]
        return "\n".join([*lines, document.content or ""])


@component
class Qwen3Ranker:
    """The best documents for a query, best first, with the reranker's scores.

    Parameters
    ----------
    model : str or Reranker
    top_k : int, optional
        Documents to keep; by default all.
    instruction : str, optional
    settings : dict, optional
        Keyword arguments of `Reranker`.
    """

    def __init__(
        self,
        model: str | Reranker = "Qwen3-Reranker-0.6B",
        top_k: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.top_k = top_k
        self.instruction = instruction
        self.settings = settings
        self._ranker = opened(Reranker, model, settings) if isinstance(model, Reranker) else None

    def warm_up(self) -> None:
        """Opens the model, once."""
        self._open()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """{"documents": the best, with `score`}; those given aren't changed."""
        _check_documents(documents)
        ranked = self._open().rank(
            query,
            [document.content or "" for document in documents],
            top_k=self.top_k if top_k is None else top_k,
            instruction=self.instruction,
        )
        best = [replace(documents[entry["corpus_id"]], score=entry["score"]) for entry in ranked]
        return {"documents": best}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """As `run`; the engine works while the loop goes on."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    def _open(self) -> Reranker:
        if self._ranker is None:
            self._ranker = Reranker(str(self.model), **(self.settings or {}))
        return self._ranker
