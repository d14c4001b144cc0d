"""Says when a quantised rollout drifts from the policy that learns from it, before the reward falls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitrl.core.wording import setting, warn

BOUNDS = {
    "ess": (0.7, "the rollout's weights leave only {value:.0%} of its tokens effective"),
    "m2": (0.05, "actor and learner differ by {value:.3f} in their squared log-ratio"),
    "sign_skew": (0.1, "the actor's tokens with positive advantages are off by {value:+.3f} against the others'"),
}
"""Diagnostics of estimators.correct → the bound of a sound rollout (ess: from below, others: of the absolute value),
and what is said beyond it. In runs without quantisation, ess is 1 and the others are 0.
"""

PATIENCE = 3
"""Updates in a row beyond a bound before it is told."""


class Alarms:
    """Warns once for each bound that is exceeded in `PATIENCE` updates in a row."""

    def __init__(self) -> None:
        self._in_a_row = dict.fromkeys(BOUNDS, 0)
        self._told: set[str] = set()

    def state(self) -> dict[str, np.ndarray]:
        """How often in a row each bound was exceeded, and which were told."""
        return {
            "alarms.in_a_row": np.array([*self._in_a_row.values()]),
            "alarms.told": np.array([name in self._told for name in BOUNDS]),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`."""
        self._in_a_row = dict(zip(BOUNDS, map(int, state["alarms.in_a_row"]), strict=True))
        self._told = {name for name, told in zip(BOUNDS, state["alarms.told"], strict=True) if told}

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        """The metrics of the update that ended at an environment step."""
        for name, (bound, words) in BOUNDS.items():
            value = metrics.get(name)
            if value is None:
                continue
            beyond = value < bound if name == "ess" else abs(value) > bound
            self._in_a_row[name] = self._in_a_row[name] + 1 if beyond else 0
            if self._in_a_row[name] == PATIENCE and name not in self._told:
                self._told.add(name)
                warn(
                    f"step {step:,}: {words.format(value=value)} ({name}): the reward may collapse; use "
                    f"{setting('algo.correction', 'acr')}, a finer {setting('algo.rollout', 'int8')}, or a smaller "
                    f"{setting('algo.learning_rate')}"
                )
