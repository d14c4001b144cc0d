"""Vector environments of one environment as that environment: for ids that Gymnasium makes as vector environments
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate


class OneOfVector(gymnasium.Env):
    """The only environment of a vector environment, which may reset itself at the end of an episode."""

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        self.metadata, self.render_mode, self.spec = envs.metadata, envs.render_mode, envs.spec
        self._same_step = envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP

    @property
    def np_random(self) -> np.random.Generator:
        """That of the vector environment, from which all its randomness comes."""
        return self.envs.unwrapped.np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self.envs.unwrapped.np_random = value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observations, info = self.envs.reset(seed=seed, options=options)
        return self._first(observations), _of_first(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; the observation is the episode's own, also at its end."""
        room: Any = create_empty_array(self.action_space, n=1)
        actions = concatenate(self.action_space, [action], room)
        observations, rewards, terminated, truncated, info = self.envs.step(actions)
        if self._same_step and (terminated[0] or truncated[0]):
            last, own = info["final_obs"][0], _of_first(info.get("final_info", info))
            return last, rewards[0], bool(terminated[0]), bool(truncated[0]), own
        return self._first(observations), rewards[0], bool(terminated[0]), bool(truncated[0]), _of_first(info)

    def render(self) -> Any:
        """What the vector environment renders of it."""
        frames = self.envs.render()
        return frames[0] if isinstance(frames, (tuple, list)) and frames else frames

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def _first(self, observations: Any) -> Any:
        return next(iter(iterate(self.envs.observation_space, observations)))


def _of_first(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a vector environment's `info` says of its first environment; `_name` says whether there is a `name`."""
    found = {}
    for name, value in info.items():
        if name.startswith("_") and name[1:] in info:
            continue
        if isinstance(value, Mapping):
            found[name] = _of_first(value)
        elif isinstance(value, (np.ndarray, list, tuple)) and len(value) and np.ravel(info.get(f"_{name}", True))[0]:
            found[name] = value[0]
    return found
