"""CPUs counted in made-up /proc and /sys, as containers and services have them."""

import os
from pathlib import Path

import pytest

from bitrl.core.cpus import available_cpus

V2 = "24 1 0:22 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = "23 1 0:21 / /proc rw - proc proc rw\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def system(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def v2(root: Path, path: str, shown: str = "/", **quotas: str) -> Path:
    """`quotas` by group, its slashes written as __."""
    files = {f"sys/fs/cgroup/{name.replace('__', '/').strip('/')}/cpu.max": text for name, text in quotas.items()}
    return system(root, f"0::{path}", f"{OTHERS}\n{V2.format(shown=shown)}", files)


def v1(root: Path, path: str, shown: str = "/", **quotas: tuple[int, int]) -> Path:
    files = {}
    for name, numbers in quotas.items():
        for kind, number in zip(("quota", "period"), numbers, strict=True):
            group = name.replace("__", "/").strip("/")
            files[f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_{kind}_us"] = str(number)
    cgroup = f"12:memory:/elsewhere\n4:cpu,cpuacct:{path}\n0::/init.scope"
    return system(root, cgroup, f"{OTHERS}\n{V1.format(shown=shown)}", files)


def test_version_2(tmp_path: Path) -> None:
    assert available_cpus(v2(tmp_path / "a", "/app", app="200000 100000")) == 2
    assert available_cpus(v2(tmp_path / "b", "/app", app="max 100000")) == 16
    assert available_cpus(v2(tmp_path / "c", "/app", app="150000 100000")) == 2
    assert available_cpus(v2(tmp_path / "d", "/app", app="1000 100000")) == 1
    assert available_cpus(v2(tmp_path / "e", "/app", app="9900000 100000")) == 16  # affinity is less
    assert available_cpus(v2(tmp_path / "f", "/", __="300000 100000")) == 3  # a container's own namespace


def test_the_groups_above_count_too(tmp_path: Path) -> None:
    quotas = {"slurm__job": "max 100000", "slurm": "300000 100000", "slurm__job__step": "800000 100000"}
    assert available_cpus(v2(tmp_path / "a", "/slurm/job/step", **quotas)) == 3
    assert available_cpus(v1(tmp_path / "b", "/kube/pod", kube__pod=(-1, 100000), kube=(400000, 100000))) == 4


def test_version_1(tmp_path: Path) -> None:
    assert available_cpus(v1(tmp_path / "a", "/app", app=(250000, 100000))) == 3
    assert available_cpus(v1(tmp_path / "b", "/app", app=(-1, 100000))) == 16
    # A container sees its own group mounted at the top, and the host's path to it.
    assert available_cpus(v1(tmp_path / "c", "/docker/1f", shown="/docker/1f", __=(200000, 100000))) == 2
    assert available_cpus(v1(tmp_path / "d", "/docker/1f", shown="/docker/other", __=(200000, 100000))) == 2


@pytest.mark.parametrize("text", ["", "max", "many 100000", "100000 0", "-1 100000", "0 100000", "1 2 3", "\x00"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    assert available_cpus(v2(tmp_path, "/app", app=text)) == 16


@pytest.mark.parametrize("cgroup", ["", "nothing", "0::", "0::/../../..", "::::", "0::/gone"])
@pytest.mark.parametrize(
    "mounts", ["", "nothing", "1 2 3 - cgroup2", V2.format(shown="/"), " - ", "a b c d /e - cgroup2 x y"]
)
def test_odd_tables(tmp_path: Path, cgroup: str, mounts: str) -> None:
    assert available_cpus(system(tmp_path, cgroup, mounts, {})) == 16


def test_other_systems_and_this_one(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 16
    assert 1 <= available_cpus() <= 16
