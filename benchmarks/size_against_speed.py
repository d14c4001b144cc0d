"""How many states a second models of several sizes read, in every format: what each weight costs an agent.

python benchmarks/size_against_speed.py [ROUNDS]

Random weights in shapes around the starter model's, batches of 16 states of as many tokens as CartPole's have as JSON.
All shapes take turns, so what else the machine does falls on all alike; medians. The engine alone: writing a state and
cutting it into tokens comes on top, and is the same for all.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time

import numpy as np
from record import save

import bitrl
from bitrl.plugins.backbones.benchmark.random_model import random_model, random_shape
from bitrl.plugins.backbones.engine.engine import Engine

SHAPES = ("256x768x2", "256x768x4", "256x768x8", "512x1536x2", "512x1536x4", "512x1536x8", "1024x3072x4")
FORMATS = ("ternary", "int8", "int4", "bf16")
BATCH = 16


def states_per_second(engine: Engine, texts: list[list[int]]) -> float:
    """Of one round, about a fifth of a second long."""
    engine.encode(texts, "mean")
    states, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.2:
        engine.encode(texts, "mean")
        states += len(texts)
    return states / (time.perf_counter() - began)


def main(rounds: int) -> None:
    text = bitrl.load_serializer("json", env="CartPole-v1")([0.0] * 4)
    tokens = len(bitrl.load_backbone("bitnet").tokens([text])[0])
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        engines: dict[tuple[str, str, int], Engine] = {}
        for name in SHAPES:
            path = stack.enter_context(random_model(random_shape(name)))
            for format in FORMATS:
                for threads in (1, 2):
                    engines[name, format, threads] = Engine(path, format, threads=threads)
        found: dict[tuple[str, str, int], list[float]] = {key: [] for key in engines}
        for _ in range(rounds):
            for key, engine in engines.items():
                texts = [rng.integers(engine.vocabulary, size=tokens).tolist() for _ in range(BATCH)]
                found[key].append(states_per_second(engine, texts))
    results = []
    for name in SHAPES:
        shape = random_shape(name)
        weights = shape.blocks * sum(rows * columns for rows, columns in shape.matrix_shapes.values())
        speeds = {f"{f}, {t} threads": round(statistics.median(found[name, f, t])) for f in FORMATS for t in (1, 2)}
        results.append({"shape": name, "block_weights": weights, "states_per_second": speeds})
        print(f"{name:<12} {weights / 1e6:6.1f} M  " + "  ".join(f"{k}: {v:,}" for k, v in speeds.items()))
    save("size-against-speed", {"tokens": tokens, "batch": BATCH, "rounds": rounds, "shapes": results})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
