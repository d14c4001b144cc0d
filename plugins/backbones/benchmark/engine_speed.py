"""How an engine is measured: each result beside the machine's limit, interleaved, medians over rounds.

A machine drifts by half within minutes, and neighbours come and go. So a limit is measured just before and just after
every result, and the fraction is taken there and then. Work is counted in tokens; a token is as many multiply-adds as
there are weights in the matrices (attention, norms and the embedding come for free, which makes fractions smaller than
what the arithmetic really reaches).

Knows an Engine, limits, and CartPole. Does not print.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.plugins.backbones.benchmark import footprint
from bitrl.plugins.backbones.benchmark.limits import Limits, instructions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.engine.generation import Sequences

_INTEGERS = ("ternary", "ternary-1.6", "int8", "int4")
LIMIT_OF = {**dict.fromkeys(_INTEGERS, "int8"), "fp8": "bf16", "bf16": "bf16", "fp32": "fp32"}
"""Format → the limit of its products."""

SHORT_TEXTS = tuple(np.random.default_rng(0).integers(8, 41, 16).tolist())
"""Lengths of sixteen short texts, in tokens."""

BATCHES = 8
"""Of texts, which are encoded in turns."""

DECODED = 32
"""Steps of a decoding that is measured."""

STATES = 16
"""CartPole states in a batch."""

FOOTPRINT_TOKENS = 32


@attrs.frozen
class Effort:
    """How long is measured: `rounds` times, the work and each limit for so many seconds, limits by reading a buffer."""

    rounds: int
    work_seconds: float
    limit_seconds: float
    loads: int
    buffer_bytes: int


FULL = Effort(rounds=7, work_seconds=0.25, limit_seconds=0.05, loads=3, buffer_bytes=3 << 29)
QUICK = Effort(rounds=2, work_seconds=0.02, limit_seconds=0.01, loads=1, buffer_bytes=1 << 28)


class Bench:
    """Measures one model file with the numbers of threads given, holding the limits it saw: call what is wanted, then
    `machine()`.

    A row of results is a dict: what was measured (`case`, `format`, `isa`, `threads`) and what came out
    (`tokens_per_second`, `peak_fraction` of `limit`, with AMX also `amx_fraction`), medians over `rounds`.
    Raises ModelFileError, UsageError and RunFailed as Engine and the modules here do.
    """

    def __init__(
        self, path: Path, threads: Sequence[int], effort: Effort, isa: str = "auto", tell: Callable[[str], None] = print
    ) -> None:
        self.path, self.threads, self.effort, self.isa, self.tell = path, threads, effort, isa, tell
        self.limits = Limits(max(threads), effort.buffer_bytes)
        self.measured: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.weights = 0
        tell("limits of the machine")
        for _ in range(effort.rounds):
            for count in threads:
                for name in instructions():
                    self._limit(name, count)

    def machine(self) -> list[dict[str, Any]]:
        """Medians of all limits that were measured: name, instructions, and per second for each number of threads."""
        return [
            {
                "limit": name,
                "instructions": how,
                "unit": "bytes" if name == "memory" else "multiply-adds",
                "per_second": {str(count): statistics.median(self.measured[count, name]) for count in self.threads},
            }
            for name, how in instructions().items()
        ]

    def run(self, format: str | None, states: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Everything in one format (None: the file's own): rows of results, and what loading takes. With `states`,
        CartPole states too, for a model with a tokenizer.
        """
        rows = []
        for count in self.threads:
            engine = Engine(self.path, format, threads=count, isa=self.isa)
            self.weights = sum(math.prod(t.shape) for t in engine.tensors if t.name.startswith("blk.") and t.shape[1:])
            rows += self._encoding(engine)
            rows += self._decoding(engine)
            if states:
                rows.append(self._states(engine))
            format, isa = engine.format, engine.isa
            del engine  # one set of weights in memory at a time
        self.tell(f"{format}: loading in a process of its own")
        loads = [
            footprint.measure(self.path, format or "", isa, max(self.threads), FOOTPRINT_TOKENS)
            for _ in range(self.effort.loads)
        ]
        load = {
            "format": format,
            "isa": isa,
            "threads": max(self.threads),
            "load_seconds": statistics.median(each["load_seconds"] for each in loads),
            "peak_rss_mb": max(each["peak_rss_mb"] for each in loads),
            "torch_imported": loads[0]["torch_imported"],
        }
        return [row | {"peak_rss_mb": load["peak_rss_mb"]} for row in rows], load

    def _encoding(self, engine: Engine) -> list[dict[str, Any]]:
        cases = {f"encode {length} tokens": (length,) for length in (32, 128, 512)}
        cases[f"encode {len(SHORT_TEXTS)} texts of {min(SHORT_TEXTS)}-{max(SHORT_TEXTS)} tokens"] = SHORT_TEXTS
        rng = np.random.default_rng(1)
        rows = []
        for case, lengths in cases.items():
            if max(lengths) > engine.context:
                continue
            # Others each time: the engine goes on from what a text has in common with the one before.
            batches = cycle(
                [[rng.integers(0, engine.vocabulary, length).tolist() for length in lengths] for _ in range(BATCHES)]
            )
            rate = self._rate(partial(_encode_next, engine, batches), sum(lengths))
            rows.append(self._row(case, engine, LIMIT_OF[engine.format], rate, self.weights))
        return rows

    def _decoding(self, engine: Engine) -> list[dict[str, Any]]:
        """One sequence, a token a step: the blocks alone, and with the head and the choice of the next token. Time is
        compared with reading the weights."""
        prompt = [i % engine.vocabulary for i in range(8)]
        sequences = Sequences(engine, head=False)

        def blocks() -> float:
            cache = sequences.open(len(prompt) + DECODED)
            sequences.extend([cache], [prompt])
            began = time.perf_counter()
            for i in range(DECODED):
                sequences.extend([cache], [[i % engine.vocabulary]])
            return DECODED / (time.perf_counter() - began)

        def whole() -> float:
            short = _seconds(lambda: engine.generate([prompt], 1))
            long = _seconds(lambda: engine.generate([prompt], 1 + DECODED))
            return DECODED / max(long - short, 1e-9)

        bare = engine.bytes_per_token
        rows = [self._row(f"decode {DECODED} tokens, blocks alone", engine, "memory", blocks, bare)]
        Sequences(engine, head=True)
        both = engine.bytes_per_token
        rows.append(self._row(f"decode {DECODED} tokens", engine, "memory", whole, both))
        return [row | {"bytes_per_token": cost} for row, cost in zip(rows, (bare, both), strict=True)]

    def _states(self, engine: Engine) -> dict[str, Any]:
        """CartPole states as JSON through text, tokenizer and engine, and how the time splits."""
        import bitrl
        from bitrl.plugins.backbones import LanguageModelOptions
        from bitrl.plugins.backbones.language_model import LanguageModel

        options: Callable[..., LanguageModelOptions] = LanguageModelOptions
        given = options(model=str(self.path), threads=engine.threads, cache_mb=0)  # each round has the same states
        backbone = LanguageModel(given, format=engine.format)
        backbone.engine = engine  # in the instruction set asked for
        serializer = bitrl.load_serializer("json", env="CartPole-v1")
        states = np.random.default_rng(0).uniform([-2, -2, -0.2, -2], [2, 2, 0.2, 2], (STATES, 4)).astype(np.float32)
        texts = serializer.batch(states)
        ids = backbone.tokenize(texts)
        tokens = sum(map(len, ids))
        parts: dict[str, Callable[[], Any]] = {
            "text": lambda: serializer.batch(states),
            "tokenizer": lambda: backbone.tokenize(texts),
            "engine": lambda: engine.encode(ids),
            "all": lambda: backbone.encode(serializer.batch(states)),
        }
        times: dict[str, list[float]] = {name: [] for name in parts}

        def rate() -> float:
            for name, part in parts.items():
                times[name].append(1 / self._rate(part, 1)())
            return tokens / times["engine"][-1]

        row = self._row(f"CartPole states as JSON, batch {STATES}", engine, LIMIT_OF[engine.format], rate, self.weights)
        median = {name: statistics.median(found) for name, found in times.items()}
        return row | {
            "tokens_per_second": tokens / median["all"],
            "states_per_second": STATES / median["all"],
            "tokens_per_state": tokens / STATES,
            "microseconds_per_state": {name: 1e6 * median[name] / STATES for name in parts},
        }

    def _rate(self, work: Callable[[], Any], amount: int) -> Callable[[], float]:
        """A function that repeats `work` for the time of a measurement and returns `amount` a second."""

        def rate() -> float:
            calls, began = 0, time.perf_counter()
            while True:
                work()
                calls += 1
                if (elapsed := time.perf_counter() - began) >= self.effort.work_seconds:
                    return calls * amount / elapsed

        work()  # scratch memory grows, pages are touched
        return rate

    def _row(self, case: str, engine: Engine, limit: str, rate: Callable[[], float], cost: float) -> dict[str, Any]:
        """`rate` (tokens a second) beside its limit; a token takes `cost` of what the limit counts."""
        self.tell(f"{engine.format}, {engine.threads} thread{'s' * (engine.threads > 1)}: {case}")
        against = [limit, *({f"amx_{limit}"} & instructions().keys())]
        rates, fractions = [], defaultdict(list)
        for _ in range(self.effort.rounds):
            before = {name: self._limit(name, engine.threads) for name in reversed(against)}
            rates.append(rate())
            for name in against:
                most = (before[name] + self._limit(name, engine.threads)) / 2
                fractions[name].append(rates[-1] * cost / most)
        found = {
            "case": case,
            "format": engine.format,
            "isa": engine.isa,
            "threads": engine.threads,
            "tokens_per_second": statistics.median(rates),
            "limit": limit,
            "peak_fraction": statistics.median(fractions[limit]),
        }
        if len(against) > 1:
            found["amx_fraction"] = statistics.median(fractions[against[1]])
        return found

    def _limit(self, name: str, threads: int) -> float:
        value = self.limits.measure(name, threads, self.effort.limit_seconds)
        self.measured[threads, name].append(value)
        return value


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _encode_next(engine: Engine, batches: Iterator[list[list[int]]]) -> None:
    engine.encode(next(batches))
