"""GGUF files of type Q8_0, as llama.cpp's converter writes them of Qwen3 models.

The header is read here, strictly and bounded; the engine is given where each tensor lies. The
format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file holds what config.json,
tokenizer.json and the weights hold in a model folder; what it can't hold, such as prompts, is
taken from a folder's small files beside it.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelFileError, ModelNotFoundError

__all__ = ["BLOCK", "BLOCK_BYTES", "CLASSIFIER", "Gguf", "Place", "read_gguf"]

BLOCK = 32  # weights that share a scale
BLOCK_BYTES = 34  # a scale in F16, then the integers
CLASSIFIER = "cls.output.weight"  # a reranker's head: the rows of yes and no

_MAX_HEADER_BYTES = 100 << 20
_MAX_ENTRIES = 1 << 16
_MAX_ITEMS = 1 << 20  # of an array: tokens, merges
_MAX_STRING_BYTES = 1 << 20
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", BLOCK, BLOCK_BYTES), 30: ("BF16", 1, 2)}
_OTHER_TYPES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
    CLASSIFIER: CLASSIFIER,
}
_OF_A_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\.weight")


class Place(NamedTuple):
    """The place of one tensor, as `tensor_places` describes those of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of one file.

    Attributes
    ----------
    path : Path
    metadata : dict
        Numbers, bools, strings and lists of them by key.
    places : dict of str to Place
        The tensors by the names that they have in safetensors files, without "model.", and
        `CLASSIFIER`.
    """

    path: Path
    metadata: dict[str, Any]
    places: dict[str, Place]


def read_gguf(path: Path) -> Gguf:
    """Reads the header of a file and checks that every tensor lies within it.

    Raises
    ------
    ModelNotFoundError
        The file can't be read.
    ModelFileError
        A damaged file, an architecture other than qwen3, or tensors of other types.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise ModelNotFoundError(f"{path} can't be read: {error.strerror}") from error
        raise ModelFileError(f"{path}: empty, or not a file: fetch it again") from error


class _Reader:
    """A position in a mapped file; every length is checked before it is used."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0
        self._end = min(len(data), _MAX_HEADER_BYTES)

    def refuse(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {what}")

    def _damaged(self, what: str) -> ModelFileError:
        return self.refuse(f"{what} at byte {self._at}: fetch the file again")

    def _take(self, n_bytes: int) -> bytes:
        if n_bytes > self._end - self._at:
            raise self._damaged("the header is cut short")
        self._at += n_bytes
        return self._data[self._at - n_bytes : self._at]

    def _integer(self, n_bytes: int, low: int, high: int, what: str) -> int:
        value = int.from_bytes(self._take(n_bytes), "little")
        if not low <= value <= high:
            raise self._damaged(f"{what} is {value}, expected {low} to {high}")
        return value

    def _string(self, what: str) -> str:
        raw = self._take(self._integer(8, 0, _MAX_STRING_BYTES, f"the length of {what}"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"{what} is not UTF-8") from None

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind not in _SCALARS:
            raise self._damaged(f"{key} has the type {kind}, which is unknown here")
        code = _SCALARS[kind]
        raw = self._take(struct.calcsize(code))
        if kind == 7 and raw not in (b"\0", b"\1"):
            raise self._damaged(f"{key} is {raw[0]}, expected 0 or 1")
        return struct.unpack(code, raw)[0]

    def _array(self, key: str) -> list[Any]:
        kind = self._integer(4, 0, 12, f"the type of {key}")
        n = self._integer(8, 0, _MAX_ITEMS, f"the length of {key}")
        if kind == _STRING:
            return [self._string(key) for _ in range(n)]
        if kind not in _SCALARS:
            raise self._damaged(f"{key} is an array of type {kind}, which is unknown here")
        code = _SCALARS[kind][1]
        raw = self._take(n * struct.calcsize("<" + code))
        return list(struct.unpack(f"<{n}{code}", raw))

    def read(self) -> Gguf:
        if self._take(4) != b"GGUF":
            raise self.refuse("not a GGUF file: it begins with other bytes")
        self._integer(4, 2, 3, "the version of GGUF")
        n_tensors = self._integer(8, 0, _MAX_ENTRIES, "the number of tensors")
        n_entries = self._integer(8, 0, _MAX_ENTRIES, "the number of entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._string("a key")
            kind = self._integer(4, 0, 12, f"the type of {key!r}")
            if key in metadata:
                raise self._damaged(f"{key!r} is there twice")
            metadata[key] = self._array(key) if kind == _ARRAY else self._value(kind, key)
        architecture = metadata.get("general.architecture")
        if architecture != "qwen3":
            raise self.refuse(
                f"general.architecture is {architecture!r:.60}, expected 'qwen3': no other is built"
            )
        split = metadata.get("split.count", 1)
        if split not in (0, 1):
            raise self.refuse(f"split.count is {split!r:.60}, expected one file: merge the parts")
        tensors = [self._tensor() for _ in range(n_tensors)]
        return Gguf(self._path, metadata, self._placed(tensors, metadata))

    def _tensor(self) -> tuple[str, Place]:
        """(name, place), the offset still counting from where the data begin."""
        given = self._string("a tensor's name")
        n_dims = self._integer(4, 1, 2, f"the dimensions of {given!r}")
        dims = [self._integer(8, 1, 1 << 40, f"a size of {given!r}") for _ in range(n_dims)]
        kind = self._integer(4, 0, 1 << 16, f"the type of {given!r}")
        offset = int.from_bytes(self._take(8), "little")
        if kind not in _TYPES:
            raise self.refuse(
                f"{given} is {_OTHER_TYPES.get(kind, f'of type {kind}')}, expected Q8_0: of GGUF "
                f"files those of type Q8_0 are built; take that one, or the original model"
            )
        dtype, block, block_bytes = _TYPES[kind]
        found = _OF_A_LAYER.fullmatch(given)
        if found is not None and found[2] in _PARTS:
            name = f"layers.{found[1]}.{_PARTS[found[2]]}.weight"
        elif given in _OTHERS:
            name = _OTHERS[given]
        else:
            raise self.refuse(f"{given!r:.120} is unknown, expected the tensors of a Qwen3 model")
        if dims[0] % block:
            raise self._damaged(f"{given} has {dims[0]} columns, expected a multiple of {block}")
        n_bytes = math.prod(dims) // block * block_bytes
        return name, Place(dtype, tuple(reversed(dims)), offset, n_bytes)

    def _placed(
        self, tensors: list[tuple[str, Place]], metadata: dict[str, Any]
    ) -> dict[str, Place]:
        """The tensors, which follow one another, each aligned, up to the end of the file."""
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise self.refuse(f"general.alignment is {alignment!r:.60}, expected a power of two")
        start = -(-self._at // alignment) * alignment
        end = 0
        places: dict[str, Place] = {}
        for name, place in sorted(tensors, key=lambda tensor: tensor[1].offset):
            if name in places:
                raise self.refuse(f"{name} is there twice: fetch the file again")
            if place.offset != -(-end // alignment) * alignment:
                raise self.refuse(
                    f"{name} begins at {place.offset} of the data, expected after the {end} bytes "
                    f"before it: fetch the file again"
                )
            end = place.offset + place.n_bytes
            places[name] = place._replace(offset=start + place.offset)
        size = len(self._data) - start
        if not end <= size <= end + alignment:
            raise self.refuse(
                f"{size} bytes of data, expected {end} by its header: it may be cut short: fetch "
                f"it again"
            )
        return places
