"""Signals that ask a run to stop: the current update is finished and saved first."""

from __future__ import annotations

import errno
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bitrl.core.terminal import send_nowhere

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what containers, Slurm and kill send; a terminal that is closed."""


class StoppedAtOnce(KeyboardInterrupt):
    """A second signal, `signum`, or one before there was anything to save: what was not saved is lost."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


@contextmanager
def interrupts(notify: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Within, the first of `SIGNALS` calls `notify` with its number, which the yielded function returns from then on (0
    before); a second one stops immediately.
    """
    first = 0

    def handler(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if first:
            raise StoppedAtOnce(signum)
        first = signum
        if signum == signal.SIGHUP:
            _leave_terminal()
        notify(signum)

    def came() -> int:
        return first

    with _handled_by(handler):
        yield came


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Within, `SIGNALS` raise StoppedAtOnce, so that what was made is closed: SIGTERM and SIGHUP would end the process
    and leave a simulator behind. Where there is something to save, `interrupts` is within this.
    """

    def handler(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            _leave_terminal()
        raise StoppedAtOnce(signum)

    with _handled_by(handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, `handler` gets `SIGNALS`, but not those that are ignored (SIGHUP under nohup, SIGINT in a script's
    background), and none outside the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    taken = [each for each in SIGNALS if before[each] not in (signal.SIG_IGN, None)]
    for each in taken:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, before[each])


def _leave_terminal() -> None:
    """Send what is printed from now on nowhere, if the terminal has gone: an error there would stop the run unsaved."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                send_nowhere(descriptor)
