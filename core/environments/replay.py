"""Environments that can be put back where they were, whatever they are: by playing the current episode again.

Gymnasium has no way to save an environment, but its contract says that all randomness comes from `np_random`. So
the state of that generator at the last reset, and the actions since, are the environment's state; going back costs
at most one
episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from bitrl.core.environments.observations import as_array, as_batch
from bitrl.core.errors import RunFailed
from bitrl.core.wording import setting


class Replayable(gymnasium.Wrapper):
    """Remembers how its current episode came about."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.start: dict[str, Any] = {}
        self.last_seed: int | None = None
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and note the seed or the generator it starts from, and the last seed there was."""
        generator = None if seed is not None else self.env.unwrapped.np_random.bit_generator.state
        self.last_seed = self.last_seed if seed is None else seed
        self.start = {"seed": seed, "generator": generator, "last_seed": self.last_seed}
        self.actions = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and note its action."""
        self.actions.append(np.array(action))
        return self.env.step(action)

    def state(self) -> tuple[dict[str, Any], np.ndarray]:
        """How the episode started, as plain data, and the actions since, [steps, ...]."""
        return self.start, np.array(self.actions)

    def restore(self, start: Mapping[str, Any], actions: np.ndarray) -> Any:
        """Play the episode of a `state()` again; return the observation it ends at."""
        if start["seed"] is None:
            self.last_seed = start.get("last_seed")
            self.env.reset(seed=self.last_seed or 0)  # builds whatever an environment builds at its first reset
            bit_generator = np.random.default_rng().bit_generator
            bit_generator.state = start["generator"]
            self.env.unwrapped.np_random = np.random.Generator(bit_generator)
        observation, _ = self.reset(seed=start["seed"])
        for action in actions:
            text = isinstance(action, np.str_)
            observation = self.step(str(action) if text else action if action.ndim else action[()])[0]
        return observation


class ArrayVectorEnv(SyncVectorEnv):
    """Environments side by side, whose observations are arrays [num_envs, ...] whatever their space (observations.py),
    and so are those in `info["final_obs"]`.
    """

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in each."""
        observations, info = super().reset(seed=seed, options=options)
        return as_batch(self.single_observation_space, observations, self.num_envs), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a step in each."""
        observations, rewards, terminated, truncated, info = super().step(actions)
        for index in np.flatnonzero(info.get("_final_obs", ())):
            info["final_obs"][index] = as_array(self.single_observation_space, info["final_obs"][index])
        observations = as_batch(self.single_observation_space, observations, self.num_envs)
        return observations, rewards, terminated, truncated, info


def vectorise(make: Callable[[], gymnasium.Env], num_envs: int) -> ArrayVectorEnv:
    """`num_envs` replayable environments side by side. A finished one is reset in the same step, so no step is
    wasted.
    """
    return ArrayVectorEnv([lambda: Replayable(make())] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def save(envs: VectorEnv) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The state of `vectorise`d environments: the actions of each episode so far, and how each started."""
    states = [env.state() for env in envs.envs]  # type: ignore[attr-defined]
    return {f"actions.{index}": actions for index, (_, actions) in enumerate(states)}, [start for start, _ in states]


def restore(
    envs: VectorEnv, arrays: Mapping[str, np.ndarray], starts: Sequence[Mapping[str, Any]], expected: np.ndarray
) -> None:
    """Bring `envs` back to a `save`d state, whose current observations [num_envs, ...] were `expected`.

    Raises:
        RunFailed: the observations differ: the environment draws randomness outside `np_random`.
    """
    observations = [
        as_array(env.observation_space, env.restore(start, arrays[f"actions.{index}"]))
        for index, (env, start) in enumerate(zip(envs.envs, starts, strict=True))  # type: ignore[attr-defined]
    ]
    found = np.stack(observations).astype(expected.dtype)
    if not np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f"):
        raise RunFailed(
            "the environment did not come back to where it was when its episode was played again: it draws randomness "
            f"outside np_random, so this run cannot be resumed exactly; start it anew with {setting('force')}"
        )
