"""MTEB: models as its encoders and cross-encoders.

Queries get the instruction of their task, documents none, as the authors' evaluation has it: by the
task's name from `INSTRUCTIONS`, else what MTEB says about the task.
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
    model : Embedder
    dim : int, optional
        Floats per vector.

    Examples
    --------
    >>> mteb.evaluate(Qwen3BiEncoder(Embedder("mini")), tasks)             # doctest: +SKIP
    """

    def __init__(self, model: Embedder, dim: int | None = None) -> None:
        self.model = model
        self.dim = dim
        self.mteb_model_meta = _meta(model, is_cross_encoder=False)

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
        """(n, dim) float32, in the order of the inputs."""
        texts = _texts(inputs)
        if prompt_type == PromptType.document:
            return self.model.encode_document(texts, dim=self.dim)
        instruction = _instruction(task_metadata, prompt_type)
        return self.model.encode(texts, dim=self.dim, instruction=instruction)


class Qwen3CrossEncoder:
    """A `Reranker` for `mteb.evaluate`.

    Parameters
    ----------
    model : Reranker
    """

    def __init__(self, model: Reranker) -> None:
        self.model = model
        self.mteb_model_meta = _meta(model, is_cross_encoder=True)

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
        """(n,) float32: a score for each query and its document."""
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        instruction = _instruction(task_metadata, PromptType.query)
        return np.atleast_1d(self.model.predict(pairs, instruction=instruction))
