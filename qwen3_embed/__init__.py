"""Text to vectors with Qwen3-Embedding, in C, without PyTorch.

>>> from qwen3_embed import Embedder                                       # doctest: +SKIP
>>> model = Embedder("Qwen3-Embedding-0.6B")                               # doctest: +SKIP
>>> vectors = model.encode(["The capital of China is Beijing."], dim=512)  # doctest: +SKIP

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from .version import __version__

TYPE_CHECKING = False  # importing typing would take longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from .cache import VectorCache
    from .embedder import Embedder
    from .errors import (
        DeviceError,
        DeviceMemoryError,
        InputTooLongError,
        ModelFileError,
        ModelNotFoundError,
        NonFiniteError,
        QwenEmbedError,
        TruncationWarning,
    )
    from .reranker import Reranker
    from .retrieval.domain_map import DomainMap, fit_domain
    from .retrieval.quantizer import Quantizer
    from .retrieval.staged_search import staged_search
    from .templates import INSTRUCTIONS

__all__ = [
    "INSTRUCTIONS",
    "DeviceError",
    "DeviceMemoryError",
    "DomainMap",
    "Embedder",
    "InputTooLongError",
    "ModelFileError",
    "ModelNotFoundError",
    "NonFiniteError",
    "Quantizer",
    "QwenEmbedError",
    "Reranker",
    "TruncationWarning",
    "VectorCache",
    "__version__",
    "fit_domain",
    "staged_search",
]

_HOMES = {
    "DomainMap": "retrieval.domain_map",
    "Embedder": "embedder",
    "INSTRUCTIONS": "templates",
    "Quantizer": "retrieval.quantizer",
    "Reranker": "reranker",
    "VectorCache": "cache",
    "fit_domain": "retrieval.domain_map",
    "staged_search": "retrieval.staged_search",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
