"""An environment that forks, and whose child process comes back from its call: it must not go on as the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from bitrl.core.terminal import tell

generation = 0
"""How many forks this process is away from the one that imported this: asking for a process id takes a system call."""


def _count() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_count)


def end_child(id: str, where: str) -> NoReturn:
    """End this process, which was forked from the run's, at once: the run's files are not its own."""
    tell(
        f"environment {id}: a child process that it forked {where} came back from there and is ended here (process "
        f"{os.getpid()}); the run goes on in process {os.getppid()}: end the child by os._exit() in the environment"
    )
    os._exit(1)


@contextmanager
def in_one_process(id: str, where: str) -> Iterator[None]:
    """Within, an environment may fork; a child that leaves, by whatever way, is ended."""
    before = generation
    try:
        yield
    finally:
        if generation != before:
            end_child(id, where)
