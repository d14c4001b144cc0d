"""What a result depends on beside the configuration: versions, the git commit; and how much memory a process took."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """The versions that a result depends on: Python, the platform, and the packages that computed it."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for package in ("bitrl", "torch", "numpy", "gymnasium", "mujoco", "tokenizers"):
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


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB (2**20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
