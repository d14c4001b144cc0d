"""What a result depends on besides the configuration: versions, commit, processor; and a process's peak memory."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

from bitrl.core.config import Config
from bitrl.core.registry import registry

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp")


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions that a result depends on: Python, the platform, and in alphabetical order every distribution that
    this process has imported from, and `packages`.
    """
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    return found | dict(sorted({**_imported(), **_installed(packages)}.items()))


def packages_of(config: Config) -> set[str]:
    """The distributions that provide a run's components."""
    parts = (config.environment, config.serializer, config.backbone, config.critic_backbone, config.algorithm)
    records = [*parts, *(logger.record for logger in config.loggers)]
    packages = (registry().package(record) for record in records if record is not None)
    return {package for package in packages if package is not None}


def _imported() -> dict[str, str]:
    """Name and version of each distribution that a module imported so far belongs to.

    importlib.metadata.packages_distributions() finds the same from all installed distributions, many times more
    slowly.
    """
    imported = {name.partition(".")[0] for name in sys.modules}
    found: dict[str, str] = {}
    for each in distributions():
        declared = (each.read_text("top_level.txt") or "").split()
        # Lines of RECORD, as "package/module.py,sha256=…,123" or "module.py,…".
        recorded = re.findall(r"^([^/,.\n]+)[/.]", "" if declared else each.read_text("RECORD") or "", re.M)
        if not imported.isdisjoint(declared or recorded):
            found.setdefault(_normalised(each.name), each.version)  # the first on the path is the one imported
    return found


def _installed(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[_normalised(package)] = distribution(package).version
        except PackageNotFoundError:  # a module that was registered by hand
            continue
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def git_commit() -> dict[str, str]:
    """`{"git_commit": …}` of the directory the process was started in; empty outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"git_commit": answer.stdout.strip()} if answer.returncode == 0 else {}


def processor() -> dict[str, Any]:
    """The processor's name, the CPUs this process may use, and the instruction sets that matter here."""
    name, flags = "unknown", set()
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": name, "cpus": cpus, "features": [feature for feature in _FEATURES if feature in flags]}


def peak_rss_mb() -> float:
    """The peak resident memory of this process so far, in MB (2**20 bytes)."""
    # On Linux getrusage() counts what the parent held when it started this process; VmHWM does not.
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.M)):
        return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
