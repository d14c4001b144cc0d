"""Agents on boards that qemu emulates: actions in the same states, and what is learned there, beside this computer's.

make act board && python benchmarks/board.py [STATES]

The C agent (build/arm/bitrl-act) and, in the emulated root, the Python agent act in states of random play; the answers
are compared as they are written, all digits. Then the agent learns on, there and here, and the weights are compared bit
by bit. An emulator says nothing of speed: there are no times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import save

import bitrl
from bitrl.core.acting.agents import read
from bitrl.core.environments.random_play import observations_of
from bitrl.core.runs.trained import trained

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))
from emulated_board import EMULATOR, Board, board, requirements  # noqa: E402

CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
TASKS = ("CartPole-v1", "Pendulum-v1")  # discrete and continuous actions
SMALL = {"run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 16, "backbone.layers": 1}
STEPS, MORE = 128, 192
RESUME = ["run", "--resume", "agent.safetensors", "--steps", str(MORE), "--seed", "7", "--quiet"]


def prepare(env: str, folder: Path, count: int) -> bytes:
    """Train an agent a little and export it both ways → its states, a line each."""
    folder.mkdir()
    bitrl.run(env, steps=STEPS, out=folder / "run", options=SMALL)
    bitrl.export(folder / "run", folder / "agent.safetensors", with_optimizer=True)
    bitrl.export(folder / "run", folder / "agent.gguf", c=True)
    _, parts, algorithm, _ = trained(folder / "run", lambda event: None)
    states = np.asarray(observations_of(parts.environment, count), np.float64)
    algorithm.task.collector.envs.close()
    return "".join(f"{json.dumps(row)}\n" for row in states.tolist()).encode()


def answers(command: Sequence[str | Path], folder: Path, given: bytes, cpu: str | None = None) -> list[str]:
    """What a program answers to the states, a line each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"BOARD_CPU": cpu} if cpu else {})
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return done.stdout.decode().splitlines()


def compared(found: Sequence[str], expected: Sequence[str]) -> dict[str, Any]:
    """How many answers are the same, and how far apart the numbers of the others are."""
    pairs = [(json.loads(one), json.loads(other)) for one, other in zip(found, expected, strict=True)]
    return {
        "equal": sum(one == other for one, other in zip(found, expected, strict=True)),
        "largest_difference": max(float(np.abs(np.subtract(one, other)).max()) for one, other in pairs),
    }


def install(place: Board, folder: Path) -> Path:
    """A virtual environment of the board, with the wheel of `make arm` → its Python."""
    subprocess.run([place.python, "-m", "venv", "--without-pip", folder], check=True)
    [site], [wheel] = folder.glob("lib/python*/site-packages"), (ROOT / "dist").glob("*_aarch64.whl")
    place.install(site, *requirements())
    place.install(site, "--no-deps", str(wheel))
    return folder / "bin" / "python"


def learned(command: Sequence[str | Path], folder: Path, name: str, cpu: str | None = None) -> dict[str, np.ndarray]:
    """Learn on by a bitrl → every array of the agent that comes of it."""
    answers([*command, *RESUME, "--out", name], folder, b"", cpu)
    answers([*command, "export", name, "--out", f"{name}.safetensors", "--with-optimizer"], folder, b"", cpu)
    return dict(read(folder / f"{name}.safetensors").arrays)


def task(env: str, folder: Path, count: int, place: Board, python: Path) -> dict[str, Any]:
    """One environment: actions of both agents on every processor, and what is learned."""
    given = prepare(env, folder, count)
    here = [sys.executable, "-m", "bitrl"]
    of_python = answers([*here, "act", "agent.safetensors"], folder, given)
    of_c = answers([ROOT / "build" / "bitrl-act", "agent.gguf"], folder, given)
    weights = learned(here, folder, "here")
    boards = {}
    for cpu in CPUS:
        there = [python, "-m", "bitrl"]
        program = [EMULATOR, "-cpu", cpu, "-L", place.root, ROOT / "build" / "arm" / "bitrl-act"]
        arrays = learned(there, folder, cpu, cpu)
        boards[cpu] = {
            "c_actions": compared(answers([*program, "agent.gguf"], folder, given), of_c),
            "python_actions": compared(answers([*there, "act", "agent.safetensors"], folder, given, cpu), of_python),
            "learned_arrays": len(arrays),
            "equal_arrays": sum(arrays[name].tobytes() == weights[name].tobytes() for name in weights),
        }
        print(env, cpu, json.dumps(boards[cpu]), flush=True)
    return {
        "env": env,
        "states": count,
        "distinct_actions": len(set(of_python)),
        "c_here_beside_python_here": compared(of_c, of_python),
        "steps_learned_there": MORE - STEPS,
        "boards": boards,
    }


def main(count: int) -> None:
    place = board()
    if place is None:
        raise SystemExit("there is no emulated board: make board")
    with tempfile.TemporaryDirectory() as folder:
        python = install(place, Path(folder) / "opt")
        tasks = []
        for env in TASKS:
            tasks.append(task(env, Path(folder) / env, count, place, python))
            save("board", {"processors": CPUS, "tasks": tasks})  # each takes minutes: what was compared is kept


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
