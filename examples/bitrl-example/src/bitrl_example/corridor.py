"""A corridor: steps to the left and to the right, a reward at the right end, and a floor that is slippery."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

import bitrl
from bitrl_example import CorridorOptions


class Corridor(gymnasium.Env):
    """Observation: the position in metres, float32 [1]. Actions: 0 left, 1 right. All chance is in `np_random`."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as gymnasium.Env declares it)

    def __init__(self, length: int, slip: float):
        self.length, self.slip = length, slip
        self.observation_space = gymnasium.spaces.Box(0.0, float(length), (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start in the left half."""
        super().reset(seed=seed)
        self.position = int(self.np_random.integers(0, self.length // 2, endpoint=True))
        self.steps = 0
        return self.observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move one metre, in the other direction than wanted with probability `slip`."""
        right = bool(action) != (self.np_random.random() < self.slip)
        self.position = max(0, min(self.position + (1 if right else -1), self.length))
        self.steps += 1
        arrived = self.position == self.length
        return self.observation(), float(arrived), arrived, not arrived and self.steps >= 4 * self.length, {}

    def observation(self) -> np.ndarray:
        """The position, float32 [1]."""
        return np.array([self.position], np.float32)


class CorridorEnvironment(bitrl.Environment):
    """Makes corridors, and says what their one number means."""

    options: CorridorOptions

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new corridor; it draws no pictures."""
        return Corridor(self.options.length, self.options.slip)

    def observation_spec(self) -> bitrl.ObservationSpec:
        """The position, in metres."""
        return bitrl.ObservationSpec(self.id, (bitrl.Field("position", 0.0, float(self.options.length), "m"),))
