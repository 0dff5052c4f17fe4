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
    """Texts to vectors, as a step of a pipeline; there is nothing to fit.

    Parameters
    ----------
    model : str or Embedder
        Opened by the first use, and not copied with a clone's or pickle's parameters.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For every text.
    device : str

    Examples
    --------
    >>> pipeline = make_pipeline(Qwen3Vectorizer(dim=128), LogisticRegression())  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Embedder = "mini",
        dim: int | None = None,
        instruction: str | None = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.dim = dim
        self.instruction = instruction
        self.device = device

    def fit(self, texts: Iterable[str], labels: Any = None) -> Self:
        """Opens the model."""
        settings = {} if self.device == "auto" else {"device": self.device}
        self.embedder_ = opened(Embedder, self.model, settings)
        self.n_features_out_ = self.dim or self.embedder_.dim
        return self

    def transform(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """(n, dim) float32, a unit row for each text."""
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
