"""What an environment or an algorithm reports of its own, as numbers by name.

An environment puts `info["metrics"] = {"distance": 3.2}` into the last step of an episode. The mean over the episodes
that end in an update is in its row of metrics.jsonl as `env.distance`, the mean over those of an evaluation in its
results under `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitrl.core.errors import RunFailed

METRICS = "metrics"
"""The key in `info`."""


def finite_numbers(whose: str, reported: Any) -> dict[str, float]:
    """The numbers that somebody reported, by name.

    Args:
        whose: names who reported them, in errors.
        reported: whatever came.

    Raises:
        RunFailed: it is not a dict of finite numbers by name.
    """
    if not isinstance(reported, Mapping):
        raise RunFailed(f"{whose}: expected a dict of numbers by name, got {reported!r:.80}")
    for name, value in reported.items():
        if not (isinstance(name, str) and _is_finite(value)):
            raise RunFailed(f"{whose}: expected finite numbers by name, got {name!r:.40}: {value!r:.80}")
    return {name: float(value) for name, value in reported.items()}


def _is_finite(value: Any) -> bool:
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


class Means:
    """Means of what environments report at the ends of episodes."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, reported: Mapping[str, float]) -> None:
        """Count what one episode reported."""
        for name, value in reported.items():
            self._values.setdefault(name, []).append(value)

    def add_ended(self, info: Mapping[str, Any], ended: np.ndarray) -> None:
        """Count those of the environments `ended` [m], from a vector environment's info of their last step."""
        stacked = info.get(METRICS, {})
        for name, values in stacked.items():
            there = stacked.get(f"_{name}")  # which environments reported it; that itself has none
            if there is not None:
                self._values.setdefault(name, []).extend(float(values[i]) for i in ended if there[i])

    def take(self) -> dict[str, float]:
        """The mean of each, in order of their names; counting starts again."""
        means = {name: math.fsum(values) / len(values) for name, values in sorted(self._values.items()) if values}
        self._values = {}
        return means
