"""C and CUDA sources and their compiler flags: one list for setup.py and for the tests."""

from pathlib import Path

from csrc.target import MACHINE, TARGET

HERE = Path(__file__).parent

FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]  # the same bits from every compiler; plain sqrt

# Instruction set -> its own kernels, its compiler flags. A panel of int8 has values of 1 byte,
# to which 128 may be added, or of 2. Columns of a row that lie together in a panel: those that
# an instruction multiplies at once.
BYTES = ["-DQE_INT8_BYTES=1", "-DQE_INT8_ZERO=128"]
SIGNED_BYTES = ["-DQE_INT8_BYTES=1", "-DQE_INT8_ZERO=0"]
WORDS = ["-DQE_INT8_BYTES=2", "-DQE_INT8_ZERO=0"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
VNNI = [*AVX512, "-mavx512vnni"]
BF16 = [*VNNI, "-mavx512bf16"]
PLAIN = ["pack.c", "epilogue.c", "softmax.c", "int8_pack.c"]
AVX2_PLAIN = ["pack.c", "epilogue_avx2.c", "softmax_avx2.c", "int8_pack.c"]
WIDE = ["pack_avx512.c", "epilogue_avx512.c", "softmax_avx512.c"]
WIDENED = ["int8_avx2.c", "q8_0_avx2.c"]
WIDE_INT8 = ["int8_avx512.c", "int8_pack_avx512.c", "q8_0_avx512.c"]
SETS = {
    "portable": (["gemm_portable.c", "int8_portable.c", "q8_0_portable.c", *PLAIN], WORDS),
    "avx2": (["gemm_avx2.c", *WIDENED, *AVX2_PLAIN], [*AVX2, *WORDS]),
    "avx_vnni": (
        ["gemm_avx2.c", "int8_avx_vnni.c", "q8_0_avx_vnni.c", *AVX2_PLAIN],
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
ARMV8_2 = "-mcpu=generic+v8_2a" if TARGET else "-march=armv8.2-a"  # zig has its own names
NEON_INT8 = ["int8_neon.c", "q8_0_neon.c"]
MATRIX_COLUMNS = ["-DQE_PANEL_COLUMNS=4", "-DQE_INT8_COLUMNS=8"]
ARM_SETS = {
    "portable": SETS["portable"],
    "neon_i8": (["gemm_neon.c", *NEON_INT8, *PLAIN], [f"{ARMV8_2}+dotprod", *SIGNED_BYTES]),
    "neon_bf16": (
        ["gemm_neon_bf16.c", *NEON_INT8, *PLAIN],
        [f"{ARMV8_2}+bf16+i8mm", *SIGNED_BYTES, *MATRIX_COLUMNS],
    ),
}
MACHINE_SETS = {"x86_64": SETS, "AMD64": SETS, "aarch64": ARM_SETS}
COMMON_KERNELS = ["ops.c", "attention.c", "isa_table.c"]  # in every set
PER_SET = {file for sets in (SETS, ARM_SETS) for own, _ in sets.values() for file in own}
PER_SET |= set(COMMON_KERNELS)


def engine_sources() -> list[str]:
    """The C engine's files that are compiled once, without Python."""
    return sorted(
        f"csrc/{file.relative_to(HERE)}"
        for file in HERE.rglob("*.c")
        if file.name not in PER_SET and file.parent.name != "python"
    )


def kernel_sources(machine: str = "") -> list[tuple[str, str, list[str]]]:
    """(instruction set, file, flags) of every file that is compiled once per set.

    machine: as platform.machine() names it; "" is the build's target.
    """
    sets = MACHINE_SETS.get(machine or MACHINE, {"portable": SETS["portable"]})
    return [
        (name, f"csrc/cpu/{file}", [*flags, f"-DQE_ISA={name}"])
        for name, (own, flags) in sets.items()
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
