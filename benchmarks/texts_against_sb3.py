"""CartPole read as JSON by the ternary starter, beside Stable-Baselines3's PPO on the four numbers: steps per second.

    python benchmarks/texts_against_sb3.py [--rounds 3] [--steps 50000]

Both train with 16 environments, rollouts of 2,048 steps and 4 epochs of minibatches of 64, each with one and with two
threads, of which the quicker counts. The starter reads with its first block, as by default; with all four; and with the
readout that `backbone.readout=auto` measures, four directions of each number after the first block. Rounds are
interleaved, every training in its own process; speeds are of training alone, without start-up, the choice of the
readout and evaluation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from ppo_against_sb3 import measure
from record import save

OURS = """
import json, os, sys
steps, threads, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.environ["OMP_NUM_THREADS"] = str(threads)  # the learner's
import bitrl
options = {"run.num_envs": 16, "algo.rollout_steps": 2048, "algo.epochs": 4, "algo.minibatch_size": 64,
           "backbone.threads": threads, "run.eval_episodes": 1, **READOUT}
summary = bitrl.run("CartPole-v1", backbone="bitnet", serializer="json", steps=steps, out=out, options=options)
print(json.dumps({"steps_per_second": summary["steps_per_second"]}))
"""
THEIRS = """
import json, sys, time, torch
steps, threads = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=16, seed=0), n_steps=128, batch_size=64, n_epochs=4,
            seed=0, device="cpu")
began = time.perf_counter()
model.learn(steps)
print(json.dumps({"steps_per_second": model.num_timesteps / (time.perf_counter() - began)}))
"""
RIVALS = {
    "bitrl": OURS.replace("READOUT", "{}"),
    "bitrl_four_blocks": OURS.replace("READOUT", '{"backbone.layers": 4}'),
    "bitrl_auto": OURS.replace("READOUT", '{"backbone.readout": "auto"}'),
    "stable_baselines3": THEIRS,
}
THREADS = (1, 2)


def quickest(rounds: list[dict[str, dict[int, float]]], who: str) -> tuple[int, float]:
    """The number of threads that suits a rival best, and its median steps per second with it."""
    medians = {threads: statistics.median(each[who][threads] for each in rounds) for threads in THREADS}
    best = max(medians, key=lambda threads: medians[threads])
    return best, medians[best]


def compared(rounds: list[dict[str, dict[int, float]]]) -> dict[str, Any]:
    """Each rival's threads and speed, and how many times as fast as Stable-Baselines3 it is: the rounds' median."""
    best = {who: quickest(rounds, who) for who in RIVALS}
    found: dict[str, Any] = {}
    for who, (threads, speed) in best.items():
        ratios = [each[who][threads] / each["stable_baselines3"][best["stable_baselines3"][0]] for each in rounds]
        found[who] = {"threads": threads, "steps_per_second": speed, "ratio": statistics.median(ratios)}
    return {**found, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50_000)
    known = parser.parse_args()
    rounds: list[dict[str, dict[int, float]]] = []
    for _ in range(known.rounds):
        one: dict[str, dict[int, float]] = {who: {} for who in RIVALS}
        for threads in THREADS:
            for who, code in RIVALS.items():
                one[who][threads] = measure(code, known.steps, threads)["steps_per_second"]
        rounds.append(one)
        print(json.dumps(one), file=sys.stderr, flush=True)
    found = compared(rounds)
    print(json.dumps(found, indent=2))
    save("texts-against-sb3", found)


if __name__ == "__main__":
    main()
