"""Evaluations while a run trains: rows of evaluations.jsonl, and the checkpoint of the best one, best.safetensors.

They change nothing of the training: it is bit-identical without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bitrl.core.acting.checkpoints import pieces
from bitrl.core.config import Config
from bitrl.core.files import write_atomically
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.evaluate import play, statistics
from bitrl.core.runs.listeners import Listener
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.core.runs.parts import EVALUATION_WHILE_TRAINING, Parts, checkpoint_of
from bitrl.core.runs.store import BEST, EVALUATIONS, RunStore


class PeriodicEvaluations:
    """The evaluations of a run at every `run.eval_every` steps; none if that is unset.

    The episodes are the same each time, and others than those of the evaluation at the end, which says without bias
    how good an agent is that was chosen by these.

    Attributes:
        best: the row of the best one so far, None before the first.
        due: whether one is to be done before the next update. One that was interrupted, or failed, remains due, and the
            checkpoint says so.
    """

    def __init__(self, config: Config, parts: Parts, store: RunStore, tell: Listener, memory: MemoryLimit):
        """Of an opened run; rows beyond its checkpoint are gone already."""
        self.config, self.parts, self.store, self.tell, self.memory = config, parts, store, tell, memory
        self.best: Mapping[str, Any] | None = None
        self.due = False
        for row in store.evaluations():
            if self._is_better(row):
                self.best = row

    def stepped(self, before: int, after: int) -> None:
        """An update took the run from one step to another."""
        every = self.config.run.eval_every
        self.due = every is not None and after // every != before // every

    def resumed(self, step: int, due: bool) -> None:
        """The run goes on from a checkpoint that says whether one is due."""
        done = any(row["step"] == step for row in self.store.evaluations())
        self.due = due and not done and self.config.run.eval_every is not None

    def __call__(self, algorithm: Algorithm, updates: int, interrupted: Callable[[], bool]) -> None:
        """Evaluate if one is due, before the update's checkpoint is saved.

        Raises:
            RunFailed: as `play`.
        """
        if not self.due:
            return
        run = self.config.run
        returns = play(
            self.parts,
            algorithm,
            run.eval_every_episodes,
            run.seed,
            self.store.directory,
            self.tell,
            interrupted,
            max_steps=run.eval_max_steps,
            use=EVALUATION_WHILE_TRAINING,
            memory=self.memory,
        )
        if len(returns) < run.eval_every_episodes:
            return
        row = {"step": algorithm.step, **statistics(returns)}
        if self._is_better(row):
            # Before the row: a process that is killed between them evaluates again.
            saved = checkpoint_of(self.config, algorithm, updates, self.store.covered())
            write_atomically(self.store.place / BEST, pieces(saved))
            self.best = row
        self.store.append(EVALUATIONS, json.dumps(row) + "\n")
        self.due = False

    def _is_better(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is the best so far: of equal ones the first."""
        return self.best is None or bool(row["mean_return"] > self.best["mean_return"])
