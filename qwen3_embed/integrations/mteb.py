"""MTEB: an encoder and a cross-encoder for `mteb.evaluate`.

As in the authors' evaluation, queries get the instruction of their task and documents none. The
instruction is found by the task's name in `INSTRUCTIONS`; otherwise it is MTEB's own prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from ..embedder import Embedder
from ..reranker import Reranker
from ..templates import DEFAULT_INSTRUCTION, INSTRUCTIONS
from .opening import opened

__all__ = ["Qwen3BiEncoder", "Qwen3CrossEncoder"]


def _instruction(task: Any, prompt_type: PromptType | None) -> str:
    if task.name in INSTRUCTIONS:
        return INSTRUCTIONS[task.name]
    prompt = task.prompt
    if isinstance(prompt, dict):
        prompt = prompt.get(prompt_type.value if prompt_type else "query")
    return prompt or DEFAULT_INSTRUCTION


def _texts(batches: Any) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _meta(model: Embedder | Reranker, is_cross_encoder: bool) -> ModelMeta:
    name = model.name if model.name.count("/") == 1 else f"local/{model.folder.name}"
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": model.revision or model.fingerprint[:40],
            "max_tokens": model.max_length,
            "embed_dim": model.dim,
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": True,
            "model_type": ["cross-encoder" if is_cross_encoder else "dense"],
        }
    )


class Qwen3BiEncoder(AbsEncoder):
    """An `Embedder` for `mteb.evaluate`.

    Parameters
    ----------
    model : str or Embedder
    dim : int, optional
        Floats per vector.
    settings : dict, optional
        Keyword arguments of `Embedder`.

    Examples
    --------
    >>> mteb.evaluate(Qwen3BiEncoder("mini"), tasks)                       # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Embedder = "mini",
        *,
        dim: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = opened(Embedder, model, settings)
        self.dim = dim
        self.mteb_model_meta = _meta(self.model, is_cross_encoder=False)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **others: Any,
    ) -> npt.NDArray[np.float32]:
        """Vectors of the inputs, in order: (n, dim) float32."""
        texts = _texts(inputs)
        if prompt_type == PromptType.document:
            return self.model.encode_document(texts, dim=self.dim)
        instruction = _instruction(task_metadata, prompt_type)
        return self.model.encode(texts, dim=self.dim, instruction=instruction)


class Qwen3CrossEncoder:
    """A `Reranker` for `mteb.evaluate`.

    Parameters
    ----------
    model : str or Reranker
    settings : dict, optional
        Keyword arguments of `Reranker`.
    """

    def __init__(
        self,
        model: str | Reranker = "Qwen3-Reranker-0.6B",
        *,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = opened(Reranker, model, settings)
        self.mteb_model_meta = _meta(self.model, is_cross_encoder=True)

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **others: Any,
    ) -> npt.NDArray[np.float32]:
        """Scores of each query with its document: (n,) float32."""
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        instruction = _instruction(task_metadata, PromptType.query)
        return np.atleast_1d(self.model.predict(pairs, instruction=instruction))
