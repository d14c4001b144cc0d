"""States as short assignments: x=0.031 v=-0.520 angle=0.012 spin=1.204."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, names_of

SHORT_NAMES: dict[str, tuple[str, ...]] = {
    "CartPole-v1": ("x", "v", "angle", "spin"),
    "Acrobot-v1": ("c1", "s1", "c2", "s2", "w1", "w2"),
    "MountainCar-v0": ("x", "v"),
}


class Compact:
    """One line per observation, with short names where the environment is known and its fields' names elsewhere."""

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.fields = observation.fields
        self.short = SHORT_NAMES.get(observation.env or "")

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = self.numbers(observation)
        names = self.short or names_of(self.fields, len(numbers))
        return " ".join(f"{name}={number}" for name, number in zip(names, numbers, strict=True))

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]
