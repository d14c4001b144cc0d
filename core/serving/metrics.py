"""What the server counts, in Prometheus' text format. Used by the thread of the event loop alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from bitrl.core.process_memory import resident

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """How often values were at most each of some bounds, and their sum."""

    def __init__(self, bounds: Sequence[float]):
        self.bounds, self.counts, self.sum = (*bounds, math.inf), [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        """As Prometheus reads it: of each bound how many values were at most that."""
        below = 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{_number(bound)}"}} {below}'
        yield f"{name}_sum {_number(self.sum)}"
        yield f"{name}_count {below}"


class Metrics:
    """Counters and histograms of a server.

    Attributes:
        requests: how many were answered, by status code.
        observations: how many were acted on.
        swaps: how many agents took the place of the one before ("accepted"), or were damaged ("refused").
        seconds: of a request to act, from its arrival to its answer.
        batches: observations that were encoded together.
        gauges: name → (help, what says its value now).
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.swaps: Counter[str] = Counter(accepted=0, refused=0)
        self.observations = 0
        self.seconds, self.batches = Histogram(SECONDS), Histogram(SIZES)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "process_resident_memory_bytes": ("Resident memory of the server, in bytes.", resident)
        }

    def text(self) -> str:
        """All of them in Prometheus' text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _header("bitrl_requests_total", "counter", "Requests that were answered, by status code.")
        yield from _labelled(
            "bitrl_requests_total", "code", {str(code): n for code, n in sorted(self.requests.items())}
        )
        yield from _header("bitrl_observations_total", "counter", "Observations that were acted on.")
        yield f"bitrl_observations_total {self.observations}"
        yield from _header("bitrl_agent_swaps_total", "counter", "Agents reloaded while serving.")
        yield from _labelled("bitrl_agent_swaps_total", "result", self.swaps)
        yield from _header("bitrl_act_seconds", "histogram", "Seconds from a request to act to its answer.")
        yield from self.seconds.lines("bitrl_act_seconds")
        yield from _header("bitrl_batch_observations", "histogram", "Observations that were encoded in one batch.")
        yield from self.batches.lines("bitrl_batch_observations")
        for name, (about, value) in self.gauges.items():
            yield from _header(name, "gauge", about)
            yield f"{name} {_number(value())}"


def _header(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _labelled(name: str, label: str, counts: Mapping[str, int]) -> Iterator[str]:
    for value, count in counts.items():
        yield f'{name}{{{label}="{value}"}} {count}'


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:.12g}"
