"""Runs that teach a language model, an update each in turn: for benchmarks that compare what an update takes.

On a machine that does other things too, seconds of CPU say more than seconds. Threads that wait for each other spin for
a while, which counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bitrl.core.config import resolve
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.parts import begin, build

PAUSE_SECONDS = 0.1  # threads of either may spin for a while after their work
WARM_UP = 1  # updates that are not counted


def begun(options: Mapping[str, Any]) -> Algorithm:
    """A run at its start, by settings such as {"run.env": "addition", "algo.rollout": "int8"}."""
    values: dict[str, dict[str, Any]] = {}
    for path, value in options.items():
        part, _, name = path.partition(".")
        values.setdefault(part, {})[name] = value
    config = resolve(values)
    return begin(config, build(config))


class Clock:
    """Times turns: seconds, and seconds of CPU, by whose turn it was."""

    def __init__(self, names: Iterable[str]) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.cpu_seconds: dict[str, list[float]] = {name: [] for name in self.seconds}

    def start(self) -> None:
        """A turn begins."""
        time.sleep(PAUSE_SECONDS)
        self.began = time.perf_counter(), time.process_time()

    def stop(self, name: str) -> None:
        """It was this one's, and is over."""
        self.seconds[name].append(time.perf_counter() - self.began[0])
        self.cpu_seconds[name].append(time.process_time() - self.began[1])


def median(values: Sequence[float]) -> float:
    """Of those that count."""
    return statistics.median(values[WARM_UP:])


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster `fast` is: the median over rounds of the ratio of neighbours."""
    return median([each / other for each, other in zip(slow, fast, strict=True)])


def first_and_last(rewards: Sequence[float], share: float = 0.2) -> dict[str, float]:
    """Mean rewards of the first and of the last fifth of updates."""
    count = max(1, round(share * len(rewards)))
    return {"first": statistics.mean(rewards[:count]), "last": statistics.mean(rewards[-count:])}
