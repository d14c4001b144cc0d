"""Commands end although an environment has left a thread running; without one, nothing is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDING = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
from bitrl.core.lingering_threads import end
before = threading.enumerate()
atexit.register(print, "bye")
pool = ThreadPoolExecutor(1)
pool.submit(print, "pooled").result()
threading.Thread(target=time.sleep, args=(SECONDS,), name="radio").start()
end(3, before)
"""

ENVIRONMENT = """
import threading
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Connected(CartPoleEnv):
    def __init__(self, render_mode=None):
        super().__init__()
        threading.Thread(target=threading.Event().wait, name="radio").start()

gymnasium.register("Connected-v0", Connected, max_episode_steps=50)
"""


@pytest.mark.parametrize(("seconds", "said"), [(0.2, ""), (600, "warning: not waited for: radio, left running by the")])
def test_threads_are_waited_for_a_moment_and_then_named(seconds: float, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING.replace("SECONDS", str(seconds))], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (3, "pooled\nbye\n")
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)


@pytest.mark.parametrize("command", ["run --out out", "study --seeds 0-1 --vary algo.epochs=1 --jobs 1 --out out"])
def test_a_command_ends_where_an_environment_keeps_a_thread(tmp_path: Path, command: str) -> None:
    (tmp_path / "connected.py").write_text(ENVIRONMENT)
    given = "--env connected:Connected-v0 --backbone mlp --serializer vector --steps 256 -o algo.rollout_steps=16"
    done = subprocess.run(
        [sys.executable, "-c", "from bitrl.cli import main; main()", *command.split(), *given.split()],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("not waited for: radio, left" in done.stderr) == command.startswith("run")
    assert len(list(tmp_path.rglob("summary.json"))) == (1 if command.startswith("run") else 2)
