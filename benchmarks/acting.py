"""What an exported agent costs: its file, memory, the time to its first action and of each one, on one thread.

python benchmarks/acting.py [REPEATS]

The rival is the agent that it was exported from, in the process that trains: the same states, interleaved.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import save

import bitrl
from bitrl.core.config import resolve
from bitrl.core.runs.parts import begin, build

ENV = "CartPole-v1"
STATES = 500
ALONE = """
import json, sys, time
began = time.perf_counter()
import bitrl
from bitrl.core.runs.provenance import peak_rss_mb
agent = bitrl.load_agent(sys.argv[1], threads=1)
agent.act([0.0, 0.0, 0.0, 0.0])
first = time.perf_counter() - began
print(json.dumps({"first_action_ms": 1000 * first, "peak_rss_mb": peak_rss_mb()}))
"""


def milliseconds(act: Callable[[np.ndarray], Any], states: np.ndarray) -> float:
    """For one of `states`, none of which was seen before."""
    began = time.perf_counter()
    for state in states:
        act(state)
    return 1000 * (time.perf_counter() - began) / len(states)


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agent.safetensors"
        bitrl.run(ENV, steps=4096, out=Path(folder) / "run", options={"run.eval_episodes": 0})
        bitrl.export(Path(folder) / "run", file)
        size = file.stat().st_size
        agent = bitrl.load_agent(file, threads=1)
        config = resolve({"run": {"env": ENV}, "backbone": {"threads": 1}})
        parts = build(config)
        algorithm = begin(config, parts)
        algorithm.task.collector.envs.close()
        generator = np.random.default_rng(0)
        exported, trained = [], []
        for _ in range(repeats):
            for times, act in (
                (exported, agent.act),
                (trained, lambda state: algorithm.act(parts.reader(state[None]))),
            ):
                states = generator.normal(0, 0.1, (STATES, 4)).astype(np.float32)
                times.append(milliseconds(act, states))
        command = [sys.executable, "-c", ALONE, str(file)]
        alone = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    found = {
        "env": ENV,
        "file_bytes": size,
        "repeats": repeats,
        "action_ms": round(statistics.median(exported), 3),
        "action_ms_in_training": round(statistics.median(trained), 3),
        "of_training": round(statistics.median(e / t for e, t in zip(exported, trained, strict=True)), 3),
        **{name: round(statistics.median(each[name] for each in alone), 1) for name in alone[0]},
    }
    print(json.dumps(found, indent=2))
    save("acting", found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
