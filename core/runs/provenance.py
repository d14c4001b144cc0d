"""What a result depends on beside the configuration: versions, commit, processor; and the memory a process took."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp")


def versions() -> dict[str, str]:
    """The versions that a result depends on: Python, the platform, and the packages that computed it."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for package in ("bitrl", "torch", "numpy", "gymnasium", "mujoco", "minigrid", "textworld", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
    """The most memory this process has held so far, in MB (2**20 bytes)."""
    # On Linux getrusage() counts what the parent held when it started this process; VmHWM does not.
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.M)):
        return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
