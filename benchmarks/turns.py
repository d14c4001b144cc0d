"""Runs that teach a language model, an update each in turn: for benchmarks that compare what an update takes.

On a machine that does other things too, seconds of CPU say more than seconds. Threads that wait for each other spin for
a while, which counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bitrl.core.config import resolve
from bitrl.core.cpus import limit_spinning
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.parts import begin, build

limit_spinning()  # as the command line does, before torch is imported
import torch  # noqa: E402

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


def parser_of(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """What benchmarks of GRPO's updates are told; `defaults` of env, model, updates, completions, tokens, learning_rate
    and out.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env")
    parser.add_argument("--model", help="a GGUF file, or a name of `bitrl model list`")
    parser.add_argument("--updates", type=int)
    parser.add_argument("--completions", type=int, help="of an update")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--tokens", type=int, help="of a completion, at most")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="name of the file in benchmarks/results")
    parser.set_defaults(**defaults)
    return parser


def runs_of(args: argparse.Namespace, own: Mapping[str, Mapping[str, Any]]) -> dict[str, Algorithm]:
    """Runs of GRPO at their start that learn in float32, each with settings of its own."""
    torch.set_num_threads(args.threads)
    common = {
        "run.env": args.env, "run.algo": "grpo", "run.backbone": "fp32", "run.num_envs": args.completions,
        "backbone.model": args.model, "backbone.threads": args.threads, "algo.group_size": args.group,
        "algo.max_tokens": args.tokens, "algo.learning_rate": args.learning_rate,
        "run.steps": args.updates * args.completions,
    }  # fmt: skip
    return {name: begun(common | dict(options)) for name, options in own.items()}


def each_takes(clock: Clock) -> dict[str, Any]:
    """Medians of everyone's turns."""
    return {
        "updates_per_hour": {name: 3600 / median(found) for name, found in clock.seconds.items()},
        "cpu_seconds_per_update": {name: median(found) for name, found in clock.cpu_seconds.items()},
    }


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
