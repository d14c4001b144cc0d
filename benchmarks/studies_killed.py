"""Kills a study of 24 cells at random moments, and asks that it ends like one that was left alone.

    python benchmarks/studies_killed.py --kills 100

After each SIGKILL of the study's process the same command goes on. No finished cell may run again (its files keep
their times), and what `bitrl compare --json` and `bitrl report --csv` say at the end must be the same bytes as of a
study that was not killed. The figures go to results/studies-killed.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tomli_w
from record import RESULTS, save

DATA = {
    "study": {"seeds": "0-3"},
    "base": {
        "run": {"backbone": "mlp", "steps": 4096, "num_envs": 4, "eval_episodes": 5, "checkpoint_every": 1},
        "algo": {"rollout_steps": 256},
        "backbone": {"hidden": [16]},
    },
    "grid": {"env": ["CartPole-v1", "Acrobot-v1"], "algo.clip_coef": [0.1, 0.2, 0.3]},
}
BITRL = Path(sys.executable).with_name("bitrl")


def study(file: Path, directory: Path) -> subprocess.Popen[bytes]:
    command = [BITRL, "study", file, "--out", directory, "--quiet", "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def finished(directory: Path) -> dict[str, int]:
    """When each finished cell was finished."""
    return {str(path): path.stat().st_mtime_ns for path in directory.glob("runs/*/seed*/summary.json")}


def digest(directory: Path, folder: Path) -> str:
    """Of what is said about a study: the comparison as JSON, and the tables as CSV."""
    comparison = subprocess.run([BITRL, "compare", directory, "--json"], capture_output=True, check=True).stdout
    table = folder / "table.csv"
    subprocess.run([BITRL, "report", directory, "--csv", "--force", "--out", table], capture_output=True, check=True)
    return hashlib.sha256(comparison + table.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=12.0, help="the longest time before a kill")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    generator = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="bitrl-killed-") as name:
        folder = Path(name)
        file = folder / "grid.toml"
        file.write_text(tomli_w.dumps(DATA), encoding="utf-8")
        if study(file, folder / "undisturbed").wait():
            raise SystemExit("the undisturbed study failed")
        kills = again = rounds = 0
        began = time.monotonic()
        while kills < given.kills:
            # A study that is done is begun anew in another directory, until there were enough kills.
            directory, done = folder / f"killed-{rounds}", {}
            while True:
                process = study(file, directory)
                if kills < given.kills:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(generator.uniform(0.2, given.seconds))
                if process.poll() is None and kills < given.kills:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                code = process.wait()
                now = finished(directory)
                again += sum(now.get(path) != at for path, at in done.items())
                done = now
                if code == 0:
                    break
            rounds += 1
            same = digest(directory, folder) == digest(folder / "undisturbed", folder)
            print(f"{kills} kills, {again} finished cells ran again, same bytes: {same}", flush=True)
            if again or not same:
                raise SystemExit("not as an undisturbed study")
        found = {
            "cells": 24,
            "kills": kills,
            "studies": rounds,
            "finished_cells_run_again": again,
            "same_bytes": True,
            "seconds": round(time.monotonic() - began),
        }
    save("studies-killed", found, given.out)


if __name__ == "__main__":
    main()
