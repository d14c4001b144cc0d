"""Does it help to train adapters on the language model (LoRA) beneath the heads, and what does it cost?

python benchmarks/lora.py --runs DIR [--jobs 2]

Trains CartPole-v1 with the starter model frozen and with adapters of rank 8, three seeds each: on `codes`, texts that
the starter reads badly (states as learned tokens that mean nothing to it), and on `compact`, through one block only.
Runs lie in DIR: finished ones are kept, stopped ones resume. Results go to benchmarks/results/lora.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from record import RESULTS, save

from bitrl.core.config import read_toml
from bitrl.core.files import write_atomically
from bitrl.core.runs.store import read_provenance

SEEDS = (0, 1, 2)
T_95 = 4.303
"""Student's t of three seeds: half a 95 % interval is this many standard errors."""

SETTINGS = {
    "codes": ["--serializer", "codes"],
    "compact": ["--serializer", "compact", "-o", "backbone.layers=1", "-o", "algo.epochs=3",
                "-o", "algo.minibatch_size=128"],
}  # fmt: skip
ARMS = {"frozen": [], "lora": ["-o", "backbone.lora_rank=8"]}
COMMON = ["--env", "CartPole-v1", "--steps", "50000", "--quiet", "-o", "backbone.threads=1"]


def train(directory: Path, arguments: list[str], seed: int) -> None:
    """Start a run, go on with it, or leave a finished one as it is."""
    if (directory / "summary.json").is_file():
        return
    started = (directory / "config.toml").is_file()
    how = ["--resume", str(directory), "--quiet"] if started else [*COMMON, *arguments, "--seed", str(seed)]
    out = [] if started else ["--out", str(directory)]
    subprocess.run([sys.executable, "-m", "bitrl", "run", *how, *out], check=True, stdout=subprocess.DEVNULL)


def described(directory: Path) -> dict[str, Any]:
    """What a finished run has to say."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    solved = next((row["step"] for row in rows if row.get("episode_return", 0) >= 475), None)
    return {
        "seed": summary["seed"],
        "steps": summary["steps"],
        "return": summary["eval"]["mean_return"],
        "steps_per_second": summary["steps_per_second"],
        "peak_rss_mb": summary["peak_rss_mb"],
        "first_rollout_at_475": solved,
        "curve": [[row["step"], row["episode_return"]] for row in rows if "episode_return" in row],
    }


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval."""
    half = T_95 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def table(results: list[dict[str, Any]]) -> str:
    """The results as a page."""
    lines = [
        "CartPole-v1, starter model, PPO, 50,000 steps, three seeds, 100 greedy evaluation episodes a seed; means with",
        "95 % intervals (Student's t). Adapters of rank 8 on q and v. Trainings ran side by side on two cores beside",
        "other work, so steps per second say little more than their order.",
        "",
        "| states written as | language model | return | worst seed | sampled return first ≥ 475 at step | steps/s | "
        "peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results:
        runs = row["runs"]
        solved = ", ".join(f"{run['first_rollout_at_475']:,}" if run["first_rollout_at_475"] else "–" for run in runs)
        lines.append(
            f"| `{row['serializer']}` | {row['arm']} | {interval([run['return'] for run in runs])} | "
            f"{min(run['return'] for run in runs):.1f} | {solved} | "
            f"{statistics.median(run['steps_per_second'] for run in runs):,.0f} | "
            f"{max(run['peak_rss_mb'] for run in runs):,.0f} MB |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Train what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs lie")
    parser.add_argument("--commit", help="at which the runs were trained, where they do not say so themselves")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    arguments = parser.parse_args()
    cells = [(name, arm, seed) for name in SETTINGS for arm in ARMS for seed in SEEDS]

    def place(name: str, arm: str, seed: int) -> Path:
        return arguments.runs / f"{name}-{arm}-{seed}"

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda cell: train(place(*cell), [*SETTINGS[cell[0]], *ARMS[cell[1]]], cell[2]), cells))
    results = []
    for name in SETTINGS:
        for arm in ARMS:
            first = read_toml(place(name, arm, SEEDS[0]) / "config.toml")
            del first["run"]["seed"]
            runs = [described(place(name, arm, seed)) for seed in SEEDS]
            made_by = read_provenance(place(name, arm, SEEDS[0]))
            trained = {**made_by.get("versions", {}), "commit": made_by.get("git_commit", arguments.commit)}
            results.append({"serializer": name, "arm": arm, "config": first, "trained_with": trained, "runs": runs})
    save("lora", results)
    write_atomically(RESULTS / "lora.md", table(results))


if __name__ == "__main__":
    main()
