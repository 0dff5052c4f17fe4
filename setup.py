"""Builds qwen3_embed._core: the CPU engine and its Python binding, with a C compiler alone.

The inner kernels are compiled once per instruction set; the best one is chosen at run time.
QWEN3_EMBED_SANITIZE=address,undefined (or thread) builds for that sanitizer.
"""

import os
import sys
import sysconfig
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
from sources import FLAGS, binding_sources, engine_sources, kernel_sources

SANITIZE = os.environ.get("QWEN3_EMBED_SANITIZE", "")
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

if SANITIZE:
    FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]


class BuildKernels(build_ext):
    """Compiles the kernels of each instruction set with its own flags, then the rest."""

    def build_extension(self, ext: Extension) -> None:
        ext.extra_objects = [
            self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp, name)),
                extra_postargs=[*FLAGS, *flags],
                depends=ext.depends,
            )[0]
            for name, source, flags in kernel_sources()
        ]
        super().build_extension(ext)


core = Extension(
    "qwen3_embed._core",
    [*engine_sources(), *binding_sources()],
    include_dirs=["csrc", numpy.get_include()],
    depends=sorted(str(f) for f in Path("csrc").rglob("*.h")),
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
    py_limited_api=ABI3,
    extra_compile_args=FLAGS,
    extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
    libraries=["m", "pthread", "dl"],
)

setup(
    ext_modules=[core],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
