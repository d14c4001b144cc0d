"""A run whose environment crashes ends with one line, and goes on from its last checkpoint once that is mended."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

BRITTLE = ("--env", "Brittle-v0", "-o", "env.seed_episodes=false")
"""Without the random play that finds out how episodes are seeded, whose steps would count too."""


class Brittle(gymnasium.Env):
    """Raises in the step that is the `last` of all that were taken in such environments. Episodes have twenty steps."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    taken = 0
    last: int | None = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        Brittle.taken += 1
        if Brittle.taken == self.last:
            raise ZeroDivisionError("division by\nzero")
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), False, self.steps == 20, {}


@pytest.fixture
def breaks_at(monkeypatch: pytest.MonkeyPatch):
    """Make the environment raise after so many steps from now on; None: never."""
    spec = gymnasium.envs.registration.EnvSpec("Brittle-v0", entry_point=Brittle)
    monkeypatch.setitem(gymnasium.registry, "Brittle-v0", spec)

    def set(last: int | None) -> None:
        monkeypatch.setattr(Brittle, "taken", 0)
        monkeypatch.setattr(Brittle, "last", last)

    return set


# Two updates of 16 steps in each of four environments, and then two episodes in parallel.
@pytest.mark.parametrize(
    ("last", "where", "checkpoint"),
    [(100, "in step 5 of an episode", "64"), (140, "in step 6 of an episode", "128")],
    ids=["training", "evaluation"],
)
def test_a_crash_ends_the_run_in_one_line_and_it_can_go_on(
    last: int, where: str, checkpoint: str, breaks_at, bitrl, quick_run: list[str], tmp_path: Path
) -> None:
    breaks_at(None)
    assert bitrl(*quick_run, *BRITTLE).code == 0
    whole = (tmp_path / "run" / "metrics.jsonl").read_bytes()

    breaks_at(last)
    crashed = bitrl(*quick_run, *BRITTLE, "--force")
    assert crashed.code == 1
    [line] = [line for line in crashed.err.splitlines() if line.startswith("Error")]
    number = (last - 1) % (4 if last <= 128 else 2)
    assert (
        f"environment Brittle-v0 crashed {where}: ZeroDivisionError: division by zero (parallel environment {number},"
        in line
    )
    assert "seed None" not in line
    assert "Traceback" not in crashed.err
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert checkpoint in newest.name

    breaks_at(None)
    assert bitrl("run", "--resume", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == whole


def test_a_crash_in_bitrl_eval_and_in_a_resumed_run(breaks_at, bitrl, quick_run: list[str], tmp_path: Path) -> None:
    breaks_at(100)
    assert bitrl(*quick_run, *BRITTLE).code == 1
    for command in (["eval", tmp_path / "run"], ["run", "--resume", tmp_path / "run"]):
        breaks_at(3)
        crashed = bitrl(*command)
        assert crashed.code == 1
        assert "environment Brittle-v0 crashed in step " in crashed.err
        assert "Traceback" not in crashed.err
