"""sentence-transformers: a module, so that its evaluators, miners and losses can use the engine.

No gradients: usable as a teacher or frozen encoder, not trainable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from transformers import AutoTokenizer

from ..embedder import Embedder
from .opening import opened

__all__ = ["Qwen3Module", "sentence_transformer"]


class Qwen3Module(InputModule):
    """An `Embedder` as the first and only module of a `SentenceTransformer`.

    Parameters
    ----------
    model : str or Embedder
    dim : int, optional
        Floats per vector.
    settings : dict, optional
        Keyword arguments of `Embedder`.
    """

    def __init__(
        self,
        model: str | Embedder = "mini",
        *,
        dim: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.embedder = opened(Embedder, model, settings)
        self.dim = dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **others: Any
    ) -> dict[str, Any]:
        """Adds the prompt to the texts; `forward` tokenises them."""
        return {"texts": [(prompt or "") + text for text in inputs]}

    def forward(self, features: dict[str, Any], **others: Any) -> dict[str, Any]:
        """Sets features["sentence_embedding"], (n, dim) float32, on the CPU."""
        rows = self.embedder.encode(features["texts"], dim=self.dim, prompt="")
        features["sentence_embedding"] = torch.from_numpy(rows)
        return features

    def get_embedding_dimension(self) -> int:
        """Floats per vector."""
        return self.dim or self.embedder.dim

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest text."""
        return self.embedder.max_length

    @cached_property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The tokenizer of the model's folder, for callers that count tokens or cut texts."""
        folder = str(self.embedder.folder)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Refused: sentence-transformers loads foreign modules only with trust_remote_code."""
        raise TypeError(
            f"a Qwen3Module cannot be saved: its model is at {self.embedder.folder}; create the "
            f"SentenceTransformer in code instead"
        )


def sentence_transformer(
    model: str | Embedder = "mini",
    *,
    dim: int | None = None,
    settings: dict[str, Any] | None = None,
) -> SentenceTransformer:
    """A `SentenceTransformer` that computes with this engine, with the model's own prompts.

    Examples
    --------
    >>> evaluator(sentence_transformer("Qwen3-Embedding-0.6B"))            # doctest: +SKIP
    """
    module = Qwen3Module(model, dim=dim, settings=settings)
    return SentenceTransformer(
        modules=[module], prompts=dict(module.embedder.prompts), device="cpu"
    )
