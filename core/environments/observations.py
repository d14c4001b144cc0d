"""Observations of any space as numpy arrays, so that the rest of bitrl stores, slices and saves one type.

Numbers stay as they are. A text becomes a numpy string, and an observation of several parts (a `Dict` space) a record
with a field per part: `observations["mission"]` is that part of all, `observations[3]` all parts of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.admissible import states_of
from bitrl.core.environments.checked import checked
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.environment import Environment
from bitrl.core.errors import RunFailed


def dtype_of(space: gymnasium.Space[Any]) -> np.dtype | None:
    """The dtype of one observation as an array; None for numbers, which are arrays already."""
    if isinstance(space, gymnasium.spaces.Text):
        return np.dtype((np.str_, space.max_length))
    if isinstance(space, gymnasium.spaces.Dict):
        return np.dtype([(name, dtype_of(part) or (part.dtype, part.shape)) for name, part in space.items()])
    return None


def as_array(space: gymnasium.Space[Any], observation: Any) -> np.ndarray:
    """One observation of a single environment.

    Raises:
        RunFailed: a text does not fit its space, whose array would cut it off.
    """
    dtype = dtype_of(space)
    if isinstance(space, gymnasium.spaces.Text):
        _check_texts(space, (observation,))
    if isinstance(space, gymnasium.spaces.Dict):
        observation = tuple(as_array(part, observation[name]) for name, part in space.items())
    return np.asarray(observation) if dtype is None else np.array(observation, dtype)


def as_batch(space: gymnasium.Space[Any], observations: Any, count: int) -> np.ndarray:
    """`count` observations as a vector environment gives them (part by part) → [count, ...].

    `space` is that of a single one. Raises as `as_array`.
    """
    dtype = dtype_of(space)
    if isinstance(space, gymnasium.spaces.Text):
        _check_texts(space, observations)
    if dtype is None or not isinstance(space, gymnasium.spaces.Dict):
        return np.asarray(observations, dtype)
    batch = np.empty(count, dtype)
    for name, part in space.items():
        batch[name] = as_batch(part, observations[name], count)
    return batch


def _check_texts(space: gymnasium.spaces.Text, texts: Iterable[Any]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise RunFailed(
                f"the environment returned an observation of {type(text).__name__} where its space has a Text: "
                "expected a string"
            )
        if len(text) > space.max_length:
            raise RunFailed(
                f"the environment returned a text of {len(text):,} characters, but its observation space has room for "
                f"{space.max_length:,}: give that Text space a larger max_length, or write shorter texts "
                f"({text[:40]!r} …)"
            )


def observations_of(environment: Environment, count: int = 12) -> np.ndarray:
    """`count` observations [count, ...] of a random policy with a fixed seed, as serializers get them: without
    admissible actions.
    """
    env = reporting(lambda: checked(environment.make()), environment.id)()
    try:
        env.action_space.seed(0)
        found = [env.reset(seed=0)[0]]
        while len(found) < count:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            found.append(env.reset()[0] if terminated or truncated else observation)
        states: np.ndarray = states_of(np.stack([as_array(env.observation_space, each) for each in found]))
        return states
    finally:
        env.close()
