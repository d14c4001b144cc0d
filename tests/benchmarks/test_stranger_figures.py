"""The table of environments that nobody tuned, from recorded results."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bitrl.core.studies.recorded import write_recorded
from bitrl.core.studies.results import Result

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(task: str, arm: str, seed: int, mean: float | None) -> Result:
    summary = None if mean is None else {"steps": 100, "eval": {"episodes": 100, "mean_return": mean}}
    return Result(
        directory=Path(task, arm, f"seed{seed}"), task=task, settings={}, seed=seed, summary=summary, curve=(),
        evaluations=(), label=arm, provenance={},
    )  # fmt: skip


def test_each_task_is_a_line_with_its_intervals_ratio_and_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    lines_of = importlib.import_module("stranger_figures").stranger_lines
    results = [run("Rewards", "bitnet", seed, 100 + seed / 10) for seed in range(3)]
    results += [run("Rewards", "mlp", seed, 100 + seed / 10) for seed in range(3)]
    results += [run("Costs", "bitnet", seed, -44.0) for seed in range(2)] + [run("Costs", "mlp", 0, -40.0)]
    results += [run("Signs", "bitnet", 0, -1.0), run("Signs", "mlp", 0, 2.0)]
    results += [run("Alone", "bitnet", 0, 1.0), run("Alone", "mlp", 0, None)]  # one arm has finished
    write_recorded(results, tmp_path / "strangers.json", "mlp")
    rows = [line for line in lines_of(tmp_path / "strangers.json") if line.startswith("| ")][1:]
    assert rows == [
        # Costs of 44 beside 40: 40 / 44. One seed has no interval, two that are equal one without a width.
        "| Costs | 2 and 1 | -44.0 (-44.0 to -44.0) | -40.0 | 0.91 | undecided |",
        # Student's t with two degrees of freedom: 100.1 ± 4.303 × 0.1 / √3.
        "| Rewards | 3 | 100.1 (99.9 to 100.3) | 100.1 (99.9 to 100.3) | 1.00 | yes |",
        "| Signs | 1 | -1.0 | 2.0 | none: the signs differ | undecided |",
    ]


def test_the_measured_readout_is_a_line_beside_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    lines = importlib.import_module("stranger_figures")
    for arm, lines_of in (("auto", lines.readout_lines), ("values", lines.mujoco_readout_lines)):
        returns = ((arm, 99.0), ("bitnet", 90.0))
        results = [run("Rewards", name, seed, mean) for name, mean in returns for seed in range(2)]
        write_recorded(results, tmp_path / "readouts.json", "bitnet")
        assert lines_of(tmp_path / "readouts.json")[-1] == (
            "| Rewards | 2 | 99.0 (99.0 to 99.0) | 90.0 (90.0 to 90.0) | 1.10 | no |"
        )
