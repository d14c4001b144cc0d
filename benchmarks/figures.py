"""Writes the README's figures from benchmarks/results; tests/test_readme.py holds the two equal.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
START, END = "<!-- figures: written by benchmarks/figures.py -->\n", "<!-- end of figures -->\n"

RIVALS = ("bitrl", "stable_baselines3")


def result(name: str) -> dict[str, Any]:
    """One result file, or an empty one while it has not been made."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def figures() -> str:
    """The README's tables."""
    lines = [
        "CartPole-v1, BitRL recipe, starter model; five seeds each, 100 evaluation episodes a seed:",
        "",
        "| states written as | return, mean over seeds (95 %) | worst seed | steps | training | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for serializer in ("json", "compact", "natural"):
        record = result(f"learning-CartPole-v1-bitnet-{serializer}")
        if record:
            found = record["results"]
            worst = min(run["eval"]["mean_return"] for run in found["runs"])
            lines.append(
                f"| `{serializer}` | {found['mean_return']:.0f} ± {found['confidence_95']:.0f} | {worst:.0f} "
                f"| {found['runs'][0]['steps']:,} | {found['max_train_seconds']:.0f} s at most "
                f"| {found['max_peak_rss_mb']:.0f} MB |"
            )
    lines += [
        "",
        "Without a language model (`--backbone mlp -o algo.preset=standard`), against Stable-Baselines3's PPO with the "
        "same settings, taking turns in one run, means over five seeds:",
        "",
        "| steps | return: bitrl | Stable-Baselines3 | worst seed: bitrl | Stable-Baselines3 | steps per second: bitrl "
        "| Stable-Baselines3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for steps in (50_000, 100_000):
        against = result(f"ppo-against-sb3-{steps}").get("results")
        if against:
            worst_of = {who: min(pair[who]["return"] for pair in against["pairs"]) for who in RIVALS}
            lines.append(
                f"| {steps:,} | {against['bitrl_mean_return']:.1f} | {against['stable_baselines3_mean_return']:.1f} "
                f"| {worst_of['bitrl']:.1f} | {worst_of['stable_baselines3']:.1f} "
                f"| {against['bitrl_median_steps_per_second']:,.0f} ({against['speed_ratio']:.1f} ×) "
                f"| {against['stable_baselines3_median_steps_per_second']:,.0f} |"
            )
    encode = result("encode").get("results")
    if encode:
        lines += ["", encode_line(encode)]
    startup = result("startup").get("results")
    if startup:
        lines += [
            "",
            f"`bitrl --help` takes {startup['bitrl --help (median ms)']:.0f} ms and `bitrl list` "
            f"{startup['bitrl list (median ms)']:.0f} ms.",
        ]
    processor = result("learning-CartPole-v1-bitnet-json").get("processor")
    if processor:
        lines += ["", f"Measured on two cores of an {processor['name']} ({', '.join(processor['features'])})."]
    return "\n".join(lines) + "\n"


def encode_line(encode: dict[str, Any]) -> str:
    """The engine's speed in a sentence."""
    one, two = encode["threads"]["1"], encode["threads"]["2"]
    return (
        f"The engine encodes {two['texts_per_second']:,.0f} CartPole states a second as JSON in batches of "
        f"{encode['batch']} on two threads, tokenising included ({one['texts_per_second']:,.0f} on one); on one thread "
        f"its arithmetic runs at {one['peak_fraction']:.0%} of the processor's limit for int8 dot products, measured "
        "beside it."
    )


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    readme.write_text(before + START + figures() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
