"""States as numbers alone: 0.031 -0.520 0.012 1.204.

For numbers without names of their own (x0, x1 …): what a name does not say need not be read. With the starter's
vocabulary a number is three tokens, and seven with such a name in JSON; it is decoded from the features as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, sentence


class Values:
    """One line per observation: its texts, if it has any, then its numbers in their order."""

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        return " ".join((*map(sentence, self.numbers.texts(observation)), *self.numbers(observation)))

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]
