"""States as numbers, each part of them named once, where it has a name: 0.031 -0.520, or place 0.500 -0.250 lamp 1.

For numbers that nobody named (x0, x1 …): such a name says nothing, and need not be read. With the starter's vocabulary
a number alone is three tokens, and seven with its name in JSON; it is decoded from the features as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, names_of, sentence


class Values:
    """One line per observation: its texts, if it has any, then its numbers in their order."""

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.fields = observation.fields

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = self.numbers(observation)
        labels = _labels(names_of(self.fields, len(numbers)))
        entries = (label + number for label, number in zip(labels, numbers, strict=True))
        return " ".join((*map(sentence, self.numbers.texts(observation)), *entries))

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]


def _labels(names: list[str]) -> list[str]:
    """What is written before each number: the part's name before its first one (joints of joints.0, joints.1 …)."""
    parts = [re.sub(r"\.\d+$", "", name) for name in names]
    new = [True, *(part != before for before, part in pairwise(parts))]
    return [
        f"{part} " if first and not re.fullmatch(r"x\d+", part) else "" for part, first in zip(parts, new, strict=True)
    ]
