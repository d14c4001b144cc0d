"""How much memory this process can still have: what the machine has left, or less where its control group says so."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be had; None where the system does not say."""
    found = [_meminfo(Path("/proc/meminfo")), _cgroup(Path("/sys/fs/cgroup"))]
    return min((each for each in found if each is not None), default=None)


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup(folder: Path) -> int | None:
    """What is left of the control group's limit, version 2 or 1; pages of files that can be dropped count as left."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / used).with_name("memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():
            return max(int(most) - now + int(stat.get("inactive_file", stat.get("total_inactive_file", 0))), 0)
    return None
