"""The product with SwiGLU that is Hopper's own: the canonical bits, in every row.

Needs a GPU, PyTorch and QE_GEMM_LIBRARY:

    nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Icuda -Icsrc -shared \\
        -Xcompiler -fPIC tests/cuda/gemm_entry.cu cuda/{gemm_sm90,gemm_rows,swiglu}.cu \\
        -o libgemm.so
"""

from __future__ import annotations

import ctypes
import os

import pytest

torch = pytest.importorskip("torch")
if "QE_GEMM_LIBRARY" not in os.environ:
    pytest.skip("QE_GEMM_LIBRARY is not set", allow_module_level=True)

NOT_SUPPORTED = 801  # cudaErrorNotSupported


def call(name: str, *arguments: torch.Tensor | int) -> int:
    """Tensors go as pointers."""
    torch.cuda.synchronize()
    function = getattr(ctypes.CDLL(os.environ["QE_GEMM_LIBRARY"]), name)
    return int(
        function(
            *(
                ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a
                for a in arguments
            )
        )
    )


@pytest.mark.parametrize("m", [1, 64, 127, 128, 129, 256, 257, 1000, 2113])
@pytest.mark.parametrize(
    ("n", "k"), [(256, 64), (256, 128), (768, 192), (6144, 1024), (19456, 2560)]
)
def test_bits_are_canonical(m: int, n: int, k: int) -> None:
    source = torch.Generator("cuda").manual_seed(m)
    ldx, ldy = k + 64, n + 128
    x = torch.full((m + 300, ldx), torch.nan, device="cuda")  # what is not its own is NaN
    x[:m, :k] = torch.randn((m, k), device="cuda", generator=source)
    w = torch.randn((n, k), device="cuda", generator=source) / k**0.5
    x, w = x.bfloat16(), w.bfloat16()
    y = torch.full((m + 300, ldy), torch.nan, device="cuda").bfloat16()
    expected = torch.full((m, n), torch.nan, device="cuda").bfloat16()
    assert call("run_sm90", y, x, w, m, n, k, ldx, ldy) == 0
    assert call("run_canonical", expected, x, w, m, n, k, ldx) == 0
    rows, half = expected[:, : n // 2], n // 2
    assert torch.equal(y[:m, :half].view(torch.int16), rows.view(torch.int16))
    assert y[:m, half:].isnan().all()
    assert y[m:].isnan().all()
    gate, up = (x[:m, :k].float() @ w.float().T).split(half, dim=1)
    error = (rows - torch.nn.functional.silu(gate) * up).norm() / rows.float().norm()
    assert error < 2.0**-7  # gate, up and what is made of them are rounded, by 2^-9 each


@pytest.mark.parametrize(("n", "k"), [(384, 64), (256, 96)])
def test_other_shapes_are_refused(n: int, k: int) -> None:
    x, w, y = (torch.zeros((512, 512), device="cuda").bfloat16() for _ in range(3))
    assert call("run_sm90", y, x, w, 512, n, k, 512, 512) == NOT_SUPPORTED
