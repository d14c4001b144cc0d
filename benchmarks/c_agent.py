"""Agents without Python: their actions beside Python's on states of each numeric task, and what bitrl-act costs.

make act lib && python benchmarks/c_agent.py [STATES]

States are those of random play. Discrete actions are compared with those of `bitrl act`. So are continuous ones, whose
last bits differ, since it multiplies by NumPy; and bit by bit with those of the algorithm itself (`bitrl eval`). Times
of an action are of the library in this process, on states none of which was seen before: CPU time with one thread, and
by the clock with two. That of the first action is of the program, from its start to its end.
"""

from __future__ import annotations

import ctypes
import json
import os
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
from bitrl.core.environments.random_play import observations_of
from bitrl.core.runs.trained import trained

ROOT = Path(__file__).parents[1]
PROGRAM, LIBRARY = ROOT / "build" / "bitrl-act", ROOT / "build" / "libbitrl.so"
TASKS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
SMALL = {"run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 128, "backbone.threads": 1}
STARTS = 9


class Options(ctypes.Structure):
    """bitrl_agent_options."""

    _fields_ = (("threads", ctypes.c_uint), ("instruction_set", ctypes.c_char_p))


class Agent:
    """An agent in this process, by the library."""

    def __init__(self, path: Path, threads: int):
        self.library, self.handle = ctypes.CDLL(str(LIBRARY)), ctypes.c_void_p()
        self.error = ctypes.create_string_buffer(256)
        self.library.bitrl_agent_actions.restype = ctypes.c_size_t
        options = Options(threads, None)
        opened = self.library.bitrl_agent_open(
            str(path).encode(), ctypes.byref(options), ctypes.byref(self.handle), self.error
        )
        self.check(opened)
        self.action = (ctypes.c_double * self.library.bitrl_agent_actions(self.handle))()

    def check(self, status: int) -> None:
        """Stop with the library's message if it failed."""
        if status:
            raise SystemExit(self.error.value.decode())

    def act(self, numbers: Any, clock: Callable[[], int]) -> float:
        """The time, in ms, to find the action, which is then in `action`."""
        began = clock()
        status = self.library.bitrl_agent_act(self.handle, numbers, None, self.action, self.error)
        took = (clock() - began) / 1e6
        self.check(status)
        return took


def by_library(agent: Agent, states: np.ndarray, clock: Callable[[], int]) -> tuple[dict[str, float], np.ndarray]:
    """Quantiles of the time of an action, in ms; and the actions."""
    found, times = [], []
    for row in states.astype(np.float64).tolist():
        times.append(agent.act((ctypes.c_double * len(row))(*row), clock))
        found.append([*agent.action])
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}, np.array(found)


def compare(env: str, folder: Path, count: int) -> dict[str, Any]:
    """A short training, and the actions of its agent in `count` states by each way."""
    bitrl.run(env, steps=1024, out=folder / env, options=SMALL)
    python, c = folder / f"{env}.safetensors", folder / f"{env}.gguf"
    bitrl.export(folder / env, python)
    bitrl.export(folder / env, c, c=True)
    _, parts, algorithm, _ = trained(folder / env, lambda event: None)
    states = np.asarray(observations_of(parts.environment, count))
    algorithm.task.collector.envs.close()
    agent = bitrl.load_agent(python, threads=1)
    one, actions = by_library(Agent(c, 1), states, time.thread_time_ns)
    two, same = by_library(Agent(c, 2), states, time.perf_counter_ns)
    assert (actions == same).all()
    chunks = [states[at : at + 256] for at in range(0, count, 256)]
    of_python = np.concatenate([np.array(agent.act_batch([*chunk])).reshape(len(chunk), -1) for chunk in chunks])
    of_training = np.concatenate([algorithm.act(parts.reader(chunk)).reshape(len(chunk), -1) for chunk in chunks])
    return {
        "env": env,
        "states": count,
        "distinct_actions": len(np.unique(actions, axis=0)),
        "equal_to_training": int((actions == of_training).all(axis=1).sum()),
        "equal_to_python": int((actions == of_python).all(axis=1).sum()),
        "largest_difference_to_python": float(np.abs(actions - of_python).max()),
        **{f"{name}_cpu_ms": value for name, value in one.items()},
        **{f"{name}_two_threads_ms": value for name, value in two.items()},
    }


def program(file: Path) -> dict[str, Any]:
    """What the program takes: its size, its memory, and the time of a start with one action."""
    example = subprocess.check_output([PROGRAM, file, "--example"])
    starts = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([PROGRAM, file], input=example, check=True, capture_output=True)
        starts.append(1000 * (time.perf_counter() - began))
    with subprocess.Popen([PROGRAM, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        rng = np.random.default_rng(0)
        for _ in range(1000):
            state = (rng.normal(size=4) * 3).tolist()
            process.stdin.write(json.dumps(state).encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.close()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "program_bytes": PROGRAM.stat().st_size,
        "file_bytes": file.stat().st_size,
        "peak_rss_mb": round(peak / 1000, 2),
        "first_action_ms": round(statistics.median(starts), 1),
        "fastest_first_action_ms": round(min(starts), 1),
    }


def main(count: int) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        tasks = [compare(env, Path(folder), count) for env in TASKS]
        found = {"load_average": round(load, 1), "tasks": tasks, "program": program(Path(folder) / f"{TASKS[0]}.gguf")}
    print(json.dumps(found, indent=2))
    save("c-agent", found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
