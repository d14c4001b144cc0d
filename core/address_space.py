"""Whether there is address space enough for NumPy, whose OpenBLAS ends the process where there is not.

Where `ulimit -v` limits it, the room is compared with what NumPy takes, before it is imported; elsewhere nothing is
done. Knows how OpenBLAS finds the number of its threads.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence

from bitrl.core.errors import RunFailed

MB = 10**6
NUMPY, THREAD = 90 * MB, 45 * MB
"""Address space of NumPy 2's wheels with one thread, and of each further one: its buffer (32 MB) and stack (8 MB)."""

THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables, in the order in which OpenBLAS reads them."""


def watch() -> None:
    """From now on, importing NumPy raises RunFailed where it would not fit. Does nothing where there is no limit."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        sys.meta_path.insert(0, _Watch())


class _Watch:
    """Python asks it for every module that is about to be imported; it has none."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name == "numpy":
            check()


def check() -> None:
    """Raises RunFailed when NumPy would not fit into the address space that is left."""
    limit, threads = resource.getrlimit(resource.RLIMIT_AS)[0], _threads()
    needed = NUMPY + (threads - 1) * THREAD
    if limit != resource.RLIM_INFINITY and limit - used() < needed:
        fewer = f", or lower the number of threads, which is {threads} ({THREADS[0]}=1)" if threads > 1 else ""
        raise RunFailed(
            f"out of memory: the address space is limited to {limit // MB} MB, of which {used() // MB} are used, and "
            f"NumPy alone takes {needed // MB} more: raise the limit (ulimit -v){fewer}"
        )


def _threads() -> int:
    from bitrl.core.cpus import available_cpus  # only where there is a limit

    asked = (os.environ.get(name, "") for name in THREADS)
    return min([available_cpus(), *[int(value) for value in asked if value.isdecimal() and int(value)][:1]])


def used() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
