"""Restores any environment to a saved state by replaying the current episode.

Gymnasium has no way to save an environment, but its contract says that all randomness comes from `np_random`. So
the state of that generator at the last reset, and the actions since, determine the environment's state; restoring it
costs at most one episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from bitrl.core.acting.nested import taken_apart
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.checked import briefly, checked
from bitrl.core.environments.crashes import close_quietly
from bitrl.core.environments.observations import as_array, as_batch, dtype_of
from bitrl.core.errors import RunFailed
from bitrl.core.wording import setting


class Replayable(gymnasium.Wrapper):
    """Records the start and the actions of its current episode."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._parts = isinstance(env.action_space, (Dict, Tuple))
        self.start: dict[str, Any] = {}
        self.last_seed: int | None = None
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and record its seed or the generator's state, and the last seed used."""
        generator = None if seed is not None else self.env.unwrapped.np_random.bit_generator.state
        self.last_seed = self.last_seed if seed is None else seed
        self.start = {"seed": seed, "generator": generator, "last_seed": self.last_seed}
        self.actions = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and record its action."""
        self.actions.append(as_array(self.action_space, action) if self._parts else np.array(action))
        return self.env.step(action)

    def state(self) -> tuple[dict[str, Any], np.ndarray]:
        """How the episode started, as plain data, and the actions since, [steps, ...]."""
        return self.start, np.array(self.actions)

    def restore(self, start: Mapping[str, Any], actions: np.ndarray) -> Any:
        """Replay the episode of a `state()`; return its last observation."""
        if start["seed"] is None:
            self.last_seed = start.get("last_seed")
            self.env.reset(seed=self.last_seed or 0)  # some environments build things in their first reset
            bit_generator = np.random.default_rng().bit_generator
            bit_generator.state = start["generator"]
            self.env.unwrapped.np_random = np.random.Generator(bit_generator)
        observation, _ = self.reset(seed=start["seed"])
        for action in actions:
            if action.dtype.names is not None:
                observation = self.step(taken_apart(action))[0]
                continue
            text = isinstance(action, np.str_)
            observation = self.step(str(action) if text else action if action.ndim else action[()])[0]
        return observation


class ArrayVectorEnv(SyncVectorEnv):
    """Parallel environments whose observations are arrays [num_envs, ...] whatever their space (observations.py),
    and so are those in `info["final_obs"]`.
    """

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in each."""
        observations, info = super().reset(seed=seed, options=options)
        return as_batch(self.single_observation_space, observations, self.num_envs), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a step in each."""
        if isinstance(actions, np.ndarray) and actions.dtype.names is not None:
            actions = taken_apart(actions)
        observations, rewards, terminated, truncated, info = super().step(actions)
        for index in np.flatnonzero(info.get("_final_obs", ())):
            info["final_obs"][index] = as_array(self.single_observation_space, info["final_obs"][index])
        observations = as_batch(self.single_observation_space, observations, self.num_envs)
        return observations, rewards, terminated, truncated, info


def vectorise(make: Callable[[], gymnasium.Env], num_envs: int) -> ArrayVectorEnv:
    """`num_envs` parallel replayable environments, checked (checked.py). A finished one is reset in the same step, so
    no step is wasted.

    Raises:
        RunFailed: they differ in their spaces.
    """
    envs: list[Replayable] = []
    try:
        while len(envs) < num_envs:
            envs.append(Replayable(checked(make())))
        for number, env in enumerate(envs):
            for name in ("observation_space", "action_space"):
                first, other = getattr(envs[0], name), getattr(env, name)
                if first != other:
                    raise RunFailed(
                        f"parallel environments differ: the {name} of number 0 is {briefly(first)}, that of number "
                        f"{number} is {briefly(other)}: make it the same in each"
                    )
    except BaseException:
        for env in envs:
            close_quietly(env)
        raise
    return ArrayVectorEnv([partial(next, iter(envs))] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def save(envs: VectorEnv) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The state of `vectorise`d environments: the actions of each episode so far, and how each started."""
    states = [env.state() for env in envs.envs]  # type: ignore[attr-defined]
    return {f"actions.{index}": actions for index, (_, actions) in enumerate(states)}, [start for start, _ in states]


def restore(
    envs: VectorEnv, arrays: Mapping[str, np.ndarray], starts: Sequence[Mapping[str, Any]], expected: np.ndarray
) -> None:
    """Restore `envs` to a `save`d state, whose current observations [num_envs, ...] were `expected`.

    Raises:
        RunFailed: the observations differ: the environment draws random numbers outside `np_random`, or
            keeps something of earlier episodes.
        ValueError: the actions or observations are not of these environments.
    """
    for index, env in enumerate(envs.envs):  # type: ignore[attr-defined]
        _check_actions(arrays[f"actions.{index}"], env.action_space, f"actions.{index}")
    observations = [
        as_array(env.observation_space, env.restore(start, arrays[f"actions.{index}"]))
        for index, (env, start) in enumerate(zip(envs.envs, starts, strict=True))  # type: ignore[attr-defined]
    ]
    now = np.stack(observations)
    if now.shape != expected.shape:
        raise ValueError(f"observations: expected shape {list(now.shape)}, got {list(expected.shape)}")
    if not same(now.astype(expected.dtype), expected):
        raise RunFailed(
            "replaying the environment's episode gave other observations: it draws random numbers outside np_random, "
            "keeps something of earlier episodes, or its code has changed, so this run cannot be resumed exactly; "
            "start it again with " + setting("force")
        )


def _check_actions(actions: np.ndarray, space: gymnasium.Space[Any], name: str) -> None:
    """Raises ValueError for actions [steps, ...] that are not of the space."""
    if len(actions) == 0:
        return
    if isinstance(space, (Dict, Tuple)) and actions.dtype != dtype_of(space):
        raise ValueError(f"{name}: expected actions of {dtype_of(space)}, got {actions.dtype}")
    if space.shape is not None and actions.shape[1:] != space.shape:
        raise ValueError(f"{name}: expected actions of shape {list(space.shape)}, got {list(actions.shape[1:])}")
    if isinstance(space, FACTORED) and not factored_actions(space).contain(actions):
        raise ValueError(f"{name}: holds actions that are not in {briefly(space)}")
    if isinstance(space, Discrete) and not (
        actions.dtype.kind in "iu" and actions.min() >= space.start and actions.max() < space.start + space.n
    ):
        raise ValueError(f"{name}: expected integers of {space}")
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        raise ValueError(f"{name}: holds numbers that are NaN or infinite")


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two batches of observations are the same, NaN in the same places included."""
    if left.dtype.names is not None:
        return all(same(left[name], right[name]) for name in left.dtype.names)
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
