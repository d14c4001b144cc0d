"""Memory of this process: what it takes now and took at most, sizes as they are typed, giving back what is free.

Also what components say of the memory that they will take (`BackboneRecord.memory`, `AlgorithmRecord.memory`). All in
bytes; MB are 2**20. Knows the system; nothing of runs.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

import attrs

MB = 2**20
UNITS = {"KB": 2**10, "MB": MB, "GB": 2**30}
MOST = 2**50
"""More than any machine has: a slip of the keyboard."""


def parse_size(text: str) -> int | None:
    """`300MB` or `1.5GB` in bytes; None for what is no such size."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(KB|MB|GB)\s*", text, re.IGNORECASE | re.ASCII)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    return size if 0 < size <= MOST else None


def in_mb(size: float) -> str:
    """`312 MB`; below 10 with a decimal."""
    return f"{size / MB:,.{int(abs(size) < 9.95 * MB)}f} MB"


def resident() -> int:
    """What is in memory of this process now; where the system does not say, the most so far."""
    return _status("VmRSS") or peak()


def peak() -> int:
    """The most that was in memory of this process so far."""
    # On Linux getrusage() counts what the parent held when it started this process; VmHWM does not.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (most if sys.platform == "darwin" else most * 2**10)


def proportional() -> int | None:
    """The same, but of a page that several processes have in memory, the share of each (PSS); None where the system
    does not say.
    """
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 2**10 if found else None


def _status(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        found = None
    return int(found[1]) * 2**10 if found else 0


def give_back() -> None:
    """Return to the system what was freed: the C library keeps it for what comes next. Only glibc can be asked."""
    import ctypes  # only where a limit is reached

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


@attrs.frozen(kw_only=True)
class BackboneMemory:
    """What a backbone will take, said before it is made.

    Attributes:
        width: d, how many features a state has; at most, where that is chosen first.
        model: for as long as it is there, all working memory included.
        cache: that its cache of features may grow to.
        before: beside `model`, before the run begins, to choose options.
    """

    width: int
    model: int
    cache: int = 0
    before: int = 0


@attrs.frozen(kw_only=True)
class LearningSizes:
    """What an algorithm's memory depends on beside its options.

    Attributes:
        num_envs: n.
        width: d, how many features a state has.
        critic_width: d', the same of the critic's own backbone; None: it has none.
        state_bytes: of a state in a rollout, observation and text, features apart.
        action_space: gymnasium.Space of one environment.
    """

    num_envs: int
    width: int
    critic_width: int | None
    state_bytes: int
    action_space: Any


@attrs.frozen(kw_only=True)
class LearningMemory:
    """What an algorithm will take: for what it learns, for as long as it is there, and at most while it collects a
    rollout, learns from it and is saved.
    """

    learner: int
    rollout: int
