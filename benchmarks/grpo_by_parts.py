"""What an update of GRPO takes, part by part, with rollouts in several precisions: runs take turns in one process.

    python benchmarks/grpo_by_parts.py
    python benchmarks/grpo_by_parts.py --model starter-tasks-fp16 --env reverse-word --updates 60 --completions 64 \
        --tokens 16 --learning-rate 3e-4 --out grpo-by-parts-small

All learn the same model in float32 and sample with a copy of it in their precision, for which ACR corrects. Ratios are
of neighbours in a round, medians over rounds; the first round is not counted. Groups whose rewards are all equal are
not learned from, which makes an update short: their share is in the results, and should be alike.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from record import save
from turns import Clock, begun, first_and_last, median, ratio

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


def take_turns(
    runs: dict[str, Algorithm], updates: int
) -> tuple[Clock, dict[str, list[dict[str, float]]], dict[str, list[float]], dict[str, list[float]]]:
    """Times, parts and rewards of everyone's updates, and the shares of groups that they did not learn from."""
    clock = Clock(runs)
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    rewards: dict[str, list[float]] = {name: [] for name in runs}
    skipped: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(updates):
        for name, run in runs.items():
            clock.start()
            metrics = run.update()
            clock.stop(name)
            rewards[name].append(metrics["episode_return"])
            skipped[name].append(metrics["groups_without_variance"])
            parts[name].append(parts_of(run.timings(), clock.seconds[name][-1]))
        last = {name: (clock.seconds[name][-1], clock.cpu_seconds[name][-1], rewards[name][-1]) for name in runs}
        print({name: tuple(round(each, 3) for each in found) for name, found in last.items()}, flush=True)
    return clock, parts, rewards, skipped


def compared(clock: Clock, parts: dict[str, list[dict[str, float]]], rewards: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of everyone's parts, and int8 beside the faster of the full precisions."""
    seconds, cpu = clock.seconds, clock.cpu_seconds
    full = min(FULL, key=lambda name: median(cpu[name]))
    shares = {
        name: [each["replacement"] / whole for each, whole in zip(found, seconds[name], strict=True)]
        for name, found in parts.items()
    }
    return {
        "updates_per_hour": {name: 3600 / median(each) for name, each in seconds.items()},
        "cpu_seconds_per_update": {name: median(each) for name, each in cpu.items()},
        "seconds_by_part": {
            name: {part: median([each[part] for each in found]) for part in found[0]} for name, found in parts.items()
        },
        "replacement_share": {name: median(each) for name, each in shares.items()},
        "full_precision": full,
        "int8_step_to_full_precision": 1 / ratio(seconds[full], seconds["int8"]),
        "int8_step_to_full_precision_in_cpu_seconds": 1 / ratio(cpu[full], cpu["int8"]),
        "reward": {name: first_and_last(each) for name, each in rewards.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="sort-digits", help="a task that the model is partly right at: see above")
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
    clock, parts, rewards, skipped = take_turns(runs, args.updates)
    found = compared(clock, parts, rewards)
    print(json.dumps(found, indent=2))
    save(args.out, vars(args) | found | {"seconds": clock.seconds, "rewards": rewards, "skipped": skipped})


if __name__ == "__main__":
    main()
