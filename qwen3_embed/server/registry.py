"""class Registry: the models that a server has, by the names that requests use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..embedder import Embedder
from ..reranker import Reranker
from ..retrieval.quantizer import Quantizer
from .problems import Problem

__all__ = ["Registry"]

_QUERY_SUFFIX = "-query"


@dataclass(slots=True)
class Registry:
    """The models of a server by the names that requests use.

    Attributes
    ----------
    embedders : dict
        Name to model, in the order of the command line: TEI's routes use the first.
    rerankers : dict
    aliases : dict
        Other names for names.
    quantizer : Quantizer or None
        Makes the int8 and uint8 codes of all embedders; None: each model's own does.
    """

    embedders: dict[str, Embedder] = field(default_factory=dict)
    rerankers: dict[str, Reranker] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    quantizer: Quantizer | None = None

    def names(self) -> list[str]:
        """Every name that a request may use."""
        queries = [name + _QUERY_SUFFIX for name in self.embedders]
        return [*self.embedders, *queries, *self.rerankers, *self.aliases]

    def embedder(self, name: str) -> tuple[str, Embedder, bool]:
        """The model's own name, the model, and whether the name asks for queries."""
        name = self.aliases.get(name, name)
        if name in self.embedders:
            return name, self.embedders[name], False
        base = name.removesuffix(_QUERY_SUFFIX)
        base = self.aliases.get(base, base)
        if base in self.embedders:
            return base, self.embedders[base], name.endswith(_QUERY_SUFFIX)
        raise self._unknown(self.embedders)

    def reranker(self, name: str | None) -> tuple[str, Reranker]:
        """The model's own name and the model; without a name the first."""
        if name is None and self.rerankers:
            return next(iter(self.rerankers.items()))
        name = self.aliases.get(name or "", name or "")
        if name in self.rerankers:
            return name, self.rerankers[name]
        raise self._unknown(self.rerankers)

    def _unknown(self, models: dict[str, Any]) -> Problem:
        known = ", ".join(map(repr, models)) or "none"
        return Problem(
            404,
            f"no such model here for this route; there is: {known}",
            param="model",
            code="model_not_found",
        )
