"""How `bitrl profile` measures what acts: latencies, memory, faults, energy, temperature, deadlines, drift over time.

What is measured is read between acts, but power, which a thread samples: between acts a meter would only ever see the
end of one. Time between acts counts nowhere but in the whole. Does not know what acts, or how it is shown.
"""

from __future__ import annotations

import math
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from bitrl.core import process_memory, sensors
from bitrl.core.energy import EnergyMeter, Metered
from bitrl.core.process_memory import MB
from bitrl.plugins.backbones.benchmark.latencies import Latencies, Slices
from bitrl.plugins.backbones.benchmark.profiled import Profiled

WARM_UP = 16
"""Acts before the measurement: they allocate scratch memory."""

IDLE_SECONDS = 2.0
"""For which the machine's power is metered before anything acts."""

SAMPLE_SECONDS = 0.1
"""Between two samples of power."""

ANSWER_SECONDS = 5.0
"""That a meter of power has to answer, at the end."""

WAIT_SECONDS = 0.1
"""That a wait for the next act goes on before it is asked whether it still should."""

LOOK_SECONDS = 1.0
"""Between two looks at memory, sensors and counters."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is asked for.

    Attributes:
        seconds: how long to measure.
        rate: acts a second that are due, at equal distances; None: one after another.
        deadline: seconds within which an act must be done, from the moment that it is due; None: not asked for.
        watts: what an act is supposed to draw, for an estimate of energy; None: no estimate.
    """

    seconds: float
    rate: float | None = None
    deadline: float | None = None
    watts: float | None = None


@attrs.frozen(kw_only=True)
class Machine:
    """Where time, sensors and meters are read."""

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    root: Path = sensors.ROOT
    meters: Sequence[EnergyMeter] = ()


class Profiling:
    """A measurement, which `report` describes at any time.

    Attributes:
        interrupted: whether it was stopped before its time.
    """

    def __init__(self, profiled: Profiled, plan: Plan, machine: Machine):
        self.profiled, self.plan, self.machine = profiled, plan, machine
        self.interrupted = False
        self._parts: dict[str, Latencies] = {}
        self._act, self._environment = Latencies(), Latencies()
        self._slices = Slices()
        self._seconds = self._paused = 0.0
        self._episodes = 0
        self._due = self._missed = self._skipped = 0
        self._worst = 0.0
        self._slowed: dict[str, int] = {}
        self._heat: tuple[int, int] | None = None
        self._faults: Counter[str] = Counter()
        self._idle: dict[str, float] = {}
        self._metered: list[Metered] = []
        self._rss = (0, 0)

    def run(self, stopped: Callable[[], bool] = lambda: False, every: Callable[[], None] = lambda: None) -> None:
        """Measure until the time is over or `stopped()`; `every()` is called at each look at memory and sensors."""
        if self.machine.meters:
            self._measure_idle(stopped)
        for _ in range(WARM_UP):
            if stopped():
                break
            self.profiled.act()
            self.profiled.advance()
        episodes, faults, heat = self.profiled.episodes, _faults(), sensors.heat_throttlings(self.machine.root)
        first = process_memory.resident()
        self._metered = [Metered(meter) for meter in self.machine.meters]
        with _sampling(self._metered):
            for _ in self._acts(stopped):
                self._episodes = (self.profiled.episodes or 0) - (episodes or 0)
                self._faults = _faults() - faults
                self._rss = first, process_memory.resident()
                if heat is not None:
                    self._heat = heat, sensors.heat_throttlings(self.machine.root) or heat
                every()

    def _acts(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Act until the time is over; yields at each look, and at the end."""
        clock, plan = self.machine.clock, self.plan
        began = looked = clock()
        tick = 0
        while self._seconds < plan.seconds:
            if stopped():
                self.interrupted = True
                break
            due = clock()
            if plan.rate is not None:
                due = began + self._paused + tick / plan.rate
                if (early := min(due, began + plan.seconds) - clock()) > WAIT_SECONDS:
                    self.machine.sleep(WAIT_SECONDS)
                    self._seconds = clock() - began
                    continue
                if early > 0:
                    self.machine.sleep(early)
                if due >= began + plan.seconds:
                    self._seconds = clock() - began
                    break
            parts = self.profiled.act()
            done = clock()
            self._count(parts, done - began, done - due)
            self.profiled.advance()
            ended = clock()
            if self.profiled.episodes is not None:
                self._environment.add(ended - done)
            if plan.rate is not None:
                # A real environment goes on by itself: the time that a simulated one takes is taken out.
                self._paused += ended - done
                tick = self._next(tick, (ended - began - self._paused) * plan.rate)
            self._seconds = ended - began
            if ended - looked >= LOOK_SECONDS:
                looked = ended
                self._look()
                yield
                self._paused += clock() - ended  # no act is late for having been looked at
        self._look()
        yield

    def _next(self, tick: int, now: float) -> int:
        """The next moment to act, in ticks, if `now` is that long after the first; those gone by are missed."""
        coming = max(tick + 1, math.ceil(now - 1e-9))
        gone = coming - tick - 1
        self._skipped += gone
        self._missed += gone
        self._due += gone
        return coming

    def _count(self, parts: Any, at: float, response: float) -> None:
        whole = sum(parts.values())
        for name, seconds in parts.items():
            self._parts.setdefault(name, Latencies()).add(seconds)
        self._act.add(whole)
        self._slices.at(at).latencies.add(whole)
        self._due += 1
        self._worst = max(self._worst, response)
        deadline = self.deadline
        self._missed += deadline is not None and response > deadline

    @property
    def deadline(self) -> float | None:
        """Seconds that an act has: what was asked for, or the time until the next."""
        if self.plan.deadline is None and self.plan.rate is not None:
            return 1 / self.plan.rate
        return self.plan.deadline

    def _look(self) -> None:
        now, root = self._slices.at(self._seconds), self.machine.root
        now.rss = process_memory.resident()
        now.temperature, now.clock = sensors.temperature(root), sensors.clock(root)
        for why in sensors.slowed_down(root) or ():
            self._slowed[why] = self._slowed.get(why, 0) + 1
        for each in self._metered:
            if each.meter.joules is not None:
                each.read()

    def _measure_idle(self, stopped: Callable[[], bool]) -> None:
        metered = [Metered(meter) for meter in self.machine.meters]
        for _ in range(round(IDLE_SECONDS / SAMPLE_SECONDS)):
            if stopped():
                return
            self.machine.sleep(SAMPLE_SECONDS)
            for each in metered:
                each.read()
        self._idle = {each.meter.name: each.joules / each.seconds for each in metered if each.seconds}

    def report(self) -> dict[str, Any]:
        """What was measured, as plain data: milliseconds, MB (2**20 bytes), watts, joules, °C, MHz."""
        acts = self._act.count
        return {
            **self.profiled.facts,
            "acts": acts,
            "seconds": self._seconds,
            "interrupted": self.interrupted,
            "steps_per_second": acts / self._seconds if self._seconds else 0.0,
            "latency_ms": {"act": _quantiles(self._act)}
            | {name: _quantiles(each) for name, each in self._parts.items()}
            | ({"environment": _quantiles(self._environment)} if self._environment.count else {}),
            "episodes": None if self.profiled.episodes is None else self._episodes,
            "memory": self._memory(),
            "energy": self._energy(),
            "energy_estimate": self._estimate(),
            "sensors": self._sensors(),
            "deadline": self._deadlines(),
            "drift": self._drift(),
            "over_time": [_row(when, each) for when, each in self._slices.all()],
        }

    def _memory(self) -> dict[str, Any]:
        pss = process_memory.proportional()
        return {
            "rss_mb": self._rss[1] / MB,
            "peak_rss_mb": process_memory.peak() / MB,
            "pss_mb": None if pss is None else pss / MB,
            "minor_faults": self._faults["minor_faults"],
            "major_faults": self._faults["major_faults"],
        }

    def _energy(self) -> list[dict[str, Any]]:
        """Of each meter, or why it was not read."""
        acts = self._act.count
        found: list[dict[str, Any]] = []
        for each in self._metered:
            name, idle = each.meter.name, self._idle.get(each.meter.name)
            row: dict[str, Any] = {"meter": name}
            found.append(row)
            if each.failure or not each.seconds or idle is None or not acts:
                row["failure"] = each.failure or "not read for long enough"
                continue
            above = each.joules - idle * each.seconds
            episodes = self._episodes if self.profiled.episodes is not None else 0
            row |= {
                "idle_watts": idle,
                "watts": each.joules / each.seconds,
                "joules_per_step": above / acts,
                "joules_per_episode": above / episodes if episodes else None,
            }
        return found

    def _estimate(self) -> dict[str, Any] | None:
        """By a given power, for the time spent in acts."""
        if self.plan.watts is None or not self._act.count:
            return None
        joules = self.plan.watts * self._act.total
        episodes = self._episodes if self.profiled.episodes is not None else 0
        return {
            "watts": self.plan.watts,
            "joules_per_step": joules / self._act.count,
            "joules_per_episode": joules / episodes if episodes else None,
        }

    def _sensors(self) -> dict[str, Any]:
        slices = [each for _, each in self._slices.all()]
        heat = self._heat
        return {
            "temperature_c": _range([each.temperature for each in slices]),
            "clock_mhz": _range([each.clock for each in slices]),
            "slowed_down": None if sensors.slowed_down(self.machine.root) is None else dict(self._slowed),
            "heat_throttlings": None if heat is None else heat[1] - heat[0],
        }

    def _deadlines(self) -> dict[str, Any] | None:
        if self.deadline is None:
            return None
        return {
            "deadline_ms": 1e3 * self.deadline,
            "rate_hz": self.plan.rate,
            "due": self._due,
            "missed": self._missed,
            "skipped": self._skipped,
            "worst_ms": 1e3 * self._worst,
        }

    def _drift(self) -> dict[str, Any] | None:
        found = self._slices.drift()
        if found is None:
            return None
        return {
            **{f"{name}_ms": 1e3 * found[name] for name in ("p50_first", "p50_last", "p99_first", "p99_last")},
            "rss_mb_per_hour": found["rss_per_second"] * 3600 / MB,
            "rss_growth_mb": (self._rss[1] - self._rss[0]) / MB,
        }


@contextmanager
def _sampling(metered: Sequence[Metered]) -> Iterator[None]:
    """Within, a thread samples the meters of power."""
    sampled = [each for each in metered if each.meter.watts is not None]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            for each in sampled:
                each.read()

    thread = threading.Thread(target=sample, daemon=True)
    if sampled:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if sampled:
            thread.join(ANSWER_SECONDS)
        for each in metered:
            if thread.is_alive() and each in sampled:
                each.failure = each.failure or f"has not answered for {ANSWER_SECONDS:.0f} s"
            each.read()


def _faults() -> Counter[str]:
    """Page faults of this process so far: minor ones, and those for which a disk is read."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Counter(minor_faults=usage.ru_minflt, major_faults=usage.ru_majflt)


def _quantiles(found: Latencies) -> dict[str, float]:
    names = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {
        **{name: 1e3 * found.quantile(share) for name, share in names.items()},
        "max": 1e3 * found.most,
        "mean": 1e3 * found.mean,
    }


def _range(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"first": known[0], "last": known[-1], "least": min(known), "most": max(known)} if known else None


def _row(when: float, each: Any) -> dict[str, Any]:
    quantiles = _quantiles(each.latencies)
    return {
        "second": when,
        "acts": each.latencies.count,
        **{f"{name}_ms": quantiles[name] for name in ("p50", "p99", "max")},
        "rss_mb": None if each.rss is None else each.rss / MB,
        "temperature_c": each.temperature,
        "clock_mhz": each.clock,
    }
