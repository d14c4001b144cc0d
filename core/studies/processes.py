"""Runs cells in processes of this machine, which share its CPUs evenly."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import attrs

from bitrl.core.cpus import available_cpus
from bitrl.core.runs.interrupts import SIGNALS
from bitrl.core.studies.design import Cell

STOPPED = tuple(128 + each for each in SIGNALS)
"""Exit codes of a run that saved and stopped since it was asked to."""


@attrs.frozen
class Ended:
    """A cell's process has ended.

    Attributes:
        cell: which.
        message: what it said on stderr.
        lost: it did not end by itself (killed, or its machine is gone): it may go on elsewhere.
        ok: it finished.
    """

    cell: Cell
    message: str
    lost: bool
    ok: bool


class Executor(Protocol):
    """Where cells run."""

    @property
    def capacity(self) -> int:
        """How many run at once."""
        ...

    def start(self, cell: Cell, place: Path) -> None:
        """Start training a cell in its directory."""
        ...

    def ended(self) -> list[Ended]:
        """The cells that have ended since the last call."""
        ...

    def interrupt(self) -> None:
        """Ask all cells to save and stop."""
        ...

    def close(self) -> None:
        """Stop all cells at once."""
        ...


@attrs.define
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    slot: int


class Processes:
    """An `Executor` of processes, each on its own share of the CPUs that this one may use."""

    def __init__(self, jobs: int | None, cells: int):
        """`jobs` processes at once (None: one for each CPU), and no more than there are cells."""
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
        cpus = cpus[: available_cpus()]  # fewer where a quota allows fewer
        self.capacity = max(min(jobs or len(cpus), cells), 1)
        self._shares = [cpus[slot :: self.capacity] or [cpus[slot % len(cpus)]] for slot in range(self.capacity)]
        self._running: list[_Running] = []
        self._interrupted = False

    def start(self, cell: Cell, place: Path) -> None:
        """Start a process; its threads are as many as its CPUs."""
        slot = min(set(range(self.capacity)) - {each.slot for each in self._running})
        share = self._shares[slot]
        values = cell.arm.config(cell.seed).as_dict()
        task: dict[str, Any] = {"values": values, "directory": str(place), "parent": os.getpid()}
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        process = subprocess.Popen(
            [sys.executable, "-m", "bitrl.core.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": str(len(share))},
            process_group=0,  # a Ctrl-C reaches it once, through `interrupt`; in this session, `nice` counts
        )
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it has ended already
                os.sched_setaffinity(process.pid, share)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(task).encode())
        self._running.append(_Running(cell, process, stderr, slot))
        if self._interrupted:  # since it was started: `interrupt` did not know of it
            _ask_to_stop(process)

    def ended(self) -> list[Ended]:
        """See `Executor`."""
        return list(self._collect())

    def _collect(self) -> Iterator[Ended]:
        for each in [each for each in self._running if each.process.poll() is not None]:
            self._running.remove(each)
            code = each.process.returncode
            with each.stderr as file:
                file.seek(0)
                message = file.read()[-20_000:].decode(errors="replace")
            lost = code < 0 or code in STOPPED
            if code < 0:
                message += f"\nkilled by {signal.Signals(-code).name}" + (
                    ": out of memory, perhaps" if code == -signal.SIGKILL else ""
                )
            yield Ended(each.cell, message, lost=lost, ok=code == 0)

    def interrupt(self) -> None:
        """See `Executor`."""
        self._interrupted = True
        for each in self._running:
            _ask_to_stop(each.process)

    def close(self) -> None:
        """See `Executor`."""
        for each in self._running:
            each.process.kill()
            each.process.wait()
            each.stderr.close()
        self._running.clear()


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)  # a script's background, and what it starts, ignores SIGINT
