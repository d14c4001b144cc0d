"""What heads learn in the engine, beside what they learned when torch had their gradients: the three classic tasks.

    python benchmarks/engine_learner.py --seeds 5

The runs of torch are those recorded of the paper's study of these tasks (all blocks of the model), with the same
settings, steps and number of seeds; generators were others, so that a seed is another run. Compared are the returns of
the trained agents, and the learning curves by their means (of episodes' returns while training, a number a seed):
equivalent within 5 % by two one-sided tests.
Started again, this trains only what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import attrs
import numpy as np
from learning import Cell
from record import RESULTS, save

from bitrl.core.studies.paper.sources import HERE
from bitrl.core.studies.recorded import read_recorded
from bitrl.core.studies.statistics import equivalence, ratio_interval, ratio_of_means, t_interval

ENVIRONMENTS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
NAME, WITHIN = "engine-learner", 0.05


def curve_mean(run: dict[str, Any]) -> float:
    """The mean return of a run while it trains, each rollout counting alike."""
    return statistics.mean(value for _, value in run["curve"])


def torch_runs(env: str) -> list[dict[str, Any]]:
    """The evaluations and learning curves that torch's gradients gave."""
    return [
        {"eval": each.summary["eval"], "curve": each.curve}
        for each in sorted(read_recorded(HERE / "results/classic.json")[0], key=lambda each: each.seed)
        if (each.task, str(each.label)) == (env, "bitnet") and each.summary is not None
    ]


def compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Means, their ratio, and whether they are equivalent."""
    engine, torch = np.array(ours), np.array(theirs)
    return {
        "engine": float(engine.mean()),
        "engine_interval": t_interval(engine),
        "torch": float(torch.mean()),
        "torch_interval": t_interval(torch),
        "ratio": ratio_of_means(engine, torch),
        "ratio_interval": ratio_interval(engine, torch),
        "equivalence": attrs.asdict(equivalence(engine, torch, WITHIN)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    known = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(file.read_text())["results"] if file.exists() else {}
    for env in ENVIRONMENTS:
        cell = Cell(env, "bitnet", None, ("backbone.layers=none",))
        theirs = torch_runs(env)[: known.seeds]
        runs: list[dict[str, Any]] = found.get(env, {}).get("runs", [])
        for seed in range(len(runs), known.seeds):
            summary = cell.train(seed)
            runs.append({name: summary[name] for name in ("seed", "steps", "steps_per_second", "eval", "curve")})
            print(f"{env} seed {seed}: {summary['eval']['mean_return']:.1f}", flush=True)
            found[env] = {"runs": runs}
            save(NAME, found)
        found[env] = {
            "return": compared(*([run["eval"]["mean_return"] for run in each] for each in (runs, theirs))),
            "curve": compared(*([curve_mean(run) for run in each] for each in (runs, theirs))),
            "runs": runs,
        }
        print(env, json.dumps({key: found[env][key] for key in ("return", "curve")}, indent=2), flush=True)
        save(NAME, found)


if __name__ == "__main__":
    main()
