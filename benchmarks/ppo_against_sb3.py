"""bitrl's PPO without a language model against Stable-Baselines3's, interleaved in one run.

    python benchmarks/ppo_against_sb3.py --seeds 5 --steps 50000

Ours is `--backbone mlp --serializer vector -o algo.preset=standard`. Both train on CartPole-v1 with the same
hyper-parameters and network sizes for the same steps, on one thread of torch, each in its own process, and are
evaluated greedily over 100 episodes. Steps per second are of training alone, without start-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

from record import save

OURS = """
import sys, bitrl
summary = bitrl.run("CartPole-v1", backbone="mlp", serializer="vector", steps=int(sys.argv[1]), seed=int(sys.argv[2]),
                    out=sys.argv[3], options={"algo.preset": "standard", "run.num_envs": 8})
import json
print(json.dumps({"steps_per_second": summary["steps_per_second"], "return": summary["eval"]["mean_return"]}))
"""
THEIRS = """
import json, sys, time, torch
torch.set_num_threads(1)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
steps, seed = int(sys.argv[1]), int(sys.argv[2])
envs = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
model = PPO("MlpPolicy", envs, n_steps=256, batch_size=64, n_epochs=10, gamma=0.99, gae_lambda=0.95, clip_range=0.2,
            ent_coef=0.01, vf_coef=0.5, max_grad_norm=0.5, learning_rate=3e-4, seed=seed, device="cpu")
began = time.perf_counter()
model.learn(steps)
seconds = time.perf_counter() - began
mean, _ = evaluate_policy(model, make_vec_env("CartPole-v1", n_envs=8, seed=seed + 1000), n_eval_episodes=100)
print(json.dumps({"steps_per_second": model.num_timesteps / seconds, "return": float(mean)}))
"""


def measure(code: str, *arguments: object) -> dict:
    answer = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50_000)
    known = parser.parse_args()
    pairs = []
    for seed in range(known.seeds):
        with tempfile.TemporaryDirectory() as directory:
            ours = measure(OURS, known.steps, seed, directory + "/run")
        theirs = measure(THEIRS, known.steps, seed)
        ratio = ours["steps_per_second"] / theirs["steps_per_second"]
        pairs.append({"seed": seed, "bitrl": ours, "stable_baselines3": theirs, "speed_ratio": ratio})
        print(
            f"seed {seed}: bitrl {ours['return']:.1f} at {ours['steps_per_second']:.0f} steps/s, "
            f"Stable-Baselines3 {theirs['return']:.1f} at {theirs['steps_per_second']:.0f}, ratio {ratio:.2f}",
            flush=True,
        )
    medians = {
        "speed_ratio": statistics.median(pair["speed_ratio"] for pair in pairs),
        **{
            f"{who}_{what}": function(pair[who][key] for pair in pairs)
            for who in ("bitrl", "stable_baselines3")
            for what, key, function in (
                ("mean_return", "return", statistics.mean),
                ("median_steps_per_second", "steps_per_second", statistics.median),
            )
        },
    }
    print(json.dumps(medians, indent=2))
    save(f"ppo-against-sb3-{known.steps}", {**medians, "pairs": pairs})


if __name__ == "__main__":
    main()
