"""Observations of any space as numpy arrays, so that the rest of bitrl stores, slices and saves one type.

Numbers stay as they are. A text becomes a numpy string, and an observation of several parts (a `Dict` or `Tuple` space)
a record with a field per part (acting/nested.py): `observations["mission"]` is that part of all, `observations[3]` all
parts of one. So are actions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.environments.spaces import parts_of, values_in
from bitrl.core.errors import RunFailed


def dtype_of(space: gymnasium.Space[Any]) -> np.dtype | None:
    """The dtype of one observation as an array; None for numbers, which are arrays already."""
    if isinstance(space, gymnasium.spaces.Text):
        return np.dtype((np.str_, space.max_length))
    parts = parts_of(space)
    if parts is None:
        return None
    return np.dtype([(name, dtype_of(part) or (part.dtype, part.shape)) for name, part in parts])


def as_array(space: gymnasium.Space[Any], observation: Any) -> np.ndarray:
    """One observation (or action) of a single environment.

    Raises:
        RunFailed: a text does not fit its space, whose array would cut it off.
    """
    dtype = dtype_of(space)
    if isinstance(space, gymnasium.spaces.Text):
        _check_texts(space, (observation,))
    parts = parts_of(space)
    if parts is not None:
        values = zip(parts, values_in(space, observation), strict=True)
        observation = tuple(as_array(part, value) for (_, part), value in values)
    return np.asarray(observation) if dtype is None else np.array(observation, dtype)


def as_batch(space: gymnasium.Space[Any], observations: Any, count: int) -> np.ndarray:
    """`count` observations as a vector environment gives them (part by part) → [count, ...].

    `space` is that of a single one. Raises as `as_array`.
    """
    dtype = dtype_of(space)
    if isinstance(space, gymnasium.spaces.Text):
        _check_texts(space, observations)
    parts = parts_of(space)
    if dtype is None or parts is None:
        return np.asarray(observations, dtype)
    batch = np.empty(count, dtype)
    for (name, part), values in zip(parts, values_in(space, observations), strict=True):
        batch[name] = as_batch(part, values, count)
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
