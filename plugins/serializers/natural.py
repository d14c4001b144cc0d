"""States as English: "The cart is right of the centre by 0.031 m, moving left at 0.520 m/s. …"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from string import Formatter
from typing import Any

import attrs

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Number, Piece
from bitrl.core.wording import setting
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, names_of, sentence

# A hand-written sentence per classic task. A direction stands before its number: a causal model reads from left to
# right, and must know the sign when it comes to the digits. {0} is the first number with its sign; {0.size} leaves the
# sign out, and {0:left/right} is the first word if the number is negative, the second if not.
SENTENCES: dict[str, str] = {
    "CartPole-v1": (
        "The cart is {0:left/right} of the centre by {0.size} m, moving {1:left/right} at {1.size} m/s. "
        "The pole leans {2:left/right} by {2.size} rad, turning {3:left/right} at {3.size} rad/s."
    ),
    "Acrobot-v1": (
        "The first link has cosine {0} and sine {1}, turning {4:back/forward} at {4.size} rad/s. "
        "The second link has cosine {2} and sine {3}, turning {5:back/forward} at {5.size} rad/s."
    ),
    "MountainCar-v0": "The car is at {0}, moving {1:left/right} at {1.size}.",
}


class Signed:
    """A written number that a sentence can take apart into its size and a word for its sign."""

    def __init__(self, number: str):
        self.number = number
        self.size = number.lstrip("-")

    def __format__(self, words: str) -> str:
        negative, slash, positive = words.partition("/")
        if not slash:
            return self.number
        return negative if self.number.startswith("-") else positive


class Natural:
    """A few sentences per observation: hand-written for the classic tasks, made from names and units elsewhere."""

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.fields = observation.fields
        self.sentence = SENTENCES.get(observation.env or "")

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = self.numbers(observation)
        if self.sentence is not None:
            return self.sentence.format(*map(Signed, numbers))
        names = (name.replace("_", " ") for name in names_of(self.fields, len(numbers)))
        units = [f" {field.unit}" if field.unit else "" for field in self.fields] or [""] * len(numbers)
        clauses = [f"{name} is {number}{unit}" for name, number, unit in zip(names, numbers, units, strict=True)]
        sentences = [sentence(text[:1].upper() + text[1:]) for text in self.numbers.texts(observation)]
        return " ".join([*sentences, *([f"The {', the '.join(clauses)}."] if clauses else [])])

    def form(self) -> list[Piece]:
        """What it writes, as pieces.

        Raises:
            UsageError: the observations have texts, whose first letter becomes a capital one.
        """
        numbers = self.numbers.form()
        if self.sentence is not None:
            return [*_pieces(self.sentence, numbers)]
        if self.numbers.observation.texts:
            raise UsageError(
                "serializer natural begins texts with a capital letter, which agents for C do not: use "
                f"{setting('serializer', 'json', 'compact')}"
            )
        pieces: list[Piece] = ["The "]
        for field, number in zip(self.fields, numbers, strict=True):
            unit = f" {field.unit}" if field.unit else ""
            pieces += [f"{field.name.replace('_', ' ')} is ", number, unit, ", the "]
        return [*pieces[:-1], "."] if numbers else []

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]


def _pieces(sentence: str, numbers: list[Number]) -> Iterator[Piece]:
    """A sentence of SENTENCES as pieces."""
    for text, name, words, _ in Formatter().parse(sentence):
        yield text
        if name is None:
            continue
        place, _, size = name.partition(".")
        negative, slash, positive = (words or "").partition("/")
        show: Any = (negative, positive) if slash else size or "all"
        yield attrs.evolve(numbers[int(place)], show=show)
