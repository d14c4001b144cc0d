"""States as numbers, each part of them named once, where it has a name: 0.031 -0.520, or place 0.500 -0.250 lamp 1.

For numbers that nobody named (x0, x1 …): such a name says nothing, and need not be read. With the starter's vocabulary
a number alone is three tokens, and seven with its name in JSON; it is decoded from the features as well. Numbers whose
size three decimals do not show are in units of their own, which a legend says: "x3": e-5. 0.031 -0.520 … (units.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Number, Piece, Short, Text, joined, short
from bitrl.plugins.serializers import ValuesOptions
from bitrl.plugins.serializers.numbers import (
    DECIMALS,
    NumberFormat,
    decimals_of,
    numbers_of,
    sentence,
)
from bitrl.plugins.serializers.units import Unit, legend

WIDE, AT_ONCE = 32, 8
"""Of more numbers, so many at once are preceded by a legend of their own: whoever reads a part of the text has it."""


class Values:
    """One line per observation: its texts, if it has any, then a legend of its units, and its numbers in their order.

    Raises:
        UsageError: the observations are not numbers, or there are not as many units as numbers.
    """

    def __init__(self, options: ValuesOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.observation, self.fields = observation, observation.fields
        self.labels = _labels([field.name for field in self.fields])
        self.units: list[tuple[float, float, int]] | None = None
        self.legends: list[str] = []
        if options.units is None or observation.discrete is not None:
            return
        if len(options.units) != len(self.fields):
            raise UsageError(
                f"serializer.units: expected a unit for each of the {len(self.fields)} numbers of {observation.env}, "
                f"got {len(options.units)}"
            )
        units = [Unit.parse(text) for text in options.units]
        decimals = [min(DECIMALS, decimals_of(field, options.decimals)) for field in self.fields]
        scaled = DECIMALS if options.decimals is None else options.decimals
        self.units = [
            (10.0**unit.exponent, unit.offset, scaled if unit.exponent else digits)
            for unit, digits in zip(units, decimals, strict=True)
        ]
        at_once = AT_ONCE if len(units) > WIDE else len(units)
        for start in range(0, len(units), at_once):
            some = slice(start, start + at_once)
            said = legend([field.name for field in self.fields[some]], units[some])
            if said:
                self.legends.append(said)
                self.labels[start] = f"{said} {self.labels[start]}"

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = self._written(observation)
        labels = self.labels or [""] * len(numbers)
        entries = (label + number for label, number in zip(labels, numbers, strict=True))
        return " ".join((*map(sentence, self.numbers.texts(observation)), *entries))

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        numbers = self.numbers.form()
        if self.units is not None:
            forms = (Short(decimals, offset, scale) for scale, offset, decimals in self.units)
            numbers = [Number(index, form) for index, form in enumerate(forms)]
        labels = self.labels or [""] * len(numbers)
        entries: list[list[Piece]] = [[label, number] for label, number in zip(labels, numbers, strict=True)]
        return joined([*([Text(i, "sentence")] for i in range(len(self.observation.texts))), *entries])

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]

    def _written(self, observation: Any) -> list[str]:
        if self.units is None:
            return self.numbers(observation)
        values = numbers_of(self.observation, observation)
        return [
            short((value - offset) / scale, decimals)
            for value, (scale, offset, decimals) in zip(values, self.units, strict=True)
        ]


def _labels(names: list[str]) -> list[str]:
    """What is written before each number: the part's name before its first one (joints of joints.0, joints.1 …)."""
    parts = [re.sub(r"\.\d+$", "", name) for name in names]
    new = [True, *(part != before for before, part in pairwise(parts))]
    return [
        f"{part} " if first and not re.fullmatch(r"x\d+", part) else "" for part, first in zip(parts, new, strict=True)
    ]
