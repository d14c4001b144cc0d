"""Shared by the text serializers: an observation as named decimal numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.pieces import Number, Printed, Whole, unsigned_zero
from bitrl.core.wording import setting

DECIMALS = 3


def decimals_of(field: Field, requested: int | None) -> int:
    """Digits after the point for one number: `requested`, else the field's own, else 3, and more where the bounds are
    too narrow for 3.

    A field within ±0.07 gets 4, so that every field has a resolution of at least about 500 steps between its bounds.
    """
    if requested is not None or field.decimals is not None:
        return min(digits for digits in (requested, field.decimals) if digits is not None)
    if field.low is None or field.high is None or field.high <= field.low:
        return DECIMALS
    return min(9, max(DECIMALS, math.ceil(math.log10(500 / (field.high - field.low)))))


class NumberFormat:
    """Writes the numbers of one environment's observations, each with its own decimals. A Discrete observation is
    one integer.

    Raises:
        UsageError: the observations are not numbers.
    """

    def __init__(self, observation: ObservationSpec, decimals: int | None):
        refuse_grid(observation)
        self.observation, self.decimals = observation, decimals
        self.formats = [f"%.{decimals_of(field, decimals)}f" for field in observation.fields]

    def __call__(self, observation: Any) -> list[str]:
        """The numbers of one observation (an array, a sequence or a number), as texts.

        Raises:
            UsageError: their count is not that of the environment's fields.
        """
        values = numbers_of(self.observation, observation)
        if self.observation.discrete is not None:
            return [str(int(value)) for value in values]
        formats = self.formats or [f"%.{DECIMALS if self.decimals is None else self.decimals}f"] * len(values)
        return [unsigned_zero(form % value) for form, value in zip(formats, values, strict=True)]

    def form(self) -> list[Number]:
        """The numbers as pieces, in order."""
        if self.observation.discrete is not None:
            return [Number(0, Whole())]
        return [Number(index, Printed(form[1:])) for index, form in enumerate(self.formats)]

    def texts(self, observation: Any) -> list[str]:
        """The texts of one observation, where the environment has any. They change least, so they come first."""
        return [str(observation[name]) for name in self.observation.texts]


def sentence(text: str) -> str:
    """A text with a full stop at its end."""
    return text if text.endswith(".") else f"{text}."


def refuse_prompt(observation: ObservationSpec) -> None:
    """Raises UsageError: the observations are prompts."""
    if observation.prompt:
        raise UsageError(
            f"environment {observation.env} gives prompts, not numbers: use {setting('serializer', 'prompt')}, or "
            f"{setting('serializer', 'hash')} where the backbone reads vectors"
        )


def refuse_grid(observation: ObservationSpec) -> None:
    """Raises UsageError: the environment is a grid, or gives prompts or images, and these serializers write numbers."""
    refuse_prompt(observation)
    refuse_images(observation)
    if observation.grid:
        raise UsageError(
            f"environment {observation.env} is a grid, not a list of numbers: use {setting('serializer', 'grid')}"
        )


def refuse_images(observation: ObservationSpec) -> None:
    """Raises UsageError: parts of the observations are images, which no text says."""
    if observation.images:
        names = " and ".join(f'"{name}"' for name in observation.images)
        raise UsageError(
            f"environment {observation.env} observes images ({names}), which bitrl does not write as text: leave them "
            "out (gymnasium.wrappers.FilterObservation), or observe what is in them, as numbers or words (of Atari's "
            f"ids the RAM); {setting('serializer', 'vector')} with {setting('backbone', 'mlp')} reads pixels as "
            "numbers, without convolutions"
        )


def refuse_no_numbers(observation: ObservationSpec) -> None:
    """Raises UsageError: the observations are text alone, and these serializers write numbers."""
    refuse_prompt(observation)
    if observation.texts and not observation.fields:
        raise UsageError(
            f"environment {observation.env} has no numbers, only texts: use "
            f"{setting('serializer', 'compact', 'natural', 'json')}, and a backbone that reads text"
        )


def numbers_of(spec: ObservationSpec, observation: Any) -> list[float]:
    """The numbers of one observation (an array, a sequence or a number), without the texts beside them.

    Raises:
        UsageError: their count is not that of the environment's fields.
    """
    values = flatten(observation["numbers"] if spec.fields else ()) if spec.texts else flatten(observation)
    check_count(spec, len(values))
    return values


def check_count(spec: ObservationSpec, count: int) -> None:
    """Raises UsageError: `count` differs from the number of the environment's fields, where they are known."""
    if spec.fields and count != len(spec.fields):
        raise UsageError(f"environment {spec.env}: expected an observation of {len(spec.fields)} numbers, got {count}")


def flatten(observation: Any) -> list[float]:
    """An observation as a flat list of Python numbers."""
    values = observation.ravel().tolist() if hasattr(observation, "ravel") else observation
    return list(values) if isinstance(values, Iterable) else [values]


def names_of(fields: Sequence[Field], count: int) -> list[str]:
    """The fields' names; x0, x1, … where the environment is not known."""
    return [field.name for field in fields] or [f"x{index}" for index in range(count)]
