"""States as JSON: {"cart_position": 0.031, "cart_velocity": -0.520, …}."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Piece, Text, joined
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat


class JSON:
    """One JSON object per observation. Numbers have a fixed number of decimals, so that a digit's position is
    meaningful.
    """

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.texts = [(name, f"{dumps(name)}: ") for name in observation.texts]
        self.keys = [f"{dumps(field.name)}: " for field in observation.fields]

    def __call__(self, observation: Any) -> str:
        """One observation → its JSON text."""
        numbers = self.numbers(observation)
        keys = self.keys or [f'"x{index}": ' for index in range(len(numbers))]  # the environment is not known
        texts = [key + dumps(str(observation[name])) for name, key in self.texts]
        return (
            "{" + ", ".join([*texts, *[key + _json(number) for key, number in zip(keys, numbers, strict=True)]]) + "}"
        )

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        texts: list[list[Piece]] = [[key, Text(i, "json")] for i, (_, key) in enumerate(self.texts)]
        numbers: list[list[Piece]] = [[*pair] for pair in zip(self.keys, self.numbers.form(), strict=True)]
        return ["{", *joined([*texts, *numbers], ", "), "}"]

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]


def _json(number: str) -> str:
    """JSON cannot express NaN and the infinities: they become null."""
    return "null" if number.endswith(("nan", "inf")) else number
