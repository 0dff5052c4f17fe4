"""class Registry: the models that a server has, by the names that requests use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..embedder import Embedder
from ..reranker import Reranker
from ..retrieval.quantizer import Quantizer
from .problems import Problem

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Registry", "with_adapter"]

_QUERY_SUFFIX = "-query"


@dataclass(slots=True)
class Registry:
    """The models of a server by the names that requests use.

    Attributes
    ----------
    embedders : dict
        Name to model, in the order of the command line: TEI's routes use the first.
    adapters : dict
        "NAME:ADAPTER" to the embedder NAME with that adapter in use.
    rerankers : dict
    aliases : dict
        Other names for names.
    quantizer : Quantizer or None
        Makes the int8 and uint8 codes of all embedders; None: each model's own does.
    """

    embedders: dict[str, Embedder] = field(default_factory=dict)
    adapters: dict[str, Embedder] = field(default_factory=dict)
    rerankers: dict[str, Reranker] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    quantizer: Quantizer | None = None

    def names(self) -> list[str]:
        """Every name that a request may use."""
        embedders = [*self.embedders, *self.adapters]
        queries = [name + _QUERY_SUFFIX for name in embedders]
        return [*embedders, *queries, *self.rerankers, *self.aliases]

    def opened(self) -> Iterator[tuple[str, Model]]:
        """The name and model of every engine."""
        yield from self.embedders.items()
        yield from self.rerankers.items()

    def embedder_names(self) -> list[str]:
        """Every name of an embedding model."""
        return [name for name in self.names() if self.aliases.get(name, name) not in self.rerankers]

    def embedder(self, name: str | None) -> tuple[str, Embedder, bool]:
        """The model's own name, the model, and whether the name asks for queries.

        Without a name it is the first model.
        """
        if name is None:
            name = next(iter(self.embedders), "")
        asked = name
        name = self.aliases.get(name, name)
        found = self.embedders.get(name) or self.adapters.get(name)
        if found is not None:
            return name, found, False
        base = name.removesuffix(_QUERY_SUFFIX)
        base = self.aliases.get(base, base)
        found = self.embedders.get(base) or self.adapters.get(base)
        if found is not None:
            return base, found, name.endswith(_QUERY_SUFFIX)
        raise self._unknown(asked, "an embedding model", self.embedder_names())

    def reranker(self, name: str | None) -> tuple[str, Reranker]:
        """The model's own name and the model; without a name the first."""
        asked = next(iter(self.rerankers), "") if name is None else name
        name = self.aliases.get(asked, asked)
        if name in self.rerankers:
            return name, self.rerankers[name]
        embedders = self.embedder_names()
        raise self._unknown(
            asked, "a reranker", [name for name in self.names() if name not in embedders]
        )

    def unknown(self, asked: str) -> Problem:
        """No model of this name, on a route for all kinds."""
        return self._unknown(asked, "a model", self.names())

    def _unknown(self, asked: str, kind: str, known: list[str]) -> Problem:
        other = " (it is of another kind)" if asked in self.names() else ""
        return Problem(
            404,
            f"{asked!r} is not the name of {kind} here{other}; there is: "
            f"{', '.join(map(repr, known)) or 'none'}",
            param="model",
            code="model_not_found",
        )


def with_adapter(model: Embedder, adapter: str) -> Embedder:
    """A second Embedder over the same engine, with one of its adapters in use.

    It shares everything with the model, which stays the one to close.
    """
    view = object.__new__(type(model))
    vars(view).update(vars(model))
    view.set_adapter(adapter)
    return view
