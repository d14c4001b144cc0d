"""One and two threads on the same texts, in turns: whether work that is too small for two takes longer on them.

    python benchmarks/threads.py [--seconds 3]

The starter model in its ternary form reads random tokens, a text alone and several together, and generates. Each row is
the median of rounds within so many seconds, in each of which both go through the same work; the ratio is the median of
the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import save

from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.language_model import starter_path

THREADS = (1, 2)
ALONE = (1, 2, 4, 8, 13, 16, 32, 64, 128, 256, 512)
TOGETHER = ((2, 13), (4, 13), (8, 13), (16, 13), (16, 128))
NEW_TOKENS = 32


def in_turns(work: list[Callable[[int], Any]], seconds: float) -> dict[str, Any]:
    """Milliseconds of each, and how many times as fast the second is, for work that takes the round's number."""
    spent: list[list[float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(spent) < 5:
        times = [0.0] * len(work)
        for which in (0, 1) if len(spent) % 2 else (1, 0):
            began = time.perf_counter()
            work[which](len(spent))
            times[which] = 1000 * (time.perf_counter() - began)
        spent.append(times)
    names = [f"{threads}_threads_ms" for threads in THREADS]
    medians = [statistics.median(column) for column in zip(*spent, strict=True)]
    return {**dict(zip(names, medians, strict=True)), "ratio": statistics.median(one / two for one, two in spent)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="that a row takes")
    seconds = parser.parse_args(arguments).seconds
    path, rng = starter_path(ternary=True), np.random.default_rng(0)
    engines = [Engine(path, "ternary", threads=threads) for threads in THREADS]
    rows: list[dict[str, Any]] = []
    for texts, length in [*((1, length) for length in ALONE), *TOGETHER]:
        batches = rng.integers(0, engines[0].vocabulary, (50, texts, length)).tolist()
        work = [lambda i, each=each, batches=batches: each.encode(batches[i % len(batches)]) for each in engines]
        rows.append({"work": "encoding", "texts": texts, "tokens": length, **in_turns(work, seconds)})
        print(json.dumps(rows[-1]), flush=True)
    for texts in (1, 4, 16):
        prompts = rng.integers(0, engines[0].vocabulary, (texts, 16)).tolist()
        work = [lambda _, each=each, prompts=prompts: each.generate(prompts, NEW_TOKENS) for each in engines]
        rows.append(
            {"work": f"generating {NEW_TOKENS} tokens", "texts": texts, "tokens": 16, **in_turns(work, seconds)}
        )
        print(json.dumps(rows[-1]), flush=True)
    save("threads", {"load_average": round(os.getloadavg()[0], 1), "rows": rows})


if __name__ == "__main__":
    main()
