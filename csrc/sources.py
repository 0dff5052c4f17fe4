"""C and CUDA sources and their compiler flags: one list for setup.py and for the tests."""

import platform
import re
from pathlib import Path

HERE = Path(__file__).parent

FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]  # the same bits from every compiler; plain sqrt

# Instruction set -> its own kernels, its compiler flags.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"]
KERNEL_SETS = {"portable": (["gemm_portable.c", "pack.c", "epilogue.c", "softmax.c"], [])}
if platform.machine() in ("x86_64", "AMD64"):
    KERNEL_SETS |= {
        "avx2": (
            ["gemm_avx2.c", "pack.c", "epilogue.c", "softmax.c"],
            ["-mavx2", "-mfma", "-mf16c"],
        ),
        "avx512_bf16": (
            ["gemm_avx512.c", "pack_avx512.c", "epilogue_avx512.c", "softmax_avx512.c"],
            AVX512,
        ),
        "amx_bf16": (
            ["gemm_amx.c", "pack_avx512.c", "epilogue_avx512.c", "softmax_avx512.c"],
            [*AVX512, "-mamx-tile", "-mamx-bf16"],
        ),
    }
COMMON_KERNELS = ["ops.c", "attention.c", "isa_table.c"]  # in every set
PER_SET = re.compile(r"(gemm|pack|epilogue|softmax)_?(amx|avx512|avx2|portable)?\.c")


def engine_sources() -> list[str]:
    """The C engine's files that are compiled once, without Python."""
    return sorted(
        f"csrc/{file.relative_to(HERE)}"
        for file in HERE.rglob("*.c")
        if file.name not in COMMON_KERNELS
        and not PER_SET.fullmatch(file.name)
        and file.parent.name != "python"
    )


def kernel_sources() -> list[tuple[str, str, list[str]]]:
    """(instruction set, file, flags) of every file that is compiled once per set."""
    return [
        (name, f"csrc/cpu/{file}", [*flags, f"-DQE_ISA={name}"])
        for name, (own, flags) in KERNEL_SETS.items()
        for file in [*own, *COMMON_KERNELS]
    ]


def binding_sources() -> list[str]:
    """The files that know Python."""
    return sorted(f"csrc/python/{file.name}" for file in (HERE / "python").glob("*.c"))


def cuda_sources() -> list[str]:
    """The CUDA engine's files; csrc/error.c goes with them."""
    return sorted(
        str(file.relative_to(HERE.parent)) for file in (HERE.parent / "cuda").rglob("*.cu")
    )
