"""Evaluations while a run trains: rows of evaluations.jsonl, and the checkpoint of the best one, best.safetensors.

They change nothing of the training: it is bit-identical without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bitrl.core.acting.checkpoints import pieces
from bitrl.core.config import Config
from bitrl.core.files import write_atomically
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.evaluate import play, statistics
from bitrl.core.runs.listeners import Listener
from bitrl.core.runs.parts import EVALUATION_WHILE_TRAINING, Parts, checkpoint_of
from bitrl.core.runs.store import BEST, EVALUATIONS, RunStore


class PeriodicEvaluations:
    """The evaluations of a run at every `run.eval_every` steps; none if that is unset.

    The episodes are the same each time, and others than those of the evaluation at the end, which says without bias
    how good an agent is that was chosen by these.

    Attributes:
        best: the row of the best one so far, None before the first.
    """

    def __init__(self, config: Config, parts: Parts, store: RunStore, tell: Listener):
        """Of an opened run; rows beyond its checkpoint are gone already."""
        self.config, self.parts, self.store, self.tell = config, parts, store, tell
        self.best: Mapping[str, Any] | None = None
        for row in store.evaluations():
            self._take(row)

    def __call__(self, algorithm: Algorithm, before: int, updates: int) -> None:
        """Evaluate if one is due after the update that began at step `before`, before its checkpoint is saved."""
        run = self.config.run
        if run.eval_every is None or algorithm.step // run.eval_every == before // run.eval_every:
            return
        returns = play(
            self.parts,
            algorithm,
            run.eval_every_episodes,
            run.seed,
            self.store.directory,
            self.tell,
            max_steps=run.eval_max_steps,
            use=EVALUATION_WHILE_TRAINING,
        )
        row = {"step": algorithm.step, **statistics(returns)}
        self.store.append(EVALUATIONS, json.dumps(row) + "\n")
        if self._take(row):
            saved = checkpoint_of(self.config, algorithm, updates, self.store.covered())
            write_atomically(self.store.place / BEST, pieces(saved))

    def _take(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is the best so far: of equal ones the first."""
        better = self.best is None or row["mean_return"] > self.best["mean_return"]
        if better:
            self.best = row
        return better
