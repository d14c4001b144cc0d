"""Latencies in little memory: histograms, and what happened over time, however long it takes.

Knows numbers alone. What is measured for a day takes as much memory as what is measured for a minute, so that the
measurement is not what grows.
"""

from __future__ import annotations

import math

import attrs

WIDTH = 0.01
"""A bucket ends this much above where it begins."""

MOST_SLICES = 64
FIRST_SLICE_SECONDS = 0.25


class Latencies:
    """A histogram of durations in buckets of 1 %, so quantiles are right to half a per cent; the largest is exact.

    Attributes:
        count, total, most: how many, their sum and the largest, in seconds.
    """

    def __init__(self) -> None:
        self.count, self.total, self.most = 0, 0.0, 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count a duration; what is below a nanosecond counts as one."""
        bucket = math.floor(math.log(max(seconds, 1e-9)) / math.log1p(WIDTH))
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        self.most = max(self.most, seconds)

    def merge(self, other: Latencies) -> None:
        """Count all that another has counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)

    def quantile(self, share: float) -> float:
        """The duration that `share` of them do not exceed (the nearest rank), in seconds; 0 of none."""
        rank, seen = math.ceil(share * self.count), 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= rank:
                return min(math.exp((bucket + 0.5) * math.log1p(WIDTH)), self.most)
        return 0.0

    @property
    def mean(self) -> float:
        """Seconds; 0 of none."""
        return self.total / self.count if self.count else 0.0


@attrs.define
class Slice:
    """What happened in a stretch of time; the last readings of sensors in it, None where there were none.

    Attributes:
        latencies: of whole acts.
        rss: bytes. temperature: °C. clock: MHz.
    """

    latencies: Latencies = attrs.field(factory=Latencies)
    rss: int | None = None
    temperature: float | None = None
    clock: float | None = None

    def merge(self, later: Slice) -> None:
        """Take in the one that followed."""
        self.latencies.merge(later.latencies)
        for name in ("rss", "temperature", "clock"):
            if (value := getattr(later, name)) is not None:
                setattr(self, name, value)


class Slices:
    """Equal slices of time, at most `MOST_SLICES`: where there would be more, each two become one.

    Attributes:
        seconds: the length of one.
    """

    def __init__(self) -> None:
        self.seconds = FIRST_SLICE_SECONDS
        self._slices: list[Slice] = []

    def at(self, elapsed: float) -> Slice:
        """The slice of a moment, in seconds since the beginning, not before the last one asked for."""
        while int(elapsed / self.seconds) >= MOST_SLICES:
            pairs = [self._slices[index : index + 2] for index in range(0, len(self._slices), 2)]
            for first, *second in pairs:
                for each in second:
                    first.merge(each)
            self._slices = [pair[0] for pair in pairs]
            self.seconds *= 2
        while len(self._slices) <= int(elapsed / self.seconds):
            self._slices.append(Slice())
        return self._slices[-1]

    def all(self) -> list[tuple[float, Slice]]:
        """Each that has acts, with the middle of its time in seconds."""
        found = enumerate(self._slices)
        return [((index + 0.5) * self.seconds, each) for index, each in found if each.latencies.count]

    def drift(self) -> dict[str, float] | None:
        """How the first quarter of the slices differs from the last, and how memory grew over all of them; None of
        fewer than eight. Latencies in seconds, memory in bytes and bytes a second (least squares).
        """
        slices = self.all()
        if len(slices) < 8:
            return None
        quarter = len(slices) // 4
        first, last = Latencies(), Latencies()
        for _, each in slices[:quarter]:
            first.merge(each.latencies)
        for _, each in slices[-quarter:]:
            last.merge(each.latencies)
        memory = [(when, each.rss) for when, each in slices if each.rss is not None]
        return {
            "p99_first": first.quantile(0.99),
            "p99_last": last.quantile(0.99),
            "p50_first": first.quantile(0.5),
            "p50_last": last.quantile(0.5),
            "rss_per_second": slope(memory),
        }


def slope(points: list[tuple[float, int]]) -> float:
    """The slope of the straight line nearest to the points (x, y), by least squares; 0 of fewer than two."""
    if len(points) < 2:
        return 0.0
    middle = sum(x for x, _ in points) / len(points)
    return sum((x - middle) * y for x, y in points) / sum((x - middle) ** 2 for x, _ in points)
