"""A study of four quick cells, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitrl.core.studies.comparison import compare
from bitrl.core.studies.processes import Processes
from bitrl.core.studies.running import run_study
from bitrl.core.studies.study import Study, read_study

QUICK = {
    "run": {"backbone": "mlp", "steps": 384, "num_envs": 4, "eval_episodes": 3, "checkpoint_every": 1},
    "algo": {"rollout_steps": 64, "epochs": 1},
    "backbone": {"hidden": [8]},
}
DATA = {"study": {"seeds": "0-1"}, "base": QUICK, "grid": {"algo.clip_coef": [0.1, 0.2]}}


def go(directory: Path, data: dict[str, Any] = DATA, **arguments: Any) -> Study:
    study, _ = Study.create(directory, data)
    try:
        run_study(study, Processes(2, len(study.design.cells)), **arguments)
    finally:
        study.close()
    return study


def report(directory: Path) -> str:
    """All that is compared, as bytes that a user gets; places apart."""
    return json.dumps(compare(read_study(directory)[1]).as_dict())
