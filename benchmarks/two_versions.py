"""Two versions of bitrl train in turns: environment steps per second, and how many times as fast the second is.

    python benchmarks/two_versions.py BEFORE AFTER --env TextWorld-Cooking [--rounds 3] [--steps 4096]

BEFORE and AFTER are clones with a virtual environment each (`make run` makes it). Runs have the environment's defaults;
of training alone, without start-up and evaluation. The commits that were compared are kept with the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from record import save


def steps_per_second(clone: Path, env: str, steps: int) -> float:
    """Of one training by the version in a clone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [clone / ".venv/bin/python", "-m", "bitrl", "run", "--env", env, "--steps", str(steps)]
        command += ["-o", "run.eval_episodes=0", "--out", f"{folder}/run", "--json"]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: float = json.loads(answer.stdout)["steps_per_second"]
    return found


def compared(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and that of the rounds' own ratios."""
    before, after = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"before": before, "after": after, "ratio": statistics.median(b / a for a, b in rounds), "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", nargs=2, type=Path)
    parser.add_argument("--env", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4096)
    known = parser.parse_args()
    commits = [
        subprocess.check_output(["git", "-C", clone, "rev-parse", "HEAD"], text=True).strip() for clone in known.clones
    ]
    rounds = []
    for _ in range(known.rounds):
        before, after = (steps_per_second(clone, known.env, known.steps) for clone in known.clones)
        rounds.append((before, after))
        print(f"{before:.0f} and {after:.0f} steps/s", flush=True)
    found = {"env": known.env, "steps": known.steps, "commits": commits, **compared(rounds)}
    print(json.dumps(found, indent=2))
    save(f"two-versions-{known.env}", found)


if __name__ == "__main__":
    main()
