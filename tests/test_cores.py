"""The number of threads: the affinity mask and the CPU quotas of cgroups, versions 1 and 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwen3_embed import Embedder
from qwen3_embed.loading.cores import Cores, usable_cores

V2 = "35 24 0:30 {top} /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = (
    "31 23 0:28 / / rw - ext4 /dev/vda rw\n33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup c "
    "rw,cpuset\n"
)


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def fake_root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def v2(tmp_path: Path, quotas: dict[str, str], path: str = "/", top: str = "/") -> Path:
    files = {f"sys/fs/cgroup/{name}cpu.max": text for name, text in quotas.items()}
    files["proc/self/cgroup"] = f"0::{path}\n"
    files["proc/self/mountinfo"] = OTHERS + V2.format(top=top)
    return fake_root(tmp_path, files)


def v1(tmp_path: Path, quotas: dict[str, tuple[str, str]], path: str = "/", top: str = "/") -> Path:
    files = {}
    for name, (quota, period) in quotas.items():
        folder = f"sys/fs/cgroup/cpu,cpuacct/{name}"
        files[f"{folder}cpu.cfs_quota_us"] = quota + "\n"
        files[f"{folder}cpu.cfs_period_us"] = period + "\n"
    files["proc/self/cgroup"] = (
        f"4:memory:/m\n3:cpuset:/c\n2:cpu,cpuacct:{path}\n1:name=systemd:/\n"
    )
    files["proc/self/mountinfo"] = OTHERS + V1.format(top=top)
    return fake_root(tmp_path, files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 16),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),  # ceil
        ("1000 100000\n", 1),
        ("200000 50000\n", 4),
        ("6400000 100000\n", 16),  # more than there are
    ],
)
def test_version_2(tmp_path: Path, text: str, expected: int) -> None:
    found = usable_cores(v2(tmp_path, {"": text}))
    assert found.n == expected
    limited = "CPU quota of" in found.reason and found.reason.endswith("in /sys/fs/cgroup/cpu.max")
    assert limited == (expected < 16)
    assert limited or found.reason == "affinity mask"


def test_version_2_parents(tmp_path: Path) -> None:
    """The least quota on the way from the root counts."""
    quotas = {"a/": "300000 100000\n", "a/b/": "max 100000\n", "a/b/c/": "900000 100000\n"}
    found = usable_cores(v2(tmp_path, quotas, "/a/b/c"))
    assert found == (3, "CPU quota of 3 in /sys/fs/cgroup/a/cpu.max")


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("-1", "100000", 16), ("100000", "100000", 1), ("250000", "100000", 3), ("0", "100000", 16)],
)
def test_version_1(tmp_path: Path, quota: str, period: str, expected: int) -> None:
    assert usable_cores(v1(tmp_path, {"": (quota, period)})).n == expected


@pytest.mark.parametrize("top", ["/docker/abc", "/docker", "/"])
def test_version_1_in_a_container(tmp_path: Path, top: str) -> None:
    """Docker mounts the container's part of the hierarchy, without a cgroup namespace."""
    inside = os.path.relpath("/docker/abc", top).strip(".")
    folder = f"{inside}/" if inside else ""
    root = v1(tmp_path, {folder: ("200000", "100000")}, "/docker/abc", top)
    assert usable_cores(root).n == 2


def test_a_path_outside_of_the_mount(tmp_path: Path) -> None:
    """A cgroup namespace shows a mount whose root the path doesn't lie under."""
    root = v2(tmp_path, {"": "100000 100000\n"}, "/../other", "/here")
    assert usable_cores(root).n == 1


def test_no_files(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == (16, "affinity mask")


def test_affinity_below_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert usable_cores(v2(tmp_path, {"": "300000 100000\n"})) == (1, "affinity mask")


def test_the_model_uses_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qwen3_embed.loading.engines.usable_cores", lambda: Cores(3, "CPU quota of 2.5")
    )
    with Embedder(folder, device="cpu") as model:
        assert (model.info["num_threads"], model.info["threads_from"]) == (3, "CPU quota of 2.5")
    with Embedder(folder, device="cpu", num_threads=2) as model:
        assert (model.info["num_threads"], model.info["threads_from"]) == (2, "num_threads")
