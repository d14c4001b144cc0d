"""What an update of GRPO takes, part by part, with rollouts in several precisions: runs take turns in one process.

    python benchmarks/grpo_by_parts.py
    python benchmarks/grpo_by_parts.py --model starter-tasks-fp16 --env reverse-word --updates 60 --completions 64 \
        --tokens 16 --learning-rate 3e-4 --out grpo-by-parts-small

All learn the same model in float32; the first three sample with it, and are corrected for the difference where there is
one (ACR). Ratios are of neighbours in a round, medians over rounds; the first round is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from record import save
from turns import NOT_COUNTED, PAUSE_SECONDS, begun, first_and_last, per_hour, ratio

from bitrl.core.interfaces import Algorithm

FULL = ("fp32", "bf16")
ROLLOUTS = (*FULL, "int8")
PARTS = ("generation", "rollout", "log-probabilities", "update", "replacement")
"""As timings.jsonl has them; of `rollout`, what generation leaves: prompts, scores and bookkeeping."""


def parts_of(timings: Any, seconds: float) -> dict[str, float]:
    """An update's seconds by part, which add up to `seconds`."""
    found = {part: float(timings.get(part, 0.0)) for part in PARTS}
    found["rollout"] -= found["generation"]
    return found | {"rest": seconds - sum(found.values())}


def take_turns(runs: dict[str, Algorithm], updates: int) -> tuple[dict[str, list[dict[str, float]]], Any]:
    """Parts and rewards of everyone's updates."""
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    rewards: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(updates):
        for name, run in runs.items():
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            metrics = run.update()
            parts[name].append(parts_of(run.timings(), time.perf_counter() - began))
            rewards[name].append(metrics["episode_return"])
        print(
            {name: (round(sum(parts[name][-1].values()), 2), round(rewards[name][-1], 3)) for name in runs}, flush=True
        )
    return parts, rewards


def compared(parts: dict[str, list[dict[str, float]]], rewards: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of everyone's parts, and int8 beside the faster of the full precisions."""
    seconds = {name: [sum(each.values()) for each in found] for name, found in parts.items()}
    full = max(FULL, key=lambda name: per_hour(seconds[name]))
    medians = {
        name: {part: statistics.median(each[part] for each in found[NOT_COUNTED:]) for part in found[0]}
        for name, found in parts.items()
    }
    return {
        "updates_per_hour": {name: per_hour(each) for name, each in seconds.items()},
        "seconds_by_part": medians,
        "replacement_share": {
            name: statistics.median(each["replacement"] / sum(each.values()) for each in found[NOT_COUNTED:])
            for name, found in parts.items()
        },
        "full_precision": full,
        "int8_step_to_full_precision": 1 / ratio(seconds[full], seconds["int8"]),
        "reward": {name: first_and_last(each) for name, each in rewards.items()},
        "rewards": rewards,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="addition")
    parser.add_argument("--model", default="smollm2-135m", help="a GGUF file, or a name of `bitrl model list`")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--completions", type=int, default=64, help="of an update")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="of a completion, at most")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="grpo-by-parts", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    common = {
        "run.env": args.env, "run.algo": "grpo", "run.backbone": "fp32", "run.num_envs": args.completions,
        "backbone.model": args.model, "backbone.threads": args.threads, "algo.group_size": args.group,
        "algo.max_tokens": args.tokens, "algo.learning_rate": args.learning_rate, "algo.correction": "acr",
        "run.steps": args.updates * args.completions,
    }  # fmt: skip
    runs = {rollout: begun(common | {"algo.rollout": rollout}) for rollout in ROLLOUTS}
    found = compared(*take_turns(runs, args.updates))
    print(json.dumps({name: each for name, each in found.items() if name != "rewards"}, indent=2))
    save(args.out, vars(args) | found)


if __name__ == "__main__":
    main()
