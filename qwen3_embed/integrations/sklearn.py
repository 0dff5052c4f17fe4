"""scikit-learn: a transformer from texts to vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin

from ..embedder import Embedder
from ..encoding.texts import list_texts
from .opening import opened

__all__ = ["Qwen3Vectorizer"]


class Qwen3Vectorizer(TransformerMixin, BaseEstimator):
    """A pipeline step from texts to vectors; it learns nothing from data.

    Parameters
    ----------
    model : str or Embedder
        A name is opened at first use; clones share an open model.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For every text.
    settings : dict, optional
        Keyword arguments of `Embedder`.

    Examples
    --------
    >>> pipeline = make_pipeline(Qwen3Vectorizer(dim=128), LogisticRegression())  # doctest: +SKIP
    """

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

    def fit(self, texts: Iterable[str], labels: Any = None) -> Self:
        """Opens the model."""
        self.embedder_ = opened(Embedder, self.model, self.settings)
        self.n_features_out_ = self.dim or self.embedder_.dim
        return self

    def transform(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """Vectors of the texts: (n, dim) float32, rows of length 1."""
        if not hasattr(self, "embedder_"):
            self.fit(texts)
        items = list_texts(texts)
        return self.embedder_.encode(items, dim=self.dim, instruction=self.instruction)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """qwen3_0, qwen3_1, ..."""
        return np.array([f"qwen3_{i}" for i in range(self.n_features_out_)], object)

    def __sklearn_is_fitted__(self) -> bool:
        return True  # nothing is learnt from texts

    def __sklearn_clone__(self) -> Self:
        # An open model is shared, not copied.
        return type(self)(**self.get_params(deep=False))
