"""Keeps what was trained of examples/studies/dose-and-response.toml, and what its diagnostics say.

    bitrl study examples/studies/dose-and-response.toml                 # trains, and goes on where it was stopped
    python benchmarks/dose_and_response.py studies/dose-and-response
    python benchmarks/figures.py                                        # docs/language-models.md

Results of its finished runs go to benchmarks/results/studies/, which `bitrl compare` reads; diagnostics and alarms of
each arm to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import RESULTS, save

from bitrl.core.studies.recorded import write_recorded
from bitrl.core.studies.results import Result
from bitrl.core.studies.study import read_study
from bitrl.plugins.algos.alarms import BOUNDS, Alarms

DIAGNOSTICS = ("ess", "m2", "chi2", "kl_behaviour", "sign_skew", "rejected", "truncated", "clip_fraction")
FALLEN = 0.9
"""A reward has fallen when it is below this share of the best before it."""


def alarms(rows: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """The step at which each alarm was told, by the metrics of a run's updates."""
    told = Alarms()
    with contextlib.redirect_stderr(io.StringIO()) as heard:
        for row in rows:
            told(row, row["step"])
    found = re.findall(r"step ([\d,]+): .*? \((\w+)\): the reward may", heard.getvalue())
    steps = {name: int(step.replace(",", "")) for step, name in found}
    return {name: steps.get(name) for name in BOUNDS}


def fallen(evaluations: Sequence[tuple[int, float]]) -> int | None:
    """The step of the first evaluation whose reward has fallen; None if none has."""
    best = float("-inf")
    for step, reward in evaluations:
        if reward < FALLEN * best:
            return step
        best = max(best, reward)
    return None


def described(runs: Sequence[Result]) -> dict[str, Any]:
    """Of an arm's runs: the median over all updates of each diagnostic, and of each run its alarms and its rewards."""
    found, rows = [], []
    for run in runs:
        lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        own = [json.loads(line) for line in lines]
        rows += own
        found.append(
            {
                "seed": run.seed,
                "reward": run.value("mean_return"),
                "right": run.value("success_rate"),
                "evaluations": [[step, round(reward, 4)] for step, reward in run.evaluations],
                "alarms": alarms(own),
                "fallen": fallen(run.evaluations),
            }
        )
    medians = {name: statistics.median(row[name] for row in rows if name in row) for name in DIAGNOSTICS}
    return {"diagnostics": {name: float(f"{each:.4g}") for name, each in medians.items()}, "runs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of the study")
    design, results = read_study(parser.parse_args().directory)
    results = [each for each in results if each.summary is not None]
    write_recorded(results, RESULTS / "studies" / "dose-and-response.json", design.baseline)
    arms = {str(each.label): [run for run in results if run.label == each.label] for each in results}
    path = save("dose-and-response", {label: described(runs) for label, runs in arms.items()})
    print(f"{path.name}: {len(results)} runs")


if __name__ == "__main__":
    main()
