"""States as integers from -99 to 99, scaled by each number's bounds: 1 -17 3 40. The shortest format.

Each integer is one token of bitrl's own vocabulary. Names and units are left out: the position identifies the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.pieces import Bin, Number, Piece, Text, Whole, joined
from bitrl.plugins.serializers import BinsOptions
from bitrl.plugins.serializers.numbers import check_count, numbers_of, refuse_grid, refuse_no_numbers


class Bins:
    """The bins of an observation's numbers within their ranges: 0 in the middle, ±`bins` // 2 at the ends and beyond.

    A Discrete observation is an integer already and written unchanged. Texts beside the numbers come first.
    """

    def __init__(self, options: BinsOptions, observation: ObservationSpec):
        refuse_grid(observation)
        refuse_no_numbers(observation)
        self.observation, self.fields = observation, observation.fields
        self.end = options.bins // 2
        fields = observation.fields or (Field("any"),)  # where the environment is not known: one range for all
        self.low, self.high = np.array([range_of(field, options.unbounded) for field in fields]).T
        self.middle, self.steps = (self.low + self.high) / 2, 2 * self.end / (self.high - self.low)
        self.words = [*map(str, range(-self.end, self.end + 1)), "nan"]

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = np.array([numbers_of(self.observation, observation)], np.float64)
        return self._write(numbers, {name: [observation[name]] for name in self.observation.texts})[0]

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        if self.observation.discrete is not None:
            return [Number(0, Whole())]
        columns = zip(self.low, self.high, self.middle, self.steps, strict=True)
        numbers = [
            Number(index, Bin(float(low), float(high), float(middle), float(steps), self.end))
            for index, (low, high, middle, steps) in enumerate(columns)
        ]
        texts: list[list[Piece]] = [[Text(index), "."] for index in range(len(self.observation.texts))]
        return joined([*texts, *([number] for number in numbers)])

    def batch(self, observations: np.ndarray) -> list[str]:
        """Observations [n, ...] → n texts."""
        given = observations["numbers"] if self.observation.texts else observations
        numbers = np.asarray(given, np.float64)
        numbers = numbers.reshape(len(numbers), math.prod(numbers.shape[1:]))
        check_count(self.observation, numbers.shape[1])
        return self._write(numbers, {name: observations[name] for name in self.observation.texts})

    def _write(self, numbers: np.ndarray, texts: dict[str, Iterable[str]]) -> list[str]:
        """Numbers [n, k] and each text part of n observations → n texts."""
        if self.observation.discrete is not None:
            return [str(int(number)) for (number,) in numbers.tolist()]
        places = np.rint((np.clip(numbers, self.low, self.high) - self.middle) * self.steps)
        indices = np.where(np.isnan(places), 2 * self.end + 1, places + self.end).astype(np.intp)
        words = self.words
        rows = [" ".join([words[index] for index in row]) for row in indices.tolist()]
        if not texts:
            return rows
        return [
            " ".join((*(f"{text}." for text in parts), row)) for *parts, row in zip(*texts.values(), rows, strict=True)
        ]


def range_of(field: Field, unbounded: float) -> tuple[float, float]:
    """The ends of a field's range: its bounds; 2 × `unbounded` from the one that is known; or ±`unbounded`."""
    low, high = field.low, field.high
    if low is not None and high is not None and low < high:
        return low, high
    if low is not None:
        return low, low + 2 * unbounded
    if high is not None:
        return high - 2 * unbounded, high
    return -unbounded, unbounded
