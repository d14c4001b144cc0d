"""Trains the same agent with several seeds, each in its own process, and prints what they reached.

    python benchmarks/learning.py --backbone bitnet --serializer json --seeds 5

Prints return over 100 evaluation episodes, training time and peak memory per seed; writes results/learning-….json, with
the learning curves, and draws results/learning-….png when matplotlib is there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import RESULTS, save

# Student's t for a 95 % interval with n − 1 degrees of freedom.
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def train(arguments: list[str], seed: int, directory: Path) -> dict:
    """One run from the command line; its summary, with the learning curve as [step, return] pairs."""
    out = directory / f"seed{seed}"
    bitrl = Path(sys.executable).with_name("bitrl")
    command = [bitrl, "run", *arguments, "--seed", str(seed), "--out", out, "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads(answer.stdout)
    summary.pop("run")
    return {**summary, "curve": [[row["step"], row["episode_return"]] for row in rows if "episode_return" in row]}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % confidence interval."""
    half = T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) in T95 else math.nan
    return statistics.mean(values), half


def draw(name: str, title: str, runs: list[dict]) -> None:
    """The learning curves of all seeds, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=150)
    for run in runs:
        axes.plot(*zip(*run["curve"], strict=True), lw=1.3, alpha=0.85, label=f"seed {run['seed']}")
    axes.set(xlabel="environment steps", ylabel="return of the episodes in a rollout", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 … N−1")
    parser.add_argument("--name", help="of the result files; made from the components if not given")
    known, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        runs = []
        for seed in range(known.seeds):
            runs.append(train(arguments, seed, Path(directory)))
            run = runs[-1]
            print(
                f"seed {seed}: return {run['eval']['mean_return']:.1f} ± {run['eval']['std_return']:.1f}, "
                f"{run['train_seconds']:.0f} s, {run['steps_per_second']:.0f} steps/s, {run['peak_rss_mb']:.0f} MB",
                flush=True,
            )
    mean, half = interval([run["eval"]["mean_return"] for run in runs])
    first = runs[0]
    backbone = first["backbone"] + (f"-critic-{first['critic_backbone']}" if first["critic_backbone"] else "")
    print(f"{first['env']} {backbone} {first['serializer']}: {mean:.1f} ± {half:.1f} (95 % over seeds)")
    name = known.name or "-".join(["learning", first["env"], backbone, first["serializer"]])
    results = {"mean_return": mean, "confidence_95": half, "max_train_seconds": max(r["train_seconds"] for r in runs)}
    save(name, {**results, "max_peak_rss_mb": max(r["peak_rss_mb"] for r in runs), "runs": runs})
    draw(name, f"{first['env']}: {backbone} reads {first['serializer']}", runs)


if __name__ == "__main__":
    main()
