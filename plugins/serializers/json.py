"""States as JSON: {"cart_position": 0.031, "cart_velocity": -0.520, …}."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Piece, Text, joined
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, names_of


class JSON:
    """One JSON object per observation. Numbers have a fixed number of decimals, so that a digit's position is
    meaningful.
    """

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.fields, self.texts = observation.fields, observation.texts

    def __call__(self, observation: Any) -> str:
        """One observation → its JSON text."""
        numbers = self.numbers(observation)
        names = names_of(self.fields, len(numbers))
        texts = zip(self.texts, map(dumps, self.numbers.texts(observation)), strict=True)
        entries = [*texts, *zip(names, map(_json, numbers), strict=True)]
        return "{" + ", ".join(f"{dumps(name)}: {value}" for name, value in entries) + "}"

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        texts: list[list[Piece]] = [[f"{dumps(name)}: ", Text(i, "json")] for i, name in enumerate(self.texts)]
        names = (f"{dumps(field.name)}: " for field in self.fields)
        numbers: list[list[Piece]] = [[*pair] for pair in zip(names, self.numbers.form(), strict=True)]
        return ["{", *joined([*texts, *numbers], ", "), "}"]

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]


def _json(number: str) -> str:
    """JSON cannot express NaN and the infinities: they become null."""
    return "null" if number.strip("-") in ("nan", "inf") else number
