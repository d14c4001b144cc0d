"""States as levels: every number is rounded to one of a few steps between its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

import bitrl
from bitrl_example import BinsOptions


class Bins:
    """position=7 velocity=12: one word a number, with as many different words as there are levels."""

    def __init__(self, options: BinsOptions, observation: bitrl.ObservationSpec):
        self.levels, self.fields = options.levels, observation.fields

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = np.ravel(observation).tolist()
        fields = self.fields or [bitrl.Field(f"x{index}") for index in range(len(numbers))]
        words = (f"{field.name}={self.level(field, number)}" for field, number in zip(fields, numbers, strict=True))
        return " ".join(words)

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]

    def level(self, field: bitrl.Field, number: float) -> int:
        """The level of a number, from 0 to levels - 1. Without bounds, the real line is squeezed in."""
        if field.low is None or field.high is None or field.low >= field.high:
            share = 0.5 + math.atan(number) / math.pi
        else:
            share = (number - field.low) / (field.high - field.low)
        return round(min(max(share, 0.0), 1.0) * (self.levels - 1))
