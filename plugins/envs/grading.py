"""Rewards for answers that are partly right."""

from __future__ import annotations


def graded(answer: str, given: str, partial: bool) -> float:
    """1 for the answer itself. Else, with `partial`, the share of places with the right character, of the longer one's
    places; without, 0. Blanks around what was given do not count.
    """
    given = given.strip()
    if given == answer:
        return 1.0
    if not partial:
        return 0.0
    return sum(a == b for a, b in zip(answer, given, strict=False)) / max(len(answer), len(given))
