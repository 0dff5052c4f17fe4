"""The cores that a process may use: its affinity mask, and the CPU quota of its cgroup.

A container's `--cpus=1` is a quota: the process still sees every core, but all its threads together
run for one core's time per period. Threads beyond the quota only make the kernel pause them all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cores", "usable_cores"]


class Cores(NamedTuple):
    """A number of cores.

    Attributes
    ----------
    n : int
        At least 1.
    reason : str
        Where the number comes from.
    """

    n: int
    reason: str


def usable_cores(root: Path = Path("/")) -> Cores:
    """The minimum of the affinity mask and the CPU quotas of the cgroups around this process.

    Parameters
    ----------
    root : Path
        Where the `proc` and `sys` file systems are; another one in tests.

    Returns
    -------
    Cores
        A quota counts as ceil(quota / period) cores (Linux, Documentation/scheduler/sched-bwc.rst).
        Files that are missing or can't be read set no limit.
    """
    found = Cores(len(os.sched_getaffinity(0)), "affinity mask")
    for folder in _cpu_cgroups(root):
        for name, cores in _quotas(folder):
            n = max(1, math.ceil(cores))
            if n < found.n:
                shown = "/" / (folder / name).relative_to(root)
                found = Cores(n, f"CPU quota of {cores:g} in {shown}")
    return found


def _cpu_cgroups(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and of its parents that this process can see.

    `proc/self/cgroup` has the path within a hierarchy, `proc/self/mountinfo` the part of that
    hierarchy which is mounted, and where. Inside a container the two may not fit together: then the
    mount point itself is the container's cgroup.
    """
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, details = line.partition(" - ")
        kind, _, options = details.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        top, point = mount.split(" ")[3:5]
        inside = os.path.relpath(paths[kind], top)
        if inside.startswith(".."):
            inside = "."
        folder = root / point.lstrip("/")
        yield folder
        for part in Path(inside).parts:
            folder /= part
            yield folder


def _quotas(folder: Path) -> Iterator[tuple[str, float]]:
    """(file, cores) for each quota that one cgroup sets."""
    for line in _lines(folder / "cpu.max"):  # version 2: "max 100000" or "150000 100000"
        quota, period = line.split(" ")
        if quota != "max":
            yield "cpu.max", int(quota) / int(period)
    periods = [int(line) for line in _lines(folder / "cpu.cfs_period_us")]
    for line in _lines(folder / "cpu.cfs_quota_us"):  # version 1: -1 is no limit
        if int(line) > 0 and periods:
            yield "cpu.cfs_quota_us", int(line) / periods[0]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
