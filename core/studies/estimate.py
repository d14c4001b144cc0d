"""How long a study's cells will take: from those that have finished, or from a short training of each arm."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from bitrl.core.runs.interrupts import stopped_at_once
from bitrl.core.studies.design import Arm, Cell
from bitrl.core.studies.processes import Executor
from bitrl.core.studies.study import Study, progress_of

ROLLOUTS = 2
"""Of a short training: the first one also pays for what is made once."""


def seconds_per_step(study: Study, executor: Executor, say: Callable[[str], None]) -> dict[Arm, float]:
    """Seconds of training per environment step of each arm, without the evaluation; arms whose short training fails are
    left out, and `say` is told why.
    """
    found: dict[Arm, float] = {}
    for cell in study.design.cells:
        step, _, seconds = progress_of(study.place(cell))
        if study.status(cell) == "finished" and step and seconds:
            found[cell.arm] = seconds / step
    missing = [arm for arm in study.design.arms if arm not in found]
    with stopped_at_once(), tempfile.TemporaryDirectory(prefix="bitrl-study-") as folder:
        try:
            waiting, running = [Cell(_short(arm), 0) for arm in missing], 0
            arms = dict(zip(waiting, missing, strict=True))
            places = {cell: Path(folder, str(number)) for number, cell in enumerate(waiting)}
            while waiting or running:
                while waiting and running < executor.capacity:
                    executor.start(waiting[0], places[waiting.pop(0)])
                    running += 1
                for event in executor.ended():
                    running -= 1
                    step, _, seconds = progress_of(places[event.cell])
                    if event.ok and step:
                        found[arms[event.cell]] = seconds / step
                    else:
                        say(f"{event.cell.arm.name}: {(event.message.strip().splitlines() or ['failed'])[-1]}")
                time.sleep(0.05)
        finally:
            executor.close()
    return found


def _short(arm: Arm) -> Arm:
    """The same arm, trained for `ROLLOUTS` rollouts only, and not evaluated."""
    config = arm.config(0)
    rollout = getattr(config.algo_options, "rollout_steps", 2048)
    run = {**arm.values.get("run", {}), "steps": ROLLOUTS * rollout, "eval_episodes": 0}
    return attrs.evolve(arm, values={**arm.values, "run": run})
