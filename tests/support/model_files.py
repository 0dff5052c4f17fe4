"""Small model files of chosen bits, and the C programs of the tests that read them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.make_bad_safetensors import file_of

# hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary
SIZES = {"C": 24, "I": 40, "L": 2, "NH": 4, "NKV": 2, "HS": 32, "V": 50}
SHAPES = {"Q": 4 * 32, "KV": 2 * 32, **SIZES}
LAYER = {  # in the order of struct qe_layer
    "input_layernorm": "C",
    "post_attention_layernorm": "C",
    "self_attn.q_norm": "HS",
    "self_attn.k_norm": "HS",
    "self_attn.q_proj": "Q C",
    "self_attn.k_proj": "KV C",
    "self_attn.v_proj": "KV C",
    "self_attn.o_proj": "C Q",
    "mlp.gate_proj": "I C",
    "mlp.up_proj": "I C",
    "mlp.down_proj": "C I",
}
Bits = npt.NDArray[np.uint16 | np.uint32]
Weights = dict[str, tuple[str, Bits]]  # dtype, and the numbers as they are in a file

# Where rounding fp32 to bf16 goes wrong first: ties to both sides, the carry into the
# exponent, subnormals, the largest numbers, infinities, NaNs with low payloads.
HARD_F32 = """
3F808000 3F818000 3F807FFF 3F808001 3FFFFFFF BF808000 BF818000 00000000 80000000 00000001
00008000 00018000 80008000 80018000 007FFFFF 7F7F7FFF 7F7F8000 7F7FFFFF FF7FFFFF 7F800000
FF800000 7F800001 FF800001 7FFFFFFF 7FC00000
"""

# The same for fp16: subnormals, the first normal, the largest, infinities, NaNs.
HARD_F16 = "0000 8000 0001 8001 03FF 83FF 0400 0401 7BFF FBFF 7C00 FC00 7C01 FC01 7FFF FFFF 3C01"


def names(prefix: str = "model.") -> Iterator[tuple[str, list[int]]]:
    """Names and shapes, in the order in which open_model prints the weights."""
    yield f"{prefix}embed_tokens.weight", [SHAPES["V"], SHAPES["C"]]
    yield f"{prefix}norm.weight", [SHAPES["C"]]
    for i in range(SIZES["L"]):
        for name, shape in LAYER.items():
            yield f"{prefix}layers.{i}.{name}.weight", [SHAPES[s] for s in shape.split()]


def random_weights(dtype: str, prefix: str = "model.", seed: int = 1) -> Weights:
    """A whole model of random bits, the hard numbers among them."""
    source = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in names(prefix):
        if dtype == "F32":
            bits: Bits = source.integers(0, 1 << 32, shape, np.uint32)
            hard = HARD_F32
        else:
            bits = source.integers(0, 1 << 16, shape, np.uint16)
            hard = HARD_F16
        first = [int(word, 16) for word in hard.split()][: bits.size]
        bits.reshape(-1)[: len(first)] = first
        weights[name] = (dtype, bits)
    return weights


def small_weights(dtype: str) -> Weights:
    """Finite ones, so that an engine can compute with them."""
    source = np.random.default_rng(5)
    weights: Weights = {}
    for name, shape in names():
        values = source.normal(0, 0.05, shape).astype(np.float32)
        bits = values.view(np.uint32)
        weights[name] = (dtype, bits if dtype == "F32" else (bits >> 16).astype(np.uint16))
    return weights


def write_file(path: Path, weights: Weights, padding: int = 0) -> Path:
    header, data = {}, b""
    for name, (dtype, bits) in weights.items():
        place = [len(data), len(data) + bits.nbytes]
        header[name] = {"dtype": dtype, "shape": bits.shape, "data_offsets": place}
        data += bits.tobytes()
    path.write_bytes(file_of(json.dumps(header) + " " * padding, data))
    return path


def run(program: Path, paths: Sequence[Path]) -> subprocess.CompletedProcess[bytes]:
    sizes = [str(size) for size in SIZES.values()]
    return subprocess.run([program, *sizes, *paths], capture_output=True, check=False)
