"""The canonical plan of a product: a row's bits do not depend on the number of rows.

Needs a GPU, PyTorch and QE_PLANS_LIBRARY, which run_gpu.sh compiles from plans_entry.cu.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.reference import round_bf16
from tests.support.reference_int8 import rounded_to_int8

torch = pytest.importorskip("torch")
if "QE_PLANS_LIBRARY" not in os.environ:
    pytest.skip("QE_PLANS_LIBRARY is not set", allow_module_level=True)

MAX_ROWS = 3000
ROWS = (1, 2, 16, 17, 64, 65, 128, 129, 500, 1024, MAX_ROWS)
STORE, ADD = 0, 1  # enum product_output


class Products:
    """One product through cuda/products/gemm.h, with its operands."""

    def __init__(self, n: int, k: int, output: int, library: bool, int8: bool = False) -> None:
        self.code = ctypes.CDLL(os.environ["QE_PLANS_LIBRARY"])
        self.code.open_products.restype = ctypes.c_void_p
        self.code.note.restype = ctypes.c_char_p
        opened = self.code.open_products(n, k, output, library, int8)
        assert opened is not None
        self.gemm = ctypes.c_void_p(opened)
        source = torch.Generator("cuda").manual_seed(1)
        options: dict[str, Any] = {"device": "cuda", "generator": source}
        self.x = torch.randn(MAX_ROWS, k, **options).bfloat16()
        self.w = torch.randn(n, k, **options).bfloat16()
        self.dtype = torch.float32 if output == ADD else torch.bfloat16
        self.n = n
        self.stored: list[torch.Tensor] = [self.w]  # what the product reads
        if int8:
            self.stored = self.round_to_int8()

    def round_to_int8(
        self, columns: torch.Tensor | None = None, rows: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Values and scales of the weights, which then become what they expand to."""
        n, k = self.w.shape
        values = torch.empty(n, k, device="cuda", dtype=torch.uint8)
        scales = torch.empty(n, device="cuda")
        expanded = torch.empty_like(self.w)
        tensors = (expanded, values, scales, self.w, columns, rows)
        pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
        torch.cuda.synchronize()
        assert self.code.round_and_expand(*pointers, n, k) == 0
        torch.cuda.synchronize()
        self.w = expanded
        return [values, scales]

    def weight_pointers(self) -> list[ctypes.c_void_p | None]:
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in self.stored]
        return [*pointers, None][:2]

    def prepare(self, m: int) -> None:
        trial_x = torch.empty_like(self.x)
        trial_y = torch.empty(MAX_ROWS, self.n, device="cuda", dtype=self.dtype)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (trial_x, trial_y)]
        pointers += self.weight_pointers()
        assert self.code.prepare(self.gemm, m, *pointers, MAX_ROWS) == 0
        torch.cuda.synchronize()

    def rows(self, first: int, m: int, *, stream: bool = False) -> torch.Tensor:
        """Rows [first, first + m) of the product, computed together; stream: by our own
        kernel for few rows of int8."""
        self.prepare(m)
        y = torch.zeros(m, self.n, device="cuda", dtype=self.dtype)
        x = self.x[first:]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (y, x)]
        pointers += self.weight_pointers()
        run = self.code.run_stream if stream else self.code.run
        torch.cuda.synchronize()
        assert run(self.gemm, m, *pointers) == 0
        torch.cuda.synchronize()
        return y

    @property
    def note(self) -> str:
        return str(self.code.note(self.gemm).decode())

    def close(self) -> None:
        self.code.close_products(self.gemm)


@pytest.fixture(params=[STORE, ADD], ids=["store", "add"])
def output(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def opened() -> Iterator[list[Products]]:
    products: list[Products] = []
    yield products
    for each in products:
        each.close()


@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
@pytest.mark.parametrize("library", [False, True], ids=["chain", "library"])
@pytest.mark.parametrize(("n", "k"), [(1024, 1024), (4096, 1024), (2560, 9728)])
def test_rows_do_not_depend_on_their_number(
    opened: list[Products], n: int, k: int, output: int, library: bool, int8: bool
) -> None:
    p = Products(n, k, output, library, int8)
    opened.append(p)
    assert p.code.is_chain(p.gemm) != library, "this device has the chain's bits"
    every = p.rows(0, MAX_ROWS)
    expected = p.x.float() @ p.w.float().T
    error = (every.float() - expected).norm() / expected.norm()
    assert error < 2.0**-8, "bf16 rounds by 2^-9 at most"
    for m in ROWS:
        for first in (0, 7 * 8, MAX_ROWS - m):
            if first + m <= MAX_ROWS:
                assert torch.equal(p.rows(first, m), every[first : first + m]), (m, first)
    assert p.note == ""


# Fewer columns than multiprocessors; blocks of threads with and without one more eight of columns;
# a single stage and an odd number of them; all of the 4B and 8B models' widths.
STREAM_SHAPES = [
    *((16, 256), (48, 768), (1040, 1280), (6144, 2560), (2560, 4096)),
    *((2560, 9728), (4096, 12288), (19456, 2560)),
]


@pytest.mark.parametrize(("n", "k"), STREAM_SHAPES)
def test_few_rows_of_int8_have_the_chain_of_bf16(
    opened: list[Products], n: int, k: int, output: int
) -> None:
    """gemm_stream_int8.cu against bf16 products of the expanded matrix, on each side of a tile's
    and a launch's limit."""
    p, expanded = Products(n, k, output, False, True), Products(n, k, output, False)
    opened += [p, expanded]
    expanded.stored = [p.w]
    for m in (1, 15, 16, 17, 32, 33, 63, 64, 65, 128, 129, 250):
        assert torch.equal(p.rows(3, m, stream=True), expanded.rows(3, m)), m


def test_rounding_to_int8(opened: list[Products]) -> None:
    """Every bit as the oracle's: with scales of channels, rows of zeros, and tiny ones."""
    p = Products(320, 1056, STORE, False, True)
    opened.append(p)
    source = np.random.default_rng(2)
    columns = np.exp2(source.integers(-6, 7, 1056)).astype(np.float32)
    rows = np.exp2(source.integers(-6, 7, 320)).astype(np.float32)
    weights = round_bf16(source.normal(size=(320, 1056)).astype(np.float32))
    weights[5] = 0.0
    weights[6] = round_bf16(weights[6] * np.float32(2.0**-120))
    weights[7, 9] = 100.0
    for factors in ((None, None), (columns, None), (None, rows), (columns, rows)):
        on_gpu = [None if f is None else torch.from_numpy(f).cuda() for f in factors]
        p.w = torch.from_numpy(weights).cuda().bfloat16()
        _, scales = p.round_to_int8(*on_gpu)
        scaled = weights * (1 if factors[0] is None else factors[0])
        scaled = scaled / (1 if factors[1] is None else factors[1][:, None])
        expected, expected_scales = rounded_to_int8(scaled)
        np.testing.assert_array_equal(scales.cpu().numpy(), expected_scales[:, 0])
        np.testing.assert_array_equal(p.w.float().cpu().numpy(), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_stays_so(opened: list[Products], value: float) -> None:
    """int8 has no NaN: the row's scale is none, so that its products are none."""
    p = Products(64, 128, STORE, False, True)
    opened.append(p)
    p.w[9, 77] = value
    p.stored = p.round_to_int8()
    finite = torch.isfinite(p.rows(0, 20)).all(dim=0).cpu()
    assert not finite[9]
    assert finite.sum() == 63


@pytest.mark.parametrize("library", [False, True], ids=["chain", "library"])
def test_a_product_without_a_fast_plan(opened: list[Products], output: int, library: bool) -> None:
    """It runs the canonical plan, in pieces, with the same bits, and leaves a note."""
    p = Products(1024, 1024, output, library)
    opened.append(p)
    fast = p.rows(0, MAX_ROWS)
    p.code.forget_plan(p.gemm, MAX_ROWS)
    assert torch.equal(p.rows(0, MAX_ROWS), fast)
    assert f"has no algorithm for {MAX_ROWS} rows of qkv" in p.note
