"""What an update of GRPO takes, part by part, with rollouts in several precisions: runs take turns in one process.

    python benchmarks/grpo_by_parts.py
    python benchmarks/grpo_by_parts.py --model starter-tasks-fp16 --env reverse-word --updates 60 --completions 64 \
        --tokens 16 --learning-rate 3e-4 --out grpo-by-parts-small

All learn the same model in float32 and sample with a copy of it in their precision, for which ACR corrects. Ratios are
of neighbours in a round, medians over rounds; the first round is not counted. Groups whose rewards are all equal are
not learned from, which would make an update short: the task scores completions by a share of their letters, which
differs within any group. The share of groups left out is in the results.
"""

from __future__ import annotations

import json
from typing import Any

from record import save
from turns import Clock, each_takes, first_and_last, median, parser_of, ratio, runs_of

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
    return each_takes(clock) | {
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
    args = parser_of(
        __doc__, env="share_of_vowels:ShareOfVowels", model="smollm2-135m", updates=5, completions=32, tokens=64,
        learning_rate=1e-6, out="grpo-by-parts",
    ).parse_args()  # fmt: skip
    runs = runs_of(args, {name: {"algo.rollout": name, "algo.correction": "acr"} for name in ROLLOUTS})
    clock, parts, rewards, skipped = take_turns(runs, args.updates)
    found = compared(clock, parts, rewards)
    print(json.dumps(found, indent=2))
    save(args.out, vars(args) | found | {"seconds": clock.seconds, "rewards": rewards, "skipped": skipped})


if __name__ == "__main__":
    main()
