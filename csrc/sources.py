"""C and CUDA sources and their compiler flags: one list for setup.py and for the tests."""

from pathlib import Path

from csrc.target import MACHINE

HERE = Path(__file__).parent

FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]  # the same bits from every compiler; plain sqrt

# Instruction set -> its own kernels, its compiler flags. A panel of int8 has values of 1 byte,
# to which 128 may be added, or of 2.
BYTES = ["-DQE_INT8_BYTES=1", "-DQE_INT8_ZERO=128"]
SIGNED_BYTES = ["-DQE_INT8_BYTES=1", "-DQE_INT8_ZERO=0"]
WORDS = ["-DQE_INT8_BYTES=2", "-DQE_INT8_ZERO=0"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
VNNI = [*AVX512, "-mavx512vnni"]
BF16 = [*VNNI, "-mavx512bf16"]
PLAIN = ["pack.c", "epilogue.c", "softmax.c", "int8_pack.c"]
WIDE = ["pack_avx512.c", "epilogue_avx512.c", "softmax_avx512.c"]
WIDENED = ["int8_avx2.c", "q8_0_avx2.c"]
WIDE_INT8 = ["int8_avx512.c", "int8_pack_avx512.c", "q8_0_avx512.c"]
SETS = {
    "portable": (["gemm_portable.c", "int8_portable.c", "q8_0_portable.c", *PLAIN], WORDS),
    "avx2": (["gemm_avx2.c", *WIDENED, *PLAIN], [*AVX2, *WORDS]),
    "avx_vnni": (
        ["gemm_avx2.c", "int8_avx_vnni.c", "q8_0_avx_vnni.c", *PLAIN],
        [*AVX2, "-mavxvnni", *BYTES],
    ),
    "avx512": (["gemm_avx512.c", *WIDENED, "int8_pack.c", *WIDE], [*AVX512, *WORDS]),
    "avx512_vnni": (["gemm_avx512.c", *WIDE_INT8, *WIDE], [*VNNI, *BYTES]),
    "avx512_bf16": (["gemm_avx512_bf16.c", *WIDE_INT8, *WIDE], [*BF16, *BYTES]),
    "amx_bf16": (
        ["gemm_amx.c", "int8_amx.c", "int8_pack_avx512.c", "q8_0_avx512.c", *WIDE],
        [*BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8", *SIGNED_BYTES],
    ),
}
IS_X86 = MACHINE in ("x86_64", "AMD64")
KERNEL_SETS = SETS if IS_X86 else {"portable": SETS["portable"]}
COMMON_KERNELS = ["ops.c", "attention.c", "isa_table.c"]  # in every set
PER_SET = {file for own, _ in SETS.values() for file in own} | set(COMMON_KERNELS)


def engine_sources() -> list[str]:
    """The C engine's files that are compiled once, without Python."""
    return sorted(
        f"csrc/{file.relative_to(HERE)}"
        for file in HERE.rglob("*.c")
        if file.name not in PER_SET and file.parent.name != "python"
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
