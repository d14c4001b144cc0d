"""Units of written numbers: a power of ten and an offset, and the legend that says them.

A number x in "e-5" is written as x / 10⁻⁵, one in "e-1+1013" as (x − 1013) / 10⁻¹.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import attrs
import numpy as np

KEY = 100
"""Characters of a legend's key."""


@attrs.frozen
class Unit:
    """The power of ten that a written number is multiplied by, and what is then added."""

    exponent: int = 0
    offset: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Unit:
        """The unit whose `str` is `text`.

        Raises:
            ValueError: there is none.
        """
        found = re.fullmatch(r"e(-?\d+)([+-].+)?", text)
        if found is None:
            raise ValueError(f"expected a unit such as e-5 or e-1+1013, got {text!r}")
        return cls(int(found[1]), float(found[2] or 0))

    def __str__(self) -> str:
        offset = np.format_float_positional(self.offset, trim="-", sign=True) if self.offset else ""
        return f"e{self.exponent}{offset}"


def legend(names: Sequence[str], units: Sequence[Unit]) -> str:
    """Which numbers are in which unit, but for those that are as they are: `"x3-x5 x8": e-5, "x6 - 1013": e-1.`

    Its digits are in keys and words, which are not taken for numbers of a state (number_ends.py).
    """
    groups: dict[Unit, list[str]] = {}
    for name, unit in zip(names, units, strict=True):
        if unit != Unit():
            groups.setdefault(unit, []).append(name)
    entries = []
    for unit, called in groups.items():
        offset = np.format_float_positional(abs(unit.offset), trim="-")
        less = f" {'-' if unit.offset > 0 else '+'} {offset}" if unit.offset else ""
        entries += [f"{json.dumps(key + less)}: e{unit.exponent}" for key in _keys(called)]
    return ", ".join(entries) + "." if entries else ""


def _keys(names: Sequence[str]) -> Iterator[str]:
    """Names one after another, the first and the last of consecutive ones (x3-x5), in keys of bounded length."""
    rows: list[list[str]] = []
    before: tuple[str, int] | None = None
    for name in names:
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        this = (stem, int(digits)) if digits else None
        if this is not None and before == (stem, this[1] - 1):
            rows[-1][1:] = [name]
        else:
            rows.append([name])
        before = this
    key = ""
    for word in map("-".join, rows):
        if key and len(key) + len(word) >= KEY:
            yield key
            key = ""
        key += f" {word}" if key else word
    yield key
