"""10,000 rewards of one run that raise, are no numbers, end their process or hang: all are counted, and nothing stalls.

    python benchmarks/failing_rewards.py

Half of the scores fail, each in a way that its completion decides. Beside it, an update each in turn, the same run with
scores that do not.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from record import save
from turns import Clock, begun, ratio

SETTINGS = {
    "run.algo": "grpo", "run.backbone": "fp32", "run.num_envs": 256, "backbone.model": "starter-tasks-fp16",
    "algo.max_tokens": 4,
}  # fmt: skip


def measure(failures: int, options: dict[str, Any]) -> dict[str, Any]:
    """Both runs, until so many rewards have failed."""
    runs = {name: begun(options | {"run.env": f"bad_scores:{name}"}) for name in ("Failing", "Right")}
    clock, failed, collector = Clock(runs), 0, runs["Failing"].task.collector
    while failed < failures:
        for name, run in runs.items():
            clock.start()
            run.update()
            clock.stop(name)
        failed += round(collector.episode_metrics.take()["failed_rewards"] * collector.num_envs)
        print(f"{failed:,} of {collector.steps:,} rewards failed", flush=True)
    for run in runs.values():
        run.task.collector.envs.close()
    return {
        "scored": collector.steps,
        "failed": failed,
        "seconds": {name: sum(each) for name, each in clock.seconds.items()},
        "median_update_to_one_without_failures": ratio(clock.seconds["Failing"], clock.seconds["Right"]),
        "longest_updates": sorted(clock.seconds["Failing"], reverse=True)[:5],
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
