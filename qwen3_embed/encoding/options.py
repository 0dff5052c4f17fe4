"""struct Request: the options of one call to `encode` or its relatives, checked.

The option names of sentence-transformers are accepted beside our own.
"""

from __future__ import annotations

import importlib.util
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt

from ..retrieval.quantizer import Precision, Quantizer, default_quantizer, quantize_binary

__all__ = [
    "CrossEncoderOptions",
    "EncodeOptions",
    "PromptOptions",
    "Request",
    "SentenceTransformersOptions",
    "kind_of_tensors",
    "to_tensor",
]

_SMALLEST_TRAINED_DIM = 32


Tensors = Literal["one", "list"] | None


class PromptOptions(TypedDict, total=False):
    """Options that choose the texts' prefix; at most one is given."""

    instruction: str | None
    prompt: str | None
    prompt_name: str | None


class SentenceTransformersOptions(TypedDict, total=False):
    """Arguments of `SentenceTransformer.encode`; some may only have their default value."""

    batch_size: int
    truncate_dim: int | None
    normalize_embeddings: bool
    convert_to_numpy: bool
    convert_to_tensor: bool
    output_value: Literal["sentence_embedding"]
    device: None
    pool: None
    chunk_size: None


class CrossEncoderOptions(TypedDict, total=False):
    """Arguments of `CrossEncoder.predict` and `rank`; some may only have their default value."""

    prompt_name: str | None
    prompt: None
    convert_to_numpy: bool
    convert_to_tensor: bool
    activation_fn: None
    apply_softmax: Literal[False]
    device: None
    pool: None
    chunk_size: None


class EncodeOptions(PromptOptions, SentenceTransformersOptions, total=False):
    """Every keyword of `Embedder.encode`."""

    dim: int | None
    normalize: bool | None
    precision: Precision | None
    quantizer: Quantizer | None
    show_progress_bar: bool | None
    on_long: Literal["warn", "error"]
    out: npt.NDArray[np.float32] | None


_KNOWN = frozenset(EncodeOptions.__annotations__)
_FROM_SENTENCE_TRANSFORMERS = frozenset(SentenceTransformersOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class Request:
    """The checked options of one call.

    Attributes
    ----------
    dim : int
        Floats per vector.
    normalize : bool
    precision : Precision
    quantizer : Quantizer or None
        Required for int8 and uint8; binary and ubinary need none.
    show_progress_bar : bool or None
    on_long : {"warn", "error"}
    out : ndarray or None
        The caller's array.
    prefix : str
        Put before every text.
    tensors : {"one", "list", None}
        Give one PyTorch tensor, or a list of them; None: NumPy.
    adapter : int
        The weights to use, as `Engine.submit` takes them.
    """

    dim: int
    normalize: bool
    precision: Precision
    quantizer: Quantizer | None
    show_progress_bar: bool | None
    on_long: str
    out: npt.NDArray[np.float32] | None
    prefix: str
    adapter: int
    tensors: Tensors

    @classmethod
    def of(
        cls,
        options: EncodeOptions,
        hidden_size: int,
        stacklevel: int,
        *,
        prefix: str = "",
        adapter: int = 0,
        model_name: str = "",
    ) -> Request:
        """Checks the options of a call; `stacklevel` is the caller's, for the warning.

        `model_name` chooses the quantizer of int8 and uint8 where none is given.

        Raises
        ------
        TypeError
            An unknown keyword, both spellings of one, or a wrong type.
        ValueError
            A value out of range.
        """
        for name in options:
            if name not in _KNOWN:
                raise TypeError(f"unexpected keyword argument {name!r}")
        tensors: Tensors = None
        if not _FROM_SENTENCE_TRANSFORMERS.isdisjoint(options):
            tensors = kind_of_tensors(cast("dict[str, Any]", options))
            options = _own_spelling(options)
        dim = _check_dim(options.get("dim"), hidden_size, stacklevel + 1)
        precision = options.get("precision") or "float32"
        quantizer = options.get("quantizer")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision={precision!r}, expected one of {', '.join(get_args(Precision))}"
            )
        normalize = options.get("normalize")
        if quantizer is not None:
            _check_quantizer(quantizer, precision, dim)
        elif precision in ("int8", "uint8"):
            if normalize is not None and not normalize:
                raise TypeError(
                    f"precision={precision!r} with normalize=False needs quantizer=, fitted on "
                    f"such vectors: the default quantizer is for unit vectors"
                )
            quantizer = default_quantizer(model_name, dim)
        out = options.get("out")
        if out is not None and precision != "float32":
            raise TypeError(
                f"out= needs precision='float32', found {precision!r}: leave one of them out"
            )
        if out is not None and tensors:
            raise TypeError("out= is a NumPy array: leave it or convert_to_tensor out")
        return cls(
            dim=dim,
            normalize=True if normalize is None else bool(normalize),
            precision=precision,
            quantizer=quantizer,
            show_progress_bar=options.get("show_progress_bar"),
            on_long=options.get("on_long", "warn"),
            out=out,
            prefix=prefix,
            adapter=adapter,
            tensors=tensors,
        )

    def in_precision(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Converts the engine's (n, dim) float32 rows to the requested precision.

        With `tensors`, those, whatever the type says.
        """
        vectors: Any = self._quantized(rows)
        if self.tensors:
            vectors = to_tensor(vectors)
        result: Any = list(vectors) if self.tensors == "list" else vectors
        return cast("npt.NDArray[Any]", result)

    def _quantized(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self.precision == "float32":
            return rows
        if self.precision == "float16":
            return rows.astype(np.float16)
        if self.precision == "binary" or self.precision == "ubinary":
            return quantize_binary(rows, self.precision)
        assert self.quantizer is not None  # checked when the request was made
        return self.quantizer.quantize(rows, self.precision)

    def check_out(self, shape: tuple[int, ...]) -> None:
        """Raises unless `out` is a writable C-contiguous float32 array of this shape."""
        out: Any = self.out
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out is {type(out).__name__}, expected a NumPy array")
        if out.dtype != np.float32:
            raise TypeError(f"out has dtype {out.dtype}, expected float32")
        if out.shape != shape:
            raise ValueError(f"out has shape {out.shape}, expected {shape}")
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(
                "out is not C-contiguous and writable: pass an array such as "
                "np.empty((n, dim), np.float32)"
            )


# Arguments of sentence-transformers that may only have their default, and what to do instead.
_DEFAULTS: dict[str, tuple[Any, str]] = {
    "output_value": ("sentence_embedding", "vectors of single tokens are not computed"),
    "device": (None, "pass device= when the model is opened"),
    "pool": (None, "open the model with device='cuda:all' or a list of GPUs"),
    "chunk_size": (None, "leave it out, chunks are cut by tokens"),
    "activation_fn": (None, "pass activation='sigmoid' or None"),
    "apply_softmax": (False, "a pair has one score"),
}


def kind_of_tensors(options: Mapping[str, Any]) -> Tensors:
    """The kind of tensors asked for; refuses arguments that would have no effect here.

    Raises
    ------
    TypeError
        It names the argument, and what to do instead.
    ImportError
        A tensor is asked for and PyTorch can't be imported.
    """
    for name, (default, advice) in _DEFAULTS.items():
        value = options.get(name, default)
        if value != default:
            raise TypeError(f"{name}={value!r} is not supported: {advice}")
    tensors: Tensors = None if options.get("convert_to_numpy", True) else "list"
    if options.get("convert_to_tensor"):
        tensors = "one"
    if tensors and importlib.util.find_spec("torch") is None:
        raise ImportError("tensors need PyTorch: pip install torch, or ask for NumPy arrays")
    return tensors


def to_tensor(array: npt.NDArray[Any]) -> Any:
    """A PyTorch tensor on the CPU that shares the array's memory."""
    import torch

    return torch.from_numpy(array)


def _own_spelling(options: EncodeOptions) -> EncodeOptions:
    own = EncodeOptions(**options)
    for name in ("convert_to_tensor", "convert_to_numpy", *_DEFAULTS):
        own.pop(name, None)  # type: ignore[misc]
    own.pop("batch_size", None)  # texts are packed by tokens, whatever the batch size
    for theirs, ours in (("truncate_dim", "dim"), ("normalize_embeddings", "normalize")):
        value = own.pop(theirs, None)  # type: ignore[misc]
        if value is not None:
            if own.get(ours) is not None:
                raise TypeError(f"{ours} and {theirs} are given at once, expected one of them")
            own[ours] = value  # type: ignore[literal-required]
    return own


def _check_dim(dim: int | None, hidden_size: int, stacklevel: int) -> int:
    if dim is None:
        return hidden_size
    try:
        checked = operator.index(dim)
    except TypeError:
        raise TypeError(f"dim is {type(dim).__name__}, expected int") from None
    if isinstance(dim, bool) or not 1 <= checked <= hidden_size:
        raise ValueError(f"dim={dim}, expected 1..{hidden_size}")
    if checked < _SMALLEST_TRAINED_DIM:
        warnings.warn(
            f"dim={checked} is below {_SMALLEST_TRAINED_DIM}, the smallest that the models were "
            f"trained with",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    return checked


def _check_quantizer(quantizer: Quantizer, precision: str, dim: int) -> None:
    if precision in ("float32", "float16"):
        raise TypeError(
            f"quantizer= is given and precision is {precision!r}, expected 'int8' or 'uint8'"
        )
    if not isinstance(quantizer, Quantizer):
        raise TypeError(
            f"quantizer is {type(quantizer).__name__}, expected a Quantizer: "
            f"Quantizer.fit(model.encode(sample))"
        )
    if quantizer.dim != dim:
        raise ValueError(
            f"the quantizer has dim={quantizer.dim}, and this call has dim={dim}: use "
            f"the same dim for both"
        )
