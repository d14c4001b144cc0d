"""The lines of docs/results.md about environments that nobody tuned. Written by figures.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitrl.core.studies.recorded import read_recorded
from bitrl.core.studies.statistics import equivalence, ratio_of_means, t_interval

MARGIN = 0.05
OURS, NUMBERS = "bitnet", "mlp"
"""The arms of examples/studies/strangers.toml."""


def stranger_lines(path: Path) -> list[str]:
    """The language model beside the numbers themselves in each environment, as a table."""
    returns: dict[str, dict[str, list[float]]] = {}
    for each in read_recorded(path)[0]:
        if each.summary:
            arms = returns.setdefault(each.task, {OURS: [], NUMBERS: []})
            arms[str(each.label)].append(each.summary["eval"]["mean_return"])
    lines = [
        "Environments that nobody tuned, 150,000 steps with MuJoCo's usual settings: the ternary starter with the "
        "readout that it chooses, beside an MLP on the numbers (`python benchmarks/recorded_study.py DIR --study "
        "strangers --jobs 2`). Return of 100 episodes, means over seeds with Student's 95 % intervals; the ratio is "
        "above 1 where the language model is better (of costs, the numbers' to its own); equivalent within 5 % by two "
        "one-sided tests:",
        "",
        "| environment | seeds | language model | numbers | ratio | equivalent |",
        "|---|---|---|---|---|---|",
    ]
    for task, arms in sorted(returns.items()):
        if not all(arms.values()):
            continue
        ours, numbers = (np.array(arms[arm]) for arm in (OURS, NUMBERS))
        ratio = ratio_of_means(ours, numbers)
        lines.append(
            f"| {task} | {len(ours)}{'' if len(ours) == len(numbers) else f' and {len(numbers)}'} | {_mean(ours)} "
            f"| {_mean(numbers)} | {'none: the signs differ' if np.isnan(ratio) else f'{ratio:.2f}'} "
            f"| {equivalence(ours, numbers, MARGIN).verdict} |"
        )
    return lines


def _mean(values: np.ndarray) -> str:
    interval = t_interval(values)
    return f"{values.mean():.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")
