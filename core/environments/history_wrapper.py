"""Environments whose observations hold the last k states instead of one (core/acting/history.py)."""

from __future__ import annotations

from typing import Any

import gymnasium

from bitrl.core.acting.admissible import OBSERVATION
from bitrl.core.acting.history import COUNT, StateHistory
from bitrl.core.environments.choice_wrappers import space_of_state


class HistoryWrapper(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """A wrapper whose observations hold the last k states of the current episode.

    They have the parts `count` and "0" to str(k - 1). Where there are fewer states than k, the first of the episode is
    repeated. Admissible actions (core/acting/admissible.py) are those of the newest state.
    """

    def __init__(self, env: gymnasium.Env, k: int):
        gymnasium.utils.RecordConstructorArgs.__init__(self, k=k)
        gymnasium.Wrapper.__init__(self, env)
        self._memory = StateHistory(k)
        state = space_of_state(env.observation_space)
        self._splits = state is not env.observation_space
        parts: dict[str, gymnasium.Space[Any]] = {str(index): state for index in range(k)}
        kept: gymnasium.Space[Any] = gymnasium.spaces.Dict({COUNT: gymnasium.spaces.Discrete(k, start=1), **parts})
        if self._splits:
            assert isinstance(env.observation_space, gymnasium.spaces.Dict)
            kept = gymnasium.spaces.Dict({**env.observation_space.spaces, OBSERVATION: kept})
        self.observation_space = kept

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and clear the history."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._memory.clear()
        return self._with_history(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_history(observation), reward, terminated, truncated, info

    def _with_history(self, observation: Any) -> Any:
        kept = self._memory.add(observation[OBSERVATION] if self._splits else observation)
        return {**observation, OBSERVATION: kept} if self._splits else kept
