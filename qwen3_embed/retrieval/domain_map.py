"""class DomainMap: one linear map after the model, fitted on the texts of a domain.

It is kept only if it was measured to help on pairs of queries and documents.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from ..loading.tensors import TensorFiles, write_tensors
from .domain_gain import measure
from .whitening import N_COMPONENTS, FixedMatrix, Moments, Rows, apply_matrix

__all__ = ["DomainMap", "fit_domain", "open_projection"]

_logger = logging.getLogger("qwen3_embed")

_FORMAT = "1"
_MAX_HEADER_BYTES = 1 << 20
_MAX_PAIRS = 2000  # kept to measure the map
_TEXTS_PER_CALL = 4096

Pair = tuple[str, str]


class _Encoder(Protocol):
    """The part of an Embedder that is needed here; it imports this module."""

    @property
    def dim(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def projection(self) -> DomainMap | None: ...
    def encode_query(self, texts: list[str], /) -> npt.NDArray[Any]: ...
    def encode_document(self, texts: list[str], /) -> npt.NDArray[Any]: ...


def fit_domain(
    model: _Encoder,
    examples: Iterable[str] | Iterable[Pair],
    *,
    held_out: Sequence[Pair] | None = None,
    power: float = 0.25,
) -> DomainMap:
    """Fits a map on texts of a domain, or on pairs, without training.

    It is kept if nDCG@10 gains beyond the 99 % interval: on `held_out`, or, with pairs as
    examples, on the first 2,000 of them, each measured with a map that was fitted without its
    fifth. Texts alone can't judge a map, so without `held_out` it declines: queries made of the
    texts gained 1 to 3 points where people's queries lost.

    Parameters
    ----------
    model : Embedder
        Without a projection.
    examples : iterable of str, or of (str, str)
        Texts like those that will be embedded, queries and documents alike; or pairs of a query
        and its document. A few hundred suffice.
    held_out : sequence of (str, str), optional
        Pairs of a query and its document, at least 20, better 200.
    power : float
        Strength of the whitening, above 0 and at most 1.

    Returns
    -------
    DomainMap
        `print(domain)` says what was measured; `is_kept` whether it changes vectors.

    Raises
    ------
    TypeError
        Examples that are neither all texts nor all pairs.
    ValueError
        No examples, a power out of range, or a model that has a projection.

    Examples
    --------
    >>> domain = fit_domain(model, texts, held_out=pairs)                  # doctest: +SKIP
    >>> domain.save("legal.safetensors")                                   # doctest: +SKIP
    >>> Embedder("mini", projection="legal.safetensors")                   # doctest: +SKIP
    """
    if not 0 < power <= 1:
        raise ValueError(f"power={power!r}, expected a number above 0 and at most 1")
    _check_plain(model)
    queries = documents = np.empty((0, model.dim), np.float32)
    if held_out is not None:
        queries, documents = _encode_pairs(model, [_checked_pair(pair) for pair in held_out])
    domain = DomainMap(
        model.fingerprint,
        power,
        Moments.zero(model.dim),
        queries,
        documents,
        held_out=held_out is not None,
    )
    domain.update(model, examples)
    return domain


class DomainMap:
    """A map for the vectors of one model, made by `fit_domain` or read from a file.

    Attributes
    ----------
    fingerprint : str
        Of the model that it was fitted for; it fits no other.
    dim : int
        The model's.
    power : float
    moments : Moments
        Of the texts seen so far.
    queries, documents : ndarray
        (n, dim) float32: vectors of the pairs that the map is measured on.
    held_out : bool
        True if these pairs take no part in the fit; otherwise each is measured with a map that
        was fitted without its fold.
    matrix : ndarray or None
        (dim, dim) float32, read-only; None if it was not measured to help.
    components : ndarray or None
        (dim, 63) float32: the map onto principal components for dims below 64; None if they
        were not measured to help.
    report : str
        What was measured, in sentences.
    """

    def __init__(
        self,
        fingerprint: str,
        power: float,
        moments: Moments,
        queries: Rows,
        documents: Rows,
        *,
        held_out: bool,
        matrix: npt.ArrayLike | None = None,
        components: npt.ArrayLike | None = None,
        report: str = "",
    ) -> None:
        self.fingerprint = fingerprint
        self.dim = len(moments.outer)
        self.power = power
        self.moments = moments
        self.queries = queries
        self.documents = documents
        self.held_out = held_out
        self._keep(matrix, components)
        self.report = report

    @property
    def is_kept(self) -> bool:
        """True if it changes any vector."""
        return self.matrix is not None or self.components is not None

    def __str__(self) -> str:
        return self.report

    def __repr__(self) -> str:
        kept = [name for name in ("matrix", "components") if getattr(self, name) is not None]
        return (
            f"DomainMap(dim={self.dim}, power={self.power:g}, n_texts={self.moments.n_texts}, "
            f"kept={' and '.join(kept) or 'nothing'})"
        )

    def update(self, model: _Encoder, examples: Iterable[str] | Iterable[Pair]) -> None:
        """Adds examples in constant memory, fits the matrices again, and measures them again.

        The result is that of one fit on all examples.

        Parameters
        ----------
        model : Embedder
            The one it was fitted for, without a projection.
        examples : iterable of str, or of (str, str)
            As in `fit_domain`.

        Raises
        ------
        TypeError, ValueError
            As `fit_domain`; another model.
        """
        _check_plain(model)
        self.check_model(model.fingerprint, model.name)
        n_before = self.moments.n_texts
        source: Iterator[Any] = iter(examples)
        first = next(source, None)
        source = iter(()) if first is None else chain([first], source)
        if isinstance(first, str):
            while texts := [_checked_text(text) for text in islice(source, _TEXTS_PER_CALL)]:
                self.moments.add_texts(model.encode_document(texts))
        else:
            while pairs := [_checked_pair(pair) for pair in islice(source, _TEXTS_PER_CALL)]:
                self._add_pairs(*_encode_pairs(model, pairs))
        if self.moments.n_texts == n_before:
            raise ValueError("no examples, expected texts, or pairs of a query and its document")
        found = measure(
            self.moments, self.queries, self.documents, self.power, held_out=self.held_out
        )
        self._keep(found.matrix, found.components)
        self.report = found.report

    def _add_pairs(self, queries: Rows, documents: Rows) -> None:
        self.moments.add_pairs(queries, documents)
        room = 0 if self.held_out else _MAX_PAIRS - len(self.queries)
        self.queries = np.concatenate([self.queries, queries[:room]])
        self.documents = np.concatenate([self.documents, documents[:room]])

    def check_model(self, fingerprint: str, name: str) -> None:
        """Raises ValueError unless the map was fitted for the model of this fingerprint."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"the domain map was fitted for a model with fingerprint "
                f"{self.fingerprint[:12]}..., and {name} with these settings has "
                f"{fingerprint[:12]}...: fit it again for this model, dtype, max_length and adapter"
            )

    def apply(self, rows: npt.ArrayLike, dim: int | None = None, *, normalize: bool = True) -> Rows:
        """Maps vectors that the model made without the map, such as stored ones.

        The result is that of embedding the texts again with `Embedder(..., projection=self)`.

        Parameters
        ----------
        rows : array_like
            (n, self.dim) or (self.dim,) float: full vectors, not cut.
        dim : int, optional
            Dimensions to keep, 1..self.dim.
        normalize : bool
            L2-normalise the result.

        Returns
        -------
        ndarray
            (n, dim) or (dim,) float32.

        Raises
        ------
        ValueError
            Another shape or dim.
        TypeError
            Codes instead of floats.

        Examples
        --------
        >>> stored = np.load("stored.npy")                                 # doctest: +SKIP
        >>> mapped = DomainMap.load("legal.safetensors").apply(stored)     # doctest: +SKIP
        """
        given = np.asarray(rows)
        if given.dtype.kind != "f":
            raise TypeError(f"rows has dtype {given.dtype}, expected a float dtype")
        if given.ndim not in (1, 2) or given.shape[-1] != self.dim:
            raise ValueError(
                f"rows has shape {given.shape}, expected (n, {self.dim}) or ({self.dim},): a map "
                f"takes full vectors"
            )
        kept = self.dim if dim is None else dim
        if type(kept) is not int or not 1 <= kept <= self.dim:
            raise ValueError(f"dim={dim!r}, expected 1..{self.dim}")
        wide = np.ascontiguousarray(np.atleast_2d(given), np.float32)
        mapped = apply_matrix(wide, self.matrix_for(kept), kept, normalize=normalize)
        return mapped if given.ndim == 2 else mapped[0]

    def matrix_for(self, dim: int) -> FixedMatrix | None:
        """The matrix that makes vectors of `dim`, (self.dim, at least dim); None: identity."""
        if dim <= N_COMPONENTS and self.components is not None:
            return self._fixed_components
        return self._fixed_matrix

    def _keep(self, matrix: npt.ArrayLike | None, components: npt.ArrayLike | None) -> None:
        self.matrix = _read_only(matrix)
        self.components = _read_only(components)
        self._fixed_matrix = None if self.matrix is None else FixedMatrix.of(self.matrix)
        self._fixed_components = (
            None if self.components is None else FixedMatrix.of(self.components)
        )

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of what changes vectors; equal for equal maps."""
        digest = hashlib.sha256(b"fixed point")  # how it is applied
        for matrix in (self.matrix, self.components):
            digest.update(b"none" if matrix is None else matrix.tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, with what `update` needs.

        It holds vectors of the pairs that the map is measured on, but no text.

        Parameters
        ----------
        path : path-like
            The file, replaced in one step if it exists.
        """
        moments = self.moments
        tensors: dict[str, npt.NDArray[Any]] = {
            "outer": moments.outer / max(1, moments.n_texts),
            "within": moments.within / max(1, moments.n_pairs),
            "queries": self.queries,
            "documents": self.documents,
        }
        for name in ("matrix", "components"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        metadata = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "power": repr(self.power),
            "n_texts": str(moments.n_texts),
            "n_pairs": str(moments.n_pairs),
            "held_out": str(int(self.held_out)),
            "report": self.report,
        }
        layout = {name: ("F32", tensor.shape) for name, tensor in tensors.items()}
        values = (tensor.astype(np.float32) for tensor in tensors.values())
        write_tensors(Path(path), layout, values, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DomainMap:
        """Reads a file that `save` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        DomainMap

        Raises
        ------
        ModelFileError
            A damaged file, or no domain map.
        """
        name = os.fspath(path)
        arrays = {tensor.name: tensor.floats() for tensor in TensorFiles([Path(path)])}
        try:
            told = _metadata(Path(path))
            n_texts, n_pairs = int(told["n_texts"]), int(told["n_pairs"])
            power = float(told["power"])
            if told["format"] != _FORMAT or not 0 < power <= 1 or min(n_texts, n_pairs) < 0:
                raise ValueError("metadata of another format")
            _check_shapes(arrays)
            return cls(
                told["fingerprint"],
                power,
                Moments(
                    arrays["outer"] * np.float64(n_texts),
                    n_texts,
                    arrays["within"] * np.float64(n_pairs),
                    n_pairs,
                ),
                arrays["queries"],
                arrays["documents"],
                held_out=told["held_out"] == "1",
                matrix=arrays.get("matrix"),
                components=arrays.get("components"),
                report=told["report"],
            )
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"{name}: not a domain map ({error})") from None


def _read_only(matrix: npt.ArrayLike | None) -> Rows | None:
    if matrix is None:
        return None
    own = np.array(matrix, np.float32)
    own.setflags(write=False)
    return own


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose header has been checked already."""
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {n_bytes} bytes, expected at most {_MAX_HEADER_BYTES}")
        found = json.loads(file.read(n_bytes)).get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()}


def _check_shapes(arrays: dict[str, Rows]) -> None:
    dim = arrays["outer"].shape[0] if arrays["outer"].ndim == 2 else 0
    n_pairs = arrays["queries"].shape[0] if arrays["queries"].ndim == 2 else 0
    expected = {
        "outer": (dim, dim),
        "within": (dim, dim),
        "queries": (n_pairs, dim),
        "documents": (n_pairs, dim),
        "matrix": (dim, dim),
        "components": (dim, min(dim, N_COMPONENTS)),
    }
    for name, array in arrays.items():
        if name not in expected or array.shape != expected[name] or dim == 0:
            raise ValueError(f"{name} has shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds a value that is not finite")


def open_projection(
    projection: str | os.PathLike[str] | DomainMap, fingerprint: str, name: str
) -> DomainMap:
    """The map for a model of this fingerprint; a map that declined is logged, and changes nothing.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As `DomainMap.load`.
    ValueError
        A map of another model.
    """
    domain = projection if isinstance(projection, DomainMap) else DomainMap.load(projection)
    domain.check_model(fingerprint, name)
    if not domain.is_kept:
        _logger.warning("the domain map leaves vectors as they are: %s", domain.report)
    return domain


def _check_plain(model: _Encoder) -> None:
    if model.projection is not None:
        raise ValueError("the model has a projection: fit a map on a model without one")


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"an example is {type(text).__name__}, expected str like the first")
    return text


def _checked_pair(pair: Any) -> Pair:
    if not (isinstance(pair, tuple | list) and len(pair) == 2) or not all(
        isinstance(text, str) for text in pair
    ):
        raise TypeError(f"a pair is {pair!r:.80}, expected (query, document)")
    return pair[0], pair[1]


def _encode_pairs(model: _Encoder, pairs: list[Pair]) -> tuple[Rows, Rows]:
    queries = model.encode_query([query for query, _ in pairs])
    return queries, model.encode_document([document for _, document in pairs])
