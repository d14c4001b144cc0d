"""10,000 rewards of one run that raise, are no numbers, end their process or hang: all are counted, and nothing stalls.

    python benchmarks/failing_rewards.py

Half of the scores fail, each in a way that its completion decides. Beside it, an update each in turn, the same run with
scores that do not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from record import save
from turns import begun

import bitrl

WAYS = ("raise", "nan", "none", "exit")
HANGS = 1000  # of so many scores, one
SETTINGS = {
    "run.algo": "grpo", "run.backbone": "fp32", "run.num_envs": 64, "backbone.model": "starter-tasks-fp16",
    "algo.max_tokens": 6,
}  # fmt: skip


def drawn(answer: int, completion: str) -> int:
    """A number that depends on these alone."""
    return int.from_bytes(hashlib.blake2b(f"{answer} {completion}".encode(), digest_size=4).digest())


def way_of(number: int) -> str | None:
    """In which way a score fails, if it does."""
    if number % HANGS == 0:
        return "hang"
    return WAYS[number // 2 % len(WAYS)] if number % 2 else None


class Right(bitrl.PromptTask):
    """Asks for anything; a completion's reward is drawn by its hash."""

    def prompt(self, random: np.random.Generator) -> tuple[str, int]:
        number = int(random.integers(10**6))
        return f"Reverse the word {number}:", number

    def score(self, answer: int, completion: str) -> float:
        return drawn(answer, completion) % 11 / 10


class Failing(Right):
    """The same, but half of its scores fail."""

    def score(self, answer: int, completion: str) -> Any:
        way = way_of(drawn(answer, completion))
        if way == "raise":
            raise ValueError("no score")
        if way == "nan":
            return float("nan")
        if way == "exit":
            os._exit(3)
        while way == "hang":
            time.sleep(1)
        return None if way == "none" else super().score(answer, completion)


def measure(failures: int, options: dict[str, Any]) -> dict[str, Any]:
    """Both runs, until so many rewards have failed."""
    runs = {
        kind.__name__: begun(options | {"run.env": f"failing_rewards:{kind.__name__}"}) for kind in (Failing, Right)
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    scored = failed = 0
    while failed < failures:
        for name, run in runs.items():
            began = time.perf_counter()
            run.update()
            seconds[name].append(time.perf_counter() - began)
        own = runs["Failing"].task.collector.episode_metrics.take()
        scored = runs["Failing"].step
        failed += round(own["failed_rewards"] * run.task.collector.num_envs)
    for run in runs.values():
        run.task.collector.envs.close()
    return {
        "scored": scored,
        "failed": failed,
        "updates": len(seconds["Failing"]),
        "seconds": {name: sum(each) for name, each in seconds.items()},
        "median_update_ratio": statistics.median(
            failing / right for failing, right in zip(seconds["Failing"], seconds["Right"], strict=True)
        ),
        "longest_updates": sorted(seconds["Failing"], reverse=True)[:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args.failures, SETTINGS | {"backbone.threads": args.threads})
    print(found)
    save("failing-rewards", vars(args) | found)


if __name__ == "__main__":
    main()
