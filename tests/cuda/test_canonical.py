"""The canonical plan of a product: a row's bits do not depend on the number of rows.

Needs a GPU, PyTorch and QE_PLANS_LIBRARY, which run_gpu.sh compiles from plans_entry.cu.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if "QE_PLANS_LIBRARY" not in os.environ:
    pytest.skip("QE_PLANS_LIBRARY is not set", allow_module_level=True)

MAX_ROWS = 3000
ROWS = (1, 2, 16, 17, 64, 65, 128, 129, 500, 1024, MAX_ROWS)
STORE, ADD = 0, 1  # enum product_output


class Products:
    """One product through cuda/products/gemm.h, with its operands."""

    def __init__(self, n: int, k: int, output: int, library: bool) -> None:
        self.code = ctypes.CDLL(os.environ["QE_PLANS_LIBRARY"])
        self.code.open_products.restype = ctypes.c_void_p
        self.code.note.restype = ctypes.c_char_p
        opened = self.code.open_products(n, k, output, library)
        assert opened is not None
        self.gemm = ctypes.c_void_p(opened)
        source = torch.Generator("cuda").manual_seed(1)
        options: dict[str, Any] = {"device": "cuda", "generator": source}
        self.x = torch.randn(MAX_ROWS, k, **options).bfloat16()
        self.w = torch.randn(n, k, **options).bfloat16()
        self.dtype = torch.float32 if output == ADD else torch.bfloat16
        self.n = n

    def prepare(self, m: int) -> None:
        trial_x = torch.empty_like(self.x)
        trial_y = torch.empty(MAX_ROWS, self.n, device="cuda", dtype=self.dtype)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (trial_x, trial_y, self.w)]
        assert self.code.prepare(self.gemm, m, *pointers, MAX_ROWS) == 0
        torch.cuda.synchronize()

    def rows(self, first: int, m: int) -> torch.Tensor:
        """Rows [first, first + m) of the product, computed together."""
        self.prepare(m)
        y = torch.zeros(m, self.n, device="cuda", dtype=self.dtype)
        x = self.x[first:]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (y, x, self.w)]
        torch.cuda.synchronize()
        assert self.code.run(self.gemm, m, *pointers) == 0
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


@pytest.mark.parametrize("library", [False, True], ids=["chain", "library"])
@pytest.mark.parametrize(("n", "k"), [(1024, 1024), (4096, 1024), (2560, 9728)])
def test_rows_do_not_depend_on_their_number(
    opened: list[Products], n: int, k: int, output: int, library: bool
) -> None:
    p = Products(n, k, output, library)
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


@pytest.mark.parametrize("library", [False, True], ids=["chain", "library"])
def test_a_product_without_a_fast_plan(opened: list[Products], output: int, library: bool) -> None:
    """It runs the canonical plan, in pieces, with the same bits, and leaves a note."""
    p = Products(1024, 1024, output, library)
    opened.append(p)
    fast = p.rows(0, MAX_ROWS)
    p.code.forget_plan(p.gemm, MAX_ROWS)
    assert torch.equal(p.rows(0, MAX_ROWS), fast)
    assert f"has no algorithm for {MAX_ROWS} rows of qkv" in p.note
