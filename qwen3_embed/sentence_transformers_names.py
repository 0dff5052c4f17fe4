"""class SentenceTransformersNames: names of sentence-transformers' models that ours answer to.

With them its evaluators, its mining utilities and other projects' wrappers take an `Embedder` or a
`Reranker` as it is. What can't be is an error that says what to do instead.
"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .loading.tokenizer import Tokenizer

__all__ = ["EvaluationMetrics", "SentenceTransformersNames", "chosen_cache_dir"]

# Attributes and methods that we don't have, and what to do instead.
_ALTERNATIVES = {
    "start_multi_process_pool": "one call uses every core; for GPUs open with device='cuda:all'",
    "encode_multi_process": "one call uses every core; for GPUs open with device='cuda:all'",
    "stop_multi_process_pool": "there is no pool to stop",
    "to": "pass device= when the model is opened",
    "half": "weights are bfloat16 already",
    "fit": "the engine has no gradients; train with sentence-transformers, then open the result",
    "train": "the engine has no gradients; train with sentence-transformers, then open the result",
    "save": "the files are in model.folder; copy that",
    "save_pretrained": "the files are in model.folder; copy that",
    "push_to_hub": "the files are in model.folder; upload that",
    "tokenizer_kwargs": "the tokenizer is that of tokenizer.json",
}

# Arguments of its constructors that may only have the values without an effect.
_ARGUMENTS: dict[str, str] = {
    "trust_remote_code": "no code from a model's folder is run: leave it out",
    "truncate_dim": "pass dim= to encode",
    "prompts": "pass prompt= to encode, or instruction=",
    "default_prompt_name": "pass prompt_name= to encode",
    "model_kwargs": "pass dtype= for the weights' type",
    "processor_kwargs": "pass max_length= for the tokenizer's limit",
    "tokenizer_kwargs": "pass max_length= for the tokenizer's limit",
    "config_kwargs": "config.json is read as it is",
    "model_card_data": "leave it out",
    "modules": "pass the folder that holds them",
    "backend": "there is one backend: leave it out",
    "similarity_fn_name": "similarity is the cosine: leave it out",
    "use_auth_token": "pass token=",
    "keep_in_fp32_modules": "norms and sums are fp32 already: leave it out",
    "num_labels": "a reranker has one score: leave it out",
    "activation_fn": "pass activation= to predict",
}
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "backend": ("torch",),
    "similarity_fn_name": ("cosine",),
    "num_labels": (1,),
}


def chosen_cache_dir(arguments: dict[str, Any], cache_dir: Any) -> Any:
    """`cache_dir`, or theirs: `cache_folder`; checks all arguments that ours don't know.

    Raises
    ------
    TypeError
        An unknown one, or one of theirs with a value that would have an effect there.
    """
    for name, value in arguments.items():
        if name == "cache_folder":
            if value is not None and cache_dir is not None:
                raise TypeError("cache_dir and cache_folder are given at once, expected one")
            cache_dir = cache_dir or value
        elif name not in _ARGUMENTS:
            raise TypeError(f"unexpected keyword argument {name!r}")
        elif value not in (None, False, {}, *_WITHOUT_EFFECT.get(name, ())):
            raise TypeError(f"{name}={value!r} is not supported: {_ARGUMENTS[name]}")
    return cache_dir


class EvaluationMetrics:
    """The results that evaluators leave with a model.

    Attributes
    ----------
    metrics : dict
        The latest value of each.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: dict[str, float], epoch: int = 0, step: int = 0
    ) -> None:
        """Called by sentence-transformers' evaluators when they are done."""
        self.metrics.update(metrics)


class SentenceTransformersNames:
    """Base of `Model`: its attributes under the names that sentence-transformers' users know."""

    _max_length: int
    _tokenizer: Tokenizer
    _arguments: dict[str, Any]
    _fingerprints: dict[str | None, str]

    similarity_fn_name = "cosine"
    truncate_dim = None

    @property
    def max_length(self) -> int:
        """Tokens of the longest text, the end token included.

        It can be set, to at most what the model was opened with; calls under way keep theirs.
        """
        return self._max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        opened = self.__dict__.setdefault("_opened_length", self._max_length)
        if type(value) is not int or not 1 <= value <= opened:
            raise ValueError(
                f"max_length={value!r}, expected 1..{opened}, with which the model was opened"
            )
        self._tokenizer = self._tokenizer.with_max_length(value)
        self._max_length = value
        self._fingerprints = {}
        self._arguments["max_length"] = value

    @property
    def max_seq_length(self) -> int:
        """`max_length`."""
        return self._max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.max_length = value

    @property
    def model_card_data(self) -> EvaluationMetrics:
        """The results that evaluators left with this model."""
        found: EvaluationMetrics = self.__dict__.setdefault("_metrics", EvaluationMetrics())
        return found

    def get_embedding_dimension(self) -> int:
        """Floats per full vector: `dim`."""
        dim: int = self.dim
        return dim

    def get_sentence_embedding_dimension(self) -> int:
        """Floats per full vector: `dim`."""
        return self.get_embedding_dimension()

    def tokenize(self, texts: list[str]) -> dict[str, npt.NDArray[np.int64]]:
        """Token ids of n texts, cut at `max_length`.

        Returns
        -------
        dict
            "input_ids" and "attention_mask": (n, longest) int64, padded with 0 on the right.
        """
        batch = self._tokenizer.encode(texts)
        bounds = batch.cu_seqlens.tolist()
        longest = int(np.diff(batch.cu_seqlens).max(initial=0))
        ids = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros_like(ids)
        for i, (start, stop) in enumerate(pairwise(bounds)):
            ids[i, : stop - start] = batch.tokens[start:stop]
            mask[i, : stop - start] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        if name in _ALTERNATIVES:
            raise AttributeError(f"{kind} has no {name!r}: {_ALTERNATIVES[name]}")
        raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses names that mean nothing here; subclasses of others may have their own."""
        is_ours = type(self).__module__.partition(".")[0] == __package__
        if is_ours and not name.startswith("_") and not hasattr(type(self), name):
            near = get_close_matches(name, dir(type(self)), 1)
            guess = f": did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set{guess}")
        super().__setattr__(name, value)
