"""Threads that an environment or a plugin leaves running: Python would wait for them at its end, forever if need be.

A simulator's client is often such a thread. A command that has done its work would not return, and a study not go on.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Collection
from typing import NoReturn

from bitrl.core.wording import warn

PATIENCE = 2.0
"""Seconds that threads have to end by themselves."""


def end(code: int, before: Collection[threading.Thread]) -> NoReturn:
    """End the process with this exit code; threads that were not there `before` and do not end in time are named, and
    not waited for.
    """
    until = time.monotonic() + PATIENCE
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())  # Python ends these itself
    waiting = [each for each in threading.enumerate() if not (each.daemon or each in before or each in pools)]
    for each in waiting:
        each.join(max(until - time.monotonic(), 0.0))
    if left := dict.fromkeys(each.name for each in waiting if each.is_alive()):
        warn(f"not waited for: {', '.join(left)}, left running by the environment or a plugin: end threads in close()")
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
