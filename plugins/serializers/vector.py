"""States as vectors: the numbers themselves, for backbones that read no text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.pieces import OneHot, Scaled
from bitrl.core.wording import setting, warn
from bitrl.plugins.serializers.numbers import check_count, names_of, refuse_no_numbers

MOST_STATES = 1_000_000
"""Numbers in a one-hot vector."""

WIDEST = 2.0**24
"""Bounds farther apart say little of how large numbers are (0 to 1e10), and around them float32 does not tell small
ones apart: in [-1, 1] all of 0 to 100 were -1.
"""


class Vector:
    """Numbers with known bounds are scaled to [-1, 1], others are left unchanged, as are those whose bounds are more
    than `WIDEST` apart, with zero between them; a Discrete observation becomes one-hot. Texts beside the numbers, which
    a network without a language model cannot use, are left out with a warning.

    Attributes:
        width: k, the length of the vectors.
    """

    def __init__(self, options: Any, observation: ObservationSpec):
        if observation.grid:
            raise UsageError(
                f"environment {observation.env} is a grid, not a list of numbers: use {setting('serializer', 'grid')} "
                "and a backbone that reads text"
            )
        refuse_no_numbers(observation)
        if observation.texts:
            names = " and ".join(f'"{name}"' for name in observation.texts)
            instead = f"use {setting('serializer', 'json', 'compact')} and a backbone that reads text"
            warn(f"serializer vector leaves out the text {names} of {observation.env}, unknown to the agent: {instead}")
        if (observation.discrete or 0) > MOST_STATES:
            raise UsageError(
                f"environment {observation.env} has {observation.discrete:,} states, too many for one-hot vectors: use "
                f"{setting('serializer', 'json')} and a backbone that reads text"
            )
        self.observation = observation
        self.width = observation.discrete or len(observation.fields)
        known = [_tells_the_size(field) for field in observation.fields]
        low = np.array([field.low if ok else -1.0 for field, ok in zip(observation.fields, known, strict=True)])
        high = np.array([field.high if ok else 1.0 for field, ok in zip(observation.fields, known, strict=True)])
        self.middle, self.half = (low + high) / 2, (high - low) / 2

    def __call__(self, observation: Any) -> np.ndarray:
        """One observation → float32 [k]."""
        one: Any = (
            {"numbers": np.asarray(observation["numbers"])[None]}
            if self.observation.texts
            else np.asarray(observation)[None]
        )
        vector: np.ndarray = self.batch(one)[0]
        return vector

    def form(self) -> Scaled | OneHot:
        """What it writes, as a scaling of numbers."""
        if self.observation.discrete is not None:
            return OneHot(int(self.observation.fields[0].low or 0), self.width)
        return Scaled(self.middle, self.half)

    def batch(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → float32 [n, k].

        Raises:
            UsageError: the numbers are not as many as the environment's, or a Discrete one is not of its states.
        """
        if self.observation.texts:
            observations = observations["numbers"]
        flat = np.asarray(observations, dtype=np.float64)
        flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
        check_count(self.observation, flat.shape[1])
        if self.observation.discrete is not None:
            return self._one_hot(flat[:, 0].astype(int))
        scaled: np.ndarray = (flat - self.middle) / self.half if self.observation.fields else flat
        with np.errstate(over="ignore"):
            vectors: np.ndarray = scaled.astype(np.float32)
        if not np.isfinite(vectors).all():
            self._check_size(flat, vectors)
        return vectors

    def _check_size(self, flat: np.ndarray, vectors: np.ndarray) -> None:
        """Raises RunFailed for a finite number that float32 does not hold."""
        too_large = np.isfinite(flat) & ~np.isfinite(vectors)
        for row, column in np.argwhere(too_large)[:1]:
            raise RunFailed(
                f"environment {self.observation.env}: {flat[row, column]:g} as "
                f"{names_of(self.observation.fields, flat.shape[1])[column]} is beyond float32, in which vectors are "
                "written: let it observe smaller numbers"
            )

    def _one_hot(self, numbers: np.ndarray) -> np.ndarray:
        """Discrete observations [n] → float32 [n, k]."""
        start = int(self.observation.fields[0].low or 0)
        places = numbers - start
        if len(places) and not 0 <= places.min() <= places.max() < self.width:
            raise UsageError(
                f"environment {self.observation.env}: expected observations from {start} to {start + self.width - 1}, "
                f"got {numbers.min()} to {numbers.max()}"
            )
        one_hot = np.zeros((len(places), self.width), np.float32)
        one_hot[np.arange(len(places)), places] = 1.0
        return one_hot


def _tells_the_size(field: Field) -> bool:
    """Whether a number has bounds, and is well scaled by them."""
    low, high = field.low, field.high
    if low is None or high is None or low >= high:
        return False
    return high - low <= WIDEST or not low <= 0 <= high
