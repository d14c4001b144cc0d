"""The lines of docs/results.md about readouts that runs choose: in environments that nobody tuned, and in the classic
ones. Written by figures.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitrl.core.studies.recorded import read_recorded
from bitrl.core.studies.statistics import equivalence, ratio_of_means, t_interval

MARGIN = 0.05


def stranger_lines(path: Path) -> list[str]:
    """The language model beside the numbers themselves in each environment of examples/studies/strangers.toml."""
    return [
        "Environments that nobody tuned, 150,000 steps with MuJoCo's usual settings: the ternary starter with the "
        "readout that it chooses, beside an MLP on the numbers (`python benchmarks/recorded_study.py DIR --study "
        "strangers --jobs 2`). Return of 100 episodes, means over seeds with Student's 95 % intervals; the ratio is "
        "above 1 where the language model is better (of costs, the numbers' to its own); equivalent within 5 % by two "
        "one-sided tests:",
        "",
        "| environment | seeds | language model | numbers | ratio | equivalent |",
        *_beside(path, "bitnet", "mlp"),
    ]


def readout_lines(path: Path) -> list[str]:
    """The first block and the readout that is measured, beside all blocks, in each environment of
    examples/studies/readouts.toml.
    """
    return [
        "The mean over tokens after the first block, the default of the classic tasks, beside that after all four "
        "(`python benchmarks/recorded_study.py DIR --study readouts --jobs 2`). Return of 100 episodes, means over "
        "seeds with Student's 95 % intervals; equivalent within 5 % by two one-sided tests:",
        "",
        "| environment | seeds | first block | four blocks | ratio | equivalent |",
        *_beside(path, "first-block", "bitnet"),
        "",
        "The readout that `-o backbone.readout=auto` measures (four directions of each number after the first block):",
        "",
        "| environment | seeds | measured | four blocks | ratio | equivalent |",
        *_beside(path, "auto", "bitnet"),
    ]


def mujoco_readout_lines(path: Path) -> list[str]:
    """The measured readout of numbers in units beside the default in examples/studies/readouts-mujoco.toml."""
    return [
        "The measured readout of numbers in units (`--serializer values -o backbone.readout=auto`) beside the default "
        "of MuJoCo's tasks, the mean over the tokens of JSON after two blocks, after a million steps (`python "
        "benchmarks/recorded_study.py DIR --study readouts-mujoco --jobs 2`):",
        "",
        "| environment | seeds | measured | default | ratio | equivalent |",
        *_beside(path, "values", "bitnet"),
    ]


def _beside(path: Path, ours: str, others: str) -> list[str]:
    """The rows of a table of two arms: both returns, their ratio, and whether they are equivalent."""
    returns: dict[str, dict[str, list[float]]] = {}
    for each in read_recorded(path)[0]:
        if each.summary:
            arms = returns.setdefault(each.task, {ours: [], others: []})
            arms.setdefault(str(each.label), []).append(each.summary["eval"]["mean_return"])
    lines = ["|---|---|---|---|---|---|"]
    for task, arms in sorted(returns.items()):
        if not (arms[ours] and arms[others]):
            continue
        first, second = (np.array(arms[arm]) for arm in (ours, others))
        ratio = ratio_of_means(first, second)
        lines.append(
            f"| {task} | {len(first)}{'' if len(first) == len(second) else f' and {len(second)}'} | {_mean(first)} "
            f"| {_mean(second)} | {'none: the signs differ' if np.isnan(ratio) else f'{ratio:.2f}'} "
            f"| {equivalence(first, second, MARGIN).verdict} |"
        )
    return lines


def _mean(values: np.ndarray) -> str:
    interval = t_interval(values)
    return f"{values.mean():.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")
