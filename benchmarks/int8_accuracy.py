"""The accuracy of int8: mean 1 - cos to fp32, of the engine and of a simulation in NumPy.

    python -m benchmarks.int8_accuracy --csv

Random weights of the 0.6B shape as the tests make them; the same with two channels of the
embeddings times 20; and with eight of each norm's weights times 64 and the columns that read them
divided, which is the same model in fp32. `simulation` is the scheme without equalisation on the
first of these; `ratio` is the engine's loss over that. The embedded model: on sentences of this
repository's pages. fp32 is tests/support/reference.py's; `bf16_mean` is
the engine's loss in bf16, by which models differ too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, parser_of, record
from qwen3_embed import Embedder
from qwen3_embed.loading.tensors import TensorFiles, as_bf16, write_tensors
from tests.support.make_model import make_model
from tests.support.reference import Reference
from tests.support.reference_int8 import QKV, Int8Reference

N_EMBEDDING_CHANNELS, EMBEDDING_FACTOR = 2, 20.0
N_NORM_CHANNELS, NORM_FACTOR = 8, 64.0
READERS = {"input_layernorm": QKV, "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}


def with_outliers(folder: Path, out: Path, kind: str) -> Path:
    """A copy of the model with outliers in its embeddings or in its norms."""
    out.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    (out / "1_Pooling").mkdir()
    pooling = "1_Pooling/config.json"
    (out / pooling).write_bytes((folder / pooling).read_bytes())
    tensors = list(TensorFiles([folder / "model.safetensors"]))
    layout = {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors}

    def changed() -> Iterable[Any]:
        for tensor in tensors:
            factors = column_factors(tensor.name, tensor.shape[-1], kind)
            yield tensor.stored() if factors is None else as_bf16(tensor.floats() * factors)

    write_tensors(out / "model.safetensors", layout, changed())
    return out


def column_factors(name: str, n: int, kind: str) -> Any:
    """(n) powers of two, or 20, for the columns of a tensor; None: unchanged."""
    factors = np.ones(n, np.float32)
    if kind == "embeddings":
        source = np.random.default_rng(0)
        factors[source.choice(n, N_EMBEDDING_CHANNELS, replace=False)] = EMBEDDING_FACTOR
        return factors if name == "embed_tokens.weight" else None
    for norm, readers in READERS.items():
        layer, _, part = name.removeprefix("layers.").removesuffix(".weight").partition(".")
        if part == norm or part in readers:
            source = np.random.default_rng([int(layer), len(norm)])
            factor = NORM_FACTOR if part == norm else 1 / NORM_FACTOR
            factors[source.choice(n, N_NORM_CHANNELS, replace=False)] = factor
            return factors
    return None


def losses(rows: Any, exact: Any) -> Any:
    """1 - cos of each row with the exact one."""
    a, b = (np.asarray(x, np.float64) for x in (rows, exact))
    return 1 - (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def engine_rows(folder: Path, texts: list[Any], dtype: str) -> Any:
    tokens = np.concatenate(texts).astype(np.int32)
    cu_seqlens = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    with Embedder(folder, device="cpu", dtype=dtype) as model:
        return model.encode_tokens(tokens, cu_seqlens)


def result_of(
    name: str, folder: Path, texts: list[Any], exact: list[Any], simulated: float | None
) -> dict[str, Any]:
    found = losses(engine_rows(folder, texts, "int8"), exact)
    bf16 = losses(engine_rows(folder, texts, "bfloat16"), exact)
    return {
        "model": name,
        "texts": len(found),
        "mean": f"{found.mean():.2e}",
        "worst": f"{found.max():.2e}",
        "bf16_mean": f"{bf16.mean():.2e}",
        "simulation": "" if simulated is None else f"{simulated:.2e}",
        "ratio": "" if simulated is None else round(float(found.mean()) / simulated, 3),
    }


def random_results(
    folder: Path, scratch: Path, n_texts: int, n_tokens: int
) -> list[dict[str, Any]]:
    source = np.random.default_rng(5)
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    texts = [source.integers(0, vocab_size, n_tokens) for _ in range(n_texts)]
    reference = Reference(folder)
    exact = [reference.embed(text) for text in texts]
    simulation = Int8Reference(folder, equalise=False)
    simulated = losses([simulation.embed(text) for text in texts], exact).mean()
    results = [result_of("random", folder, texts, exact, simulated)]
    print(results[-1], flush=True)
    for kind in ("embeddings", "norms"):
        other = with_outliers(folder, scratch / kind, kind)
        if kind == "embeddings":
            reference = Reference(other)
            exact_of = [reference.embed(text) for text in texts]
        else:
            exact_of = exact
        results.append(result_of(f"random, outliers in {kind}", other, texts, exact_of, simulated))
        print(results[-1], flush=True)
    return results


def mini_result() -> dict[str, Any]:
    folder = ROOT / "qwen3_embed" / "models" / "mini"
    names = ("CONTRIBUTING.md", "docs/index.md", "docs/models.md")
    pages = " ".join((ROOT / name).read_text() for name in names)
    sentences = [s.strip() for s in pages.replace("\n", " ").split(". ") if 20 < len(s) < 300]
    with Embedder(folder, device="cpu") as model:
        texts = [model.tokenizer.encode([sentence]).tokens for sentence in sentences[:64]]
    reference = Reference(folder)
    exact = [reference.embed(text) for text in texts]
    return result_of("mini", folder, texts, exact, None)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    results = [mini_result()]
    print(results[-1], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(
            Path(scratch) / "random", arguments.shape, tokenizer="byte",
            vocab_size=4096, num_hidden_layers=arguments.layers,
        )  # fmt: skip
        results += random_results(folder, Path(scratch), arguments.texts, arguments.tokens)
    record("int8_accuracy", arguments, results)


if __name__ == "__main__":
    main()
