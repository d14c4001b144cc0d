"""Numbers that change over a run: constant, linear, cosine or exponential schedules.

An option of type `Schedule` takes a number, or a string such as "linear:3e-4:0" (from 3e-4 at the run's start to 0 at
its end), "cosine:3e-4:1e-5" or "exponential:5e-2:5e-4". Knows nothing of what the number is for.
"""

from __future__ import annotations

import math

SHAPES = ("constant", "linear", "cosine", "exponential")


class Schedule(float):
    """A number that starts as float(self) and ends as `end`, by `shape`."""

    shape: str
    end: float

    def __new__(cls, start: float, end: float | None = None, shape: str = "constant") -> Schedule:
        """Raises ValueError: not finite, an unknown shape, or an end where the shape is constant."""
        self = super().__new__(cls, start)
        self.end = float(start if end is None else end)
        self.shape = shape
        if shape not in SHAPES or not (math.isfinite(start) and math.isfinite(self.end)):
            raise ValueError(f"no schedule: {shape} from {start} to {end}")
        if shape == "constant" and self.end != self:
            raise ValueError(f"a constant cannot go from {start} to {end}")
        if shape == "exponential" and not (start > 0 and self.end > 0):
            raise ValueError(f"an exponential schedule cannot go from {start} to {self.end}: both must be above 0")
        return self

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """ "3e-4", "linear:3e-4" (to 0) or "linear:3e-4:1e-5" → a schedule.

        Raises:
            ValueError: it does not have that form.
        """
        shape, colon, numbers = text.strip().partition(":")
        if not colon:
            return cls(float(shape))
        start, _, end = numbers.partition(":")
        if shape == "constant":
            return cls(float(start), float(end) if end else None)
        return cls(float(start), float(end or 0.0), shape)

    def __str__(self) -> str:
        return repr(float(self)) if self.shape == "constant" else f"{self.shape}:{float(self)!r}:{self.end!r}"

    __repr__ = __str__


def value_at(number: float, progress: float) -> float:
    """What `number`, which may be a schedule, is after a fraction of the run: `progress`, clipped to 0 to 1."""
    if not isinstance(number, Schedule) or number.shape == "constant":
        return float(number)
    share = min(max(progress, 0.0), 1.0)
    if number.shape == "exponential":
        return float(float(number) * (number.end / float(number)) ** share)
    if number.shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return float(number) * (1 - share) + number.end * share
