"""Runs a study's cells until all are finished or have failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from bitrl.core.errors import RunStopped
from bitrl.core.runs.interrupts import interrupts
from bitrl.core.studies.design import Cell
from bitrl.core.studies.processes import Ended, Executor
from bitrl.core.studies.study import Status, Study, progress_of
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program

POLL_SECONDS = 0.2
SHOW_SECONDS = 1.0
LOST_WITHOUT_PROGRESS = 3
"""A cell that is lost so many times without a step in between has failed."""


@attrs.frozen
class CellState:
    """How a cell stands, for displays: steps done of all, the last rollout's mean return (sampled actions), seconds of
    training, and why it failed.
    """

    cell: Cell
    status: Status | str
    step: int
    steps: int
    mean_return: float | None
    seconds: float
    failure: str = ""


Show = Callable[[Sequence[CellState]], None]


def run_study(study: Study, executor: Executor, *, retry: bool = False, show: Show = lambda states: None) -> None:
    """Run every cell that is not finished.

    A cell that fails is recorded, and the others go on; one that is lost (killed from outside) is resumed. Ctrl-C lets
    each running cell save its checkpoint, and stops.

    Args:
        study: where.
        executor: how.
        retry: also those that failed before.
        show: called now and then with the state of every cell.

    Raises:
        RunStopped: it was interrupted.
    """
    cells = study.design.cells
    steps = {cell: cell.arm.config(cell.seed).run.steps for cell in cells}
    if retry:
        for cell in cells:
            study.retry(cell)
    # Those that were begun first: they are nearest to their end.
    order = {"stopped": 0, "waiting": 1}
    waiting = sorted(
        (cell for cell in cells if study.status(cell) in order), key=lambda each: order[study.status(each)]
    )
    running: list[Cell] = []
    lost: Counter[Cell] = Counter()
    last_step: dict[Cell, int] = {}
    shown = 0.0

    finished: dict[Cell, CellState] = {}

    def state(cell: Cell) -> CellState:
        if cell not in finished:
            found = read(cell)
            if found.status != "finished":
                return found
            finished[cell] = found
        return finished[cell]

    def read(cell: Cell) -> CellState:
        status: str = "running" if cell in running else study.status(cell)
        step, mean_return, seconds = progress_of(study.place(cell))
        why = study.failure(cell) if status == "failed" else ""
        return CellState(cell, status, step, steps[cell], mean_return, seconds, why)

    def end(event: Ended) -> None:
        cell = event.cell
        running.remove(cell)
        if study.status(cell) == "finished":
            return
        step = progress_of(study.place(cell))[0]
        lost[cell] = lost[cell] + 1 if step <= last_step.get(cell, -1) else 1
        last_step[cell] = step
        if event.lost and lost[cell] < LOST_WITHOUT_PROGRESS:
            waiting.insert(0, cell)
        elif not interrupted():
            study.fail(cell, event.message or "it ended without a message, and without a result")

    try:
        with interrupts(lambda signum: executor.interrupt()) as interrupted:
            while running or (waiting and not interrupted()):
                while waiting and len(running) < executor.capacity and not interrupted():
                    cell = waiting.pop(0)
                    executor.start(cell, study.place(cell))
                    running.append(cell)
                for event in executor.ended():
                    end(event)
                if not running or time.monotonic() - shown > SHOW_SECONDS:
                    show([state(cell) for cell in cells])
                    shown = time.monotonic()
                if running:
                    time.sleep(POLL_SECONDS)
            if interrupted():
                words = f"stopped; continue with: {program()} study {shell_word(study.directory)}"
                raise RunStopped(words, interrupted())
    finally:
        executor.close()
