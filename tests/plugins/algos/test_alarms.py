"""Alarms of quantised rollouts: when they speak, and that they do before a collapsing policy's reward falls."""

import json
import re
from pathlib import Path

import pytest

import bitrl
from bitrl.plugins.algos.alarms import Alarms

SOUND = {"ess": 1.0, "m2": 0.0, "sign_skew": 0.0}


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """The alarms since the last call, and the step of each; none is told twice."""
    pattern = r"warning: step ([\d,]+): .*? \((ess|m2|sign_skew)\): the reward may collapse"
    found = re.findall(pattern, re.sub(r"\s+", " ", capsys.readouterr().err))
    steps = {name: int(step.replace(",", "")) for step, name in found}
    assert len(steps) == len(found)
    return steps


@pytest.mark.parametrize(("name", "beyond"), [("ess", 0.6), ("m2", 0.06), ("sign_skew", 0.2), ("sign_skew", -0.2)])
def test_one_is_told_once_after_three_updates_in_a_row(name: str, beyond: float, capsys) -> None:
    alarms = Alarms()
    sound = SOUND[name]
    for step, value in enumerate([beyond, beyond, sound, beyond, beyond, beyond, beyond, sound, *[beyond] * 5]):
        alarms({**SOUND, name: value}, 1000 * step)
    assert told(capsys) == {name: 5000}


def test_sound_rollouts_and_updates_without_diagnostics_are_silent(capsys) -> None:
    alarms = Alarms()
    for step in range(10):
        alarms({"ess": 0.71, "m2": 0.049, "sign_skew": -0.09} if step % 2 else {}, step)
    assert told(capsys) == {}


def test_an_update_in_which_nothing_was_learned_breaks_no_row(capsys) -> None:
    alarms = Alarms()
    for step, metrics in enumerate([{"m2": 1.0}, {}, {"m2": 1.0}, {}, {"m2": 1.0}]):
        alarms(metrics, step)
    assert told(capsys) == {"m2": 4}


def test_they_speak_before_the_reward_of_a_collapsing_run_falls(tmp_path: Path, capsys) -> None:
    """A float model that a ternary copy of itself generates for, uncorrected: it forgets what it knew."""
    bitrl.run(
        env="reverse-word", algo="grpo", out=tmp_path / "run", steps=480,
        options={
            "env.length": 5, "run.num_envs": 32, "run.eval_every": 32, "run.eval_every_episodes": 30,
            "run.eval_episodes": 30, "backbone.threads": 1, "algo.max_tokens": 10, "algo.learning_rate": 6e-4,
            "algo.rollout": "ternary", "algo.correction": "none",
        },
    )  # fmt: skip
    spoken = told(capsys)
    rows = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    rewards = {row["step"]: row["mean_return"] for row in map(json.loads, rows)}  # of the float model, greedy
    fallen = next(step for step, reward in rewards.items() if reward < 0.8 * rewards[32])
    assert spoken["ess"] == spoken["m2"] == 96 < fallen
    assert rewards[480] < 0.5 * rewards[32]
