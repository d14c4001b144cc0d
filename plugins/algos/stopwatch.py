"""Seconds of an update by stage, for timings.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of each stage since it was last cleared."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def clear(self) -> None:
        """Begin anew."""
        self.figures = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Within, a stage takes place."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.figures[stage] = self.figures.get(stage, 0.0) + time.perf_counter() - began
