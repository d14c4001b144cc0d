"""How many CPUs this process may use: affinity, and on Linux the quotas of its control groups.

A container with a quota of two CPUs sees all of its host's. Threads beyond the quota make everything slower: the group
is stopped for the rest of each period once they have used it up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs by affinity, or fewer where a quota of the process's control groups, or of those above them, says so: 1 or
    more, parts of one rounded up. `root` is where /proc and /sys are looked for.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def limit_spinning() -> None:
    """Has OpenMP's waiting threads, which are torch's, sleep after some microseconds, as the engine's do, unless the
    environment says how they wait. Wants to be called before torch is imported.

    GNU's go on for milliseconds. On a CPU that others want too, such as the engine's threads or another program, that
    is where most of a training's time goes: they are waited for, and keep off the threads that they wait for.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's own, where there are more threads than CPUs


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each group on the way up allows; what cannot be read allows all (other systems, hidden mounts)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    # proc(5): "ID:controllers:path", where version 2 has neither number nor controllers.
    paths = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in groups if line.count(":") > 1)
    }
    for line in mounts:
        before, after = (part.split() for part in line.partition(" - ")[::2])
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        second = after[0] == "cgroup2"
        if not second and "cpu" not in after[2].split(","):
            continue
        path = next((path for names, path in paths.items() if (not names if second else "cpu" in names.split(","))), "")
        yield from _on_the_way(root / before[4].lstrip("/"), before[3], path, second)


def _on_the_way(mount: Path, shown: str, path: str, second: bool) -> Iterator[float]:
    """The quotas of a group and all above it, as far as the mount shows them: it may begin at a group (`shown`)."""
    below = path.removeprefix(shown.rstrip("/")) if path.startswith(shown.rstrip("/")) else ""
    parts = [part for part in below.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        quota = _quota(mount.joinpath(*parts[:depth]), second)
        if quota is not None:
            yield quota


def _quota(group: Path, second: bool) -> float | None:
    """CPUs that one group allows; None: all."""
    try:
        if second:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        found = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # not there; or "max", which is no number
        return None
    return found if found > 0 else None
