"""Bits first, codes second: against the same in plain NumPy, and with usearch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen3_embed import Quantizer, staged_search
from qwen3_embed.retrieval.quantizer import quantize_binary

RNG = np.random.default_rng(3)
N, DIM, M = 500, 44, 7  # 44: the last byte of bits is not full


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


VECTORS = unit(RNG.standard_normal((N, DIM)))
QUERIES = unit(VECTORS[:M] + 0.2 * RNG.standard_normal((M, DIM)))
BITS = quantize_binary(VECTORS, "ubinary")
QUANTIZER = Quantizer.fit(VECTORS)
CODES = QUANTIZER.quantize(VECTORS, "int8")


def expected(query: Any, codes: Any, top_k: int, n_candidates: int) -> list[int]:
    distances = ((query > 0) != (VECTORS > 0)).sum(axis=1)
    candidates = np.sort(np.argsort(distances, kind="stable")[:n_candidates])
    products = codes[candidates].astype(np.float32) @ query
    return candidates[np.argsort(-products, kind="stable")[:top_k]].tolist()


@pytest.mark.parametrize("codes", [CODES, VECTORS, VECTORS.astype(np.float16)])
@pytest.mark.parametrize(
    ("top_k", "oversample"), [(10, 10), (10, 2.55), (1, 1), (10, 50), (600, 1)]
)
def test_against_plain_numpy(codes: Any, top_k: int, oversample: float) -> None:
    scores, rows = staged_search(QUERIES, BITS, codes, top_k, oversample)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    n_candidates = min(N, int(np.ceil(top_k * oversample)))
    for i, query in enumerate(QUERIES):
        assert rows[i].tolist() == expected(query, codes, top_k, n_candidates)
        products = codes[rows[i]].astype(np.float32) @ query
        # float32 sums in another order
        np.testing.assert_allclose(scores[i], products, rtol=1e-4, atol=1e-3)


def test_all_candidates_are_an_exact_search() -> None:
    scores, rows = staged_search(QUERIES, BITS, CODES, top_k=5, oversample=N)
    products = CODES.astype(np.float32) @ QUERIES.T
    assert rows.T.tolist() == np.argsort(-products, axis=0, kind="stable")[:5].tolist()
    cosines = scores * np.float32(QUANTIZER.scale or 0)
    exact = np.take_along_axis(QUERIES @ VECTORS.T, rows, axis=1)
    # Rounding: sqrt(1 / 12) steps of a unit query; six deviations.
    assert np.abs(cosines - exact).max() < 6 * (QUANTIZER.scale or 0) / 12**0.5


def test_one_query_and_signed_bits() -> None:
    scores, rows = staged_search(QUERIES[0], BITS, CODES)
    assert scores.shape == rows.shape == (10,)
    assert rows[0] == 0
    signed = quantize_binary(VECTORS, "binary")
    np.testing.assert_array_equal(staged_search(QUERIES[0], signed, CODES)[1], rows)


def test_nothing_to_find() -> None:
    scores, rows = staged_search(QUERIES, BITS[:0], CODES[:0])
    assert scores.shape == rows.shape == (M, 0)
    assert staged_search(QUERIES[:0], BITS, CODES)[1].shape == (0, 10)


def test_usearch() -> None:
    index_module = pytest.importorskip("usearch.index")
    index = index_module.Index(ndim=DIM + -DIM % 8, dtype="b1", metric="hamming")
    index.add(np.arange(N), BITS)
    # Its graph search is approximate: all rows as candidates make it exact.
    _, rows = staged_search(QUERIES, index, CODES, top_k=10, oversample=N / 10)
    np.testing.assert_array_equal(rows, staged_search(QUERIES, BITS, CODES, 10, N / 10)[1])


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"queries": QUERIES.astype(int)}, TypeError, "queries has dtype int64"),
        ({"queries": QUERIES[:, :8]}, ValueError, r"queries has shape \(7, 8\) and codes"),
        ({"codes": CODES.view(np.uint8)}, TypeError, "codes has dtype uint8"),
        ({"codes": CODES[1:]}, ValueError, "bits has 500 rows and codes has 499"),
        ({"bits": BITS[:, :2]}, ValueError, r"bits has shape \(500, 2\), expected \(n, 6\)"),
        ({"bits": BITS.astype(int)}, TypeError, "bits has dtype int64"),
        ({"top_k": 0}, ValueError, "top_k=0"),
        ({"oversample": 0.5}, ValueError, "oversample=0.5"),
        ({"oversample": np.nan}, ValueError, "oversample=nan"),
    ],
)
def test_refusals(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"queries": QUERIES, "bits": BITS, "codes": CODES}
    with pytest.raises(error, match=words):
        staged_search(**(arguments | changed))
