"""bitrl's PPO without a language model against Stable-Baselines3's, interleaved in one run.

    python benchmarks/ppo_against_sb3.py --seeds 5 --steps 50000
    python benchmarks/ppo_against_sb3.py --env HalfCheetah-v5 --env Hopper-v5 --seeds 5 --steps 300000 --pairs FILE

Ours is `--backbone mlp --serializer vector -o algo.preset=standard`, without what an environment's defaults add to it.
Both train with the same hyper-parameters, network sizes and scaled observations for the same steps, on one thread of
torch, each in its own process, and are evaluated greedily over 100 episodes. Steps per second are of training alone,
without start-up, and count only where the load average, which is kept, says that nothing else ran. FILE keeps each
finished pair, which is not measured again when the command is. Whether the returns are equivalent is tested, not
assumed (two one-sided tests at 5 %).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from record import save

from bitrl.core.studies.statistics import equivalence, ratio_interval, ratio_of_means, t_interval

OURS = """
import sys, json, bitrl
env, steps, seed, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
options = {"algo.preset": "standard", "algo.minibatch_size": 64, "algo.anneal": False, "algo.log_std_init": 0.0,
           "algo.normalise_rewards": False, "algo.running_standardisation": False, "algo.noise_hold": 1.0,
           "algo.epochs": 10, "algo.gamma": 0.99, "algo.gae_lambda": 0.95, "run.num_envs": 8}
summary = bitrl.run(env, backbone="mlp", serializer="vector", steps=steps, seed=seed, out=out, options=options)
print(json.dumps({"steps_per_second": summary["steps_per_second"], "return": summary["eval"]["mean_return"]}))
"""
THEIRS = """
import json, sys, time, gymnasium, numpy as np, torch, bitrl
torch.set_num_threads(1)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
env, steps, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
vector = bitrl.load_serializer("vector", env)
space = gymnasium.spaces.Box(-np.inf, np.inf, (vector.width,), np.float32)
def scaled():
    return gymnasium.wrappers.TransformObservation(gymnasium.make(env), vector, space)
envs = make_vec_env(scaled, n_envs=8, seed=seed)
model = PPO("MlpPolicy", envs, n_steps=256, batch_size=64, n_epochs=10, gamma=0.99, gae_lambda=0.95, clip_range=0.2,
            ent_coef=0.01, vf_coef=0.5, max_grad_norm=0.5, learning_rate=3e-4, seed=seed, device="cpu")
began = time.perf_counter()
model.learn(steps)
seconds = time.perf_counter() - began
mean, _ = evaluate_policy(model, make_vec_env(scaled, n_envs=8, seed=seed + 1000), n_eval_episodes=100)
print(json.dumps({"steps_per_second": model.num_timesteps / seconds, "return": float(mean)}))
"""
RIVALS = {"bitrl": OURS, "stable_baselines3": THEIRS}


def measure(code: str, *arguments: object) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", code, *map(str, arguments), f"{directory}/run"]
        answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def compared(pairs: list[dict[str, Any]], margin: float) -> dict[str, Any]:
    """Means and intervals over seeds, and whether the returns are equivalent."""
    ours, theirs = (np.array([pair[who]["return"] for pair in pairs]) for who in RIVALS)
    return {
        "load_average": max(pair["load_average"] for pair in pairs),
        "speed_ratio": statistics.median(pair["speed_ratio"] for pair in pairs),
        "bitrl_mean_return": float(ours.mean()),
        "bitrl_interval": t_interval(ours),
        "bitrl_median_steps_per_second": statistics.median(pair["bitrl"]["steps_per_second"] for pair in pairs),
        "stable_baselines3_mean_return": float(theirs.mean()),
        "stable_baselines3_interval": t_interval(theirs),
        "stable_baselines3_median_steps_per_second": statistics.median(
            pair["stable_baselines3"]["steps_per_second"] for pair in pairs
        ),
        "ratio": ratio_of_means(ours, theirs),
        "ratio_interval": ratio_interval(ours, theirs),
        "equivalent_within": margin,
        "equivalence": attrs.asdict(equivalence(ours, theirs, margin)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="may be repeated; CartPole-v1 by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="of finished pairs, a line each; it grows")
    parser.add_argument("--equivalent-within", type=float, default=0.05, metavar="SHARE")
    known = parser.parse_args()
    lines = known.pairs.read_text().splitlines() if known.pairs and known.pairs.exists() else []
    finished = {(line["env"], line["steps"], line["pair"]["seed"]): line["pair"] for line in map(json.loads, lines)}
    for env in known.env or ["CartPole-v1"]:
        pairs: list[dict[str, Any]] = []
        for seed in range(known.seeds):
            pair: dict[str, Any] | None = finished.get((env, known.steps, seed))
            if pair is None:
                pair = {"seed": seed, **{who: measure(code, env, known.steps, seed) for who, code in RIVALS.items()}}
                pair["load_average"] = round(os.getloadavg()[0], 1)
                pair["speed_ratio"] = pair["bitrl"]["steps_per_second"] / pair["stable_baselines3"]["steps_per_second"]
                if known.pairs:
                    with known.pairs.open("a") as file:
                        file.write(json.dumps({"env": env, "steps": known.steps, "pair": pair}) + "\n")
            pairs.append(pair)
            words = ", ".join(
                f"{who} {pair[who]['return']:.1f} at {pair[who]['steps_per_second']:.0f}/s" for who in RIVALS
            )
            print(f"{env} seed {seed}: {words}, ratio {pair['speed_ratio']:.2f}", flush=True)
        found = compared(pairs, known.equivalent_within)
        print(json.dumps(found, indent=2), flush=True)
        name = f"ppo-against-sb3-{known.steps}" if env == "CartPole-v1" else f"ppo-against-sb3-{env}-{known.steps}"
        save(name, {**found, "pairs": pairs})


if __name__ == "__main__":
    main()
