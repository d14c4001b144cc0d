"""A space of strings with any characters, for prompts and completions."""

from __future__ import annotations

import string
from typing import Any

from gymnasium.spaces import Text


class AnyText(Text):
    """Strings of at most `max_length` characters, whatever these are; samples are printable ASCII.

    Gymnasium's own Text lists its characters, and looks each one up.
    """

    def __init__(self, max_length: int):
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]  # as Gymnasium's spaces, which can be changed

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"
