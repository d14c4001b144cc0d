"""Is an INT8 actor faster (ActorQ)? The policy network's forward pass in float32 and with INT8 products, on one thread.

python benchmarks/int8_actor.py [ROUNDS]

Float32 is the engine's; INT8 is torch's: weights rounded once, activations when they arrive, FBGEMM's product. The
shapes are bitrl's heads on a backbone's features, its mlp, and the policy that ActorQ's figures (1.5 to 2.5 times as
fast) are of: three layers of 2048. Also what share of a rollout's step on CartPole the head takes at all. Rounds are
interleaved; medians of the thread's processor time, so that other work on the machine counts little.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from record import save

from bitrl.core.config import resolve
from bitrl.core.runs.parts import begin, build
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.algos.low_bits import low_bits

SHAPES = {
    "heads on features": (256, 256, 128, 2),
    "mlp": (17, 64, 64, 6),
    "ActorQ's policy": (256, 2048, 2048, 2048, 6),
}
BATCHES = (1, 16)
CALLS = 300


def microseconds(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Of one call."""
    for _ in range(3):
        call()
    began = time.thread_time()
    for _ in range(calls):
        call()
    return 1e6 * (time.thread_time() - began) / calls


def measured(widths: tuple[int, ...], batch: int, rounds: int) -> dict[str, Any]:
    """A network's forward pass in both, for a batch of states."""
    network = EngineNetwork(EngineLearner(), widths, batch)
    network.initialise(1.0, seed=0)
    states = torch.randn(batch, widths[0])
    arrays = states.numpy()
    linear = [layer for a, b in pairwise(widths) for layer in (torch.nn.Tanh(), torch.nn.Linear(a, b))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this moves to torchao
        rounded = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(*linear[1:]), {torch.nn.Linear}, dtype=torch.qint8
        )
    calls = CALLS if max(widths) < 1024 else CALLS // 10
    with torch.no_grad():
        pairs = [
            (microseconds(lambda: network.outputs(arrays), calls), microseconds(lambda: rounded(states), calls))
            for _ in range(rounds)
        ]
    in_float, in_int8 = (statistics.median(each) for each in zip(*pairs, strict=True))

    def round_weights() -> None:
        with low_bits(network, 8):
            pass

    return {
        "widths": widths,
        "batch": batch,
        "float32_us": round(in_float, 1),
        "int8_us": round(in_int8, 1),
        "speedup": round(in_float / in_int8, 2),
        "rounding_us": round(microseconds(round_weights, 20), 1),
    }


def share_of_a_step(rounds: int) -> dict[str, Any]:
    """How much of a rollout's step on CartPole, 16 environments, the policy's head is."""
    algorithm: Any = begin(config := resolve({"run": {}, "backbone": {"threads": 1}}), build(config))
    collector = algorithm.task.collector
    steps, heads = [], []
    for _ in range(rounds):
        began = time.thread_time()
        rollout = collector.rollout(lambda states, t: algorithm.act(states), 64)
        steps.append(1e6 * (time.thread_time() - began) / 64)
        features = algorithm.standardise(rollout.features[0])
        heads.append(microseconds(lambda features=features: algorithm.policy.outputs(features)))
    collector.envs.close()
    step, head = statistics.median(steps), statistics.median(heads)
    return {"step_us": round(step, 1), "head_us": round(head, 1), "share": round(head / step, 4)}


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = {
        f"{name}, batch {batch}": measured(widths, batch, rounds)
        for name, widths in SHAPES.items()
        for batch in BATCHES
    }
    results = {"rounds": rounds, "networks": networks, "cartpole_rollout": share_of_a_step(rounds)}
    for name, each in networks.items():
        print(f"{name}: {each['float32_us']} µs in float32, {each['int8_us']} µs in INT8 ({each['speedup']} ×)")
    print("a step of 16 environments:", results["cartpole_rollout"])
    print(save("int8-actor", results))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
