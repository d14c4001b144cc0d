"""What a whole `bitrl run` takes: memory at its peak, and the time from the command to the first environment step.

python benchmarks/whole_run.py [--repeats N | --large]

With the starter model on CartPole (results/whole-run.json); with --large (4 GB, half an hour) memory alone, which
is the same on a busy machine, of heads on a model of BitNet b1.58 2B-4T's shape with random weights, in its two forms
(results/whole-run-large.json). That model has the starter's tokenizer: its own is not in the package. Every run is a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from record import save

from bitrl.plugins.backbones.benchmark.random_model import SHAPES, RandomShape, write_random_model
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.language_model import starter_path

BITRL = "from bitrl.cli import main; main()"
FIRST = """
import os, time
from bitrl.core.environments import collector
step = collector.Collector.step
def first(self, actions):
    step(self, actions)
    print(time.monotonic(), flush=True)
    os._exit(0)
collector.Collector.step = first
from bitrl.cli import main
main()
"""
STEPS = 20_480
"""Of CartPole with the starter: the cache of features is full by then."""
LARGE_STEPS, PROJECTION = 2048, 256
"""One rollout of the large model; and how wide its features are made, as the paper's heads of 50,000 parameters ask:
as wide as they come, 2,560, the heads would have 690,000."""
LIMITS = {"2": "620MB", "1.6": "520MB"}
"""By bits per weight: each is run without a limit and with this one, which leaves less to the cache of features."""


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """The summary of `bitrl run --json` in a process of its own."""
    command = [sys.executable, "-c", BITRL, "run", "--json", "--out", str(folder), "--force", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def seconds_to_first_step(folder: Path) -> float:
    """From the command to the end of the first step of the environments."""
    began = time.monotonic()
    command = [sys.executable, "-c", FIRST, "run", "--quiet", "--out", str(folder), "--force"]
    return float(subprocess.check_output(command, text=True)) - began


def model_of_shape(path: Path, shape: RandomShape) -> None:
    """Write a model of this shape with random weights and the starter's tokenizer."""
    keys = {
        name: value for name, value in ModelFile(starter_path()).metadata().items() if name.startswith("tokenizer.")
    }

    def add(writer: gguf.GGUFWriter) -> None:
        for name, value in keys.items():
            if isinstance(value, (list, np.ndarray)):
                writer.add_array(name, list(value) if isinstance(value, list) else value.tolist())
            elif isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, bool):
                writer.add_bool(name, value)
            else:
                writer.add_uint32(name, value)

    write_random_model(path, shape, tokenizer=add)


def heads_on(folder: Path, shape: RandomShape, bits: Sequence[str], steps: int, limit: str | None = None) -> Any:
    """Peak memory of PPO's heads on a model of this shape, by bits per weight; under a limit its plan too."""
    model = folder / "random.gguf"
    if not model.exists():
        model_of_shape(model, shape)
    found = {}
    for form in bits:
        options = ["-o", f"backbone.model={model}", "-o", f"backbone.bits={form}", "-o", "run.eval_episodes=0"]
        options += ["-o", f"backbone.projection={PROJECTION}"]
        options += [] if limit is None else ["--memory-limit", limit]
        summary = run(folder / "run", "--steps", str(steps), *options)
        found[form] = {"peak_rss_mb": summary["peak_rss_mb"]}
        found[form] |= {} if limit is None else {"plan_mb": summary["memory_plan_mb"]}
        print(f"{form} bits a weight: {found[form]}", flush=True)
    return found


def small(folder: Path, repeats: int) -> None:
    """The starter on CartPole."""
    seconds_to_first_step(folder / "run")  # files come into the page cache
    times = [seconds_to_first_step(folder / "run") for _ in range(repeats)]
    options = ["-o", "run.eval_episodes=10", "--steps", str(STEPS)]
    results = {
        "repeats": repeats,
        "first_step_seconds": {"median": round(statistics.median(times), 3), "least": round(min(times), 3)},
        "cartpole": {"steps": STEPS, "peak_rss_mb": run(folder / "run", *options)["peak_rss_mb"]},
    }
    print(json.dumps(results, indent=2))
    save("whole-run", results)


def large(folder: Path) -> None:
    """Heads on the 2B shape; each run takes minutes, so what was measured is kept."""
    results: dict[str, Any] = {"model": "bitnet-2b-4t", "tokenizer": "starter's"}
    results |= {"steps": LARGE_STEPS, "projection": PROJECTION}
    for limited in (True, False):
        for form, limit in LIMITS.items():
            name = f"{form} bits, {limit}" if limited else f"{form} bits"
            found = heads_on(folder, SHAPES["bitnet-2b-4t"], (form,), LARGE_STEPS, limit if limited else None)
            results[name] = found[form]
            save("whole-run-large", results)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        if given.large:
            large(Path(place))
        else:
            small(Path(place), given.repeats)


if __name__ == "__main__":
    main(sys.argv[1:])
