"""Ctrl-C during a run: the current update is finished and saved before the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts(notify: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C calls `notify` and makes the yielded function true; a second one stops immediately.

    Outside the main thread, where Python allows no signal handlers, Ctrl-C keeps its handler.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        notify()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
