"""The platform that the engine is compiled for: this machine, with its own compiler, or the one
that QWEN3_EMBED_TARGET names, such as aarch64-linux-gnu.2.28, with zig's clang.

Zig brings the headers of libc and stubs of every version of glibc, so a release runs on systems
older than the one that it is made on, and on another processor.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import sysconfig

TARGET = os.environ.get("QWEN3_EMBED_TARGET", "")
MACHINE = TARGET.partition("-")[0] or platform.machine()


def zig(language: str, target: str = TARGET) -> list[str]:
    """The words of zig's compiler, "cc" or "c++", for the target.

    Undefined behaviour is not trapped: zig would do so wherever no optimisation is asked for.
    """
    return [sys.executable, "-m", "ziglang", language, "-target", target, "-fno-sanitize=undefined"]


def use_zig(target: str = TARGET) -> None:
    """Makes setuptools compile, link and name wheels for the target.

    Raises
    ------
    SystemExit
        The target is none that zig is asked for here, or zig is missing.
    """
    if re.fullmatch(r"(x86_64|aarch64)-linux-gnu\.\d+\.\d+", target) is None:
        raise SystemExit(
            f"QWEN3_EMBED_TARGET={target}, expected such as x86_64-linux-gnu.2.28 or "
            f"aarch64-linux-gnu.2.28"
        )
    if importlib.util.find_spec("ziglang") is None:
        raise SystemExit(
            f"QWEN3_EMBED_TARGET={target}, but ziglang is not installed: "
            f"`pip install --group release`, and build with --no-build-isolation"
        )
    compiler = " ".join(zig("cc", target))
    os.environ |= {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "_PYTHON_HOST_PLATFORM": f"linux-{target.partition('-')[0]}",  # the wheel's tag
    }
    sysconfig.get_config_vars()["CFLAGS"] = "-fwrapv -DNDEBUG"  # this Python's are its compiler's
