"""Builds qwen3_embed._core: the CPU engine and its Python binding, with a C compiler alone.

The inner kernels are compiled once per instruction set; the best one is chosen at run time.
QWEN3_EMBED_SANITIZE=address,undefined (or thread) builds for that sanitizer.
"""

import os
import platform
import sysconfig
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("QWEN3_EMBED_SANITIZE", "")
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED") and not SANITIZE

FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]  # the same bits from every compiler; plain sqrt
if SANITIZE:
    FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]

# Instruction set -> its own kernel, its compiler flags.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"]
KERNEL_SETS = {"portable": ("gemm_portable.c", [])}
if platform.machine() in ("x86_64", "AMD64"):
    KERNEL_SETS |= {
        "avx2": ("gemm_avx2.c", ["-mavx2", "-mfma", "-mf16c"]),
        "avx512_bf16": ("gemm_avx512.c", AVX512),
        "amx_bf16": ("gemm_amx.c", [*AVX512, "-mamx-tile", "-mamx-bf16"]),
    }
KERNELS = ["pack.c", "epilogue.c", "ops.c", "attention.c", "isa_table.c"]  # in every set
OWN_KERNELS = {"gemm_portable.c", "gemm_avx2.c", "gemm_avx512.c", "gemm_amx.c"}


def core_sources() -> list[str]:
    """Every C file that is compiled once."""
    skip = OWN_KERNELS | set(KERNELS)
    return sorted(str(f) for f in Path("csrc").rglob("*.c") if f.name not in skip)


class BuildKernels(build_ext):
    """Compiles the kernels of each instruction set with its own flags, then the rest."""

    def build_extension(self, ext: Extension) -> None:
        objects = []
        for name, (own, flags) in KERNEL_SETS.items():
            objects += self.compiler.compile(
                [f"csrc/cpu/{source}" for source in [own, *KERNELS]],
                output_dir=str(Path(self.build_temp, name)),
                extra_postargs=[*FLAGS, *flags, f"-DQE_ISA={name}"],
                depends=ext.depends,
            )
        ext.extra_objects = objects
        super().build_extension(ext)


core = Extension(
    "qwen3_embed._core",
    core_sources(),
    include_dirs=["csrc", numpy.get_include()],
    depends=sorted(str(f) for f in Path("csrc").rglob("*.h")),
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
    py_limited_api=ABI3,
    extra_compile_args=FLAGS,
    extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
    libraries=["m", "pthread"],
)

setup(
    ext_modules=[core],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
