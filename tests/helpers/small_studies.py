"""A study of four quick cells, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from bitrl.core.studies.comparison import compare
from bitrl.core.studies.design import Cell
from bitrl.core.studies.processes import Ended, Executor, Processes
from bitrl.core.studies.running import run_study
from bitrl.core.studies.study import Study, read_study
from bitrl.core.studies.worker import die_with, work

QUICK = {
    "run": {"backbone": "mlp", "steps": 384, "num_envs": 4, "eval_episodes": 3, "checkpoint_every": 1},
    "algo": {"rollout_steps": 64, "epochs": 1},
    "backbone": {"hidden": [8]},
}
DATA = {"study": {"seeds": "0-1"}, "base": QUICK, "grid": {"algo.clip_coef": [0.1, 0.2]}}


class Forked:
    """An `Executor` of copies of this process, which has imported already what each of `Processes` has to."""

    capacity = 2

    def __init__(self) -> None:
        import gymnasium  # noqa: F401
        import torch  # noqa: F401

        self._running: dict[int, Cell] = {}

    def start(self, cell: Cell, place: Path) -> None:
        parent, pid = os.getpid(), os.fork()
        if pid:
            self._running[pid] = cell
            return
        try:
            os.setpgid(0, 0)
            die_with(parent)
            work(cell.arm.config(cell.seed).as_dict(), place)
        except BaseException:
            os._exit(1)
        os._exit(0)

    def ended(self) -> list[Ended]:
        found = []
        for pid in [*self._running]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                found.append(Ended(self._running.pop(pid), "", lost=os.WIFSIGNALED(status), ok=status == 0))
        return found

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        for pid in self._running:
            os.waitpid(pid, 0)
        self._running.clear()

    def _signal(self, number: int) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def go(directory: Path, data: dict[str, Any] = DATA, executor: Executor | None = None, **arguments: Any) -> Study:
    """Create a study and run it, in processes as `bitrl study` starts them unless an executor is given."""
    study, _ = Study.create(directory, data)
    try:
        run_study(study, executor or Processes(2, len(study.design.cells)), **arguments)
    finally:
        study.close()
    return study


def report(directory: Path) -> str:
    """All that is compared, as bytes that a user gets; places apart."""
    return json.dumps(compare(read_study(directory)[1]).as_dict())
