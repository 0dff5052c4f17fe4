"""Ray Data: a class for `map_batches`; each actor holds one engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ..embedder import Embedder

__all__ = ["Qwen3Encoder"]


class Qwen3Encoder:
    """Adds the vectors of a column of texts to each batch.

    The engine uses the resources that Ray assigned to the actor: with `num_gpus=1` that GPU, which
    is the only one the actor sees, otherwise the CPU with `num_cpus` threads.

    Parameters
    ----------
    model : str
        As `Embedder` takes it; a folder must exist on every machine.
    column : str
        The column of the texts.
    output : str
        The new column, (n, dim) float32.
    dim : int, optional
        Floats per vector.
    instruction : str, optional
        For every text; by default the texts are documents and get none.
    settings : dict, optional
        Keyword arguments of `Embedder`; device and num_threads replace what Ray assigned.

    Examples
    --------
    >>> dataset.map_batches(                                               # doctest: +SKIP
    ...     Qwen3Encoder,
    ...     fn_constructor_kwargs={"model": "Qwen3-Embedding-0.6B", "dim": 512},
    ...     batch_size=2048,
    ...     num_gpus=1,
    ...     compute=ray.data.ActorPoolStrategy(size=8),
    ... )
    """

    def __init__(
        self,
        model: str = "mini",
        *,
        column: str = "text",
        output: str = "embedding",
        dim: int | None = None,
        instruction: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        given = ray.get_runtime_context().get_assigned_resources()
        options = {"device": "cuda:all" if given.get("GPU") else "cpu"} | (settings or {})
        if options["device"] == "cpu":
            options.setdefault("num_threads", max(1, int(given.get("CPU", 1))))
        self.embedder = Embedder(model, **options)
        self.column = column
        self.output = output
        self.dim = dim
        self.instruction = instruction

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Returns the batch with the column of vectors added.

        Parameters
        ----------
        batch : dict of ndarray
            Columns by name, n rows each.
        """
        texts = np.asarray(batch[self.column]).tolist()
        if self.instruction is None:
            rows = self.embedder.encode_document(texts, dim=self.dim)
        else:
            rows = self.embedder.encode(texts, dim=self.dim, instruction=self.instruction)
        return batch | {self.output: rows}
