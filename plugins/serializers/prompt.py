"""Prompts unchanged: for environments whose observations are text."""

from __future__ import annotations

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import NoOptions
from bitrl.core.wording import setting


class Prompt:
    """Passes a text observation through unchanged.

    Raises:
        UsageError: the observations are not prompts.
    """

    def __init__(self, options: NoOptions, observation: ObservationSpec):
        if not observation.prompt:
            raise UsageError(
                f"environment {observation.env} gives no prompts (observations of a Text space): "
                f"use {setting('serializer', 'json', 'compact', 'natural')}; an algorithm that learns from generation "
                "needs an environment of prompts, such as reverse-word"
            )

    def __call__(self, observation: str) -> str:
        """One observation → its text."""
        return str(observation)

    def batch(self, observations: np.ndarray) -> list[str]:
        """Observations [n] → n texts."""
        return [str(observation) for observation in observations]
