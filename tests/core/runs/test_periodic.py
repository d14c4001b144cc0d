"""Evaluations while training: the training is the same without them, and a killed run has the same ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import bitrl
from bitrl.core import events
from bitrl.core.errors import RunFailed, RunStopped, UsageError

OPTIONS = {
    "run.num_envs": 4,
    "run.eval_episodes": 2,
    "run.eval_every": 200,
    "run.eval_every_episodes": 3,
    "run.checkpoint_every": 2,
    "algo.rollout_steps": 128,
    "backbone.hidden": (8,),
}


def train(out: Path, **changed: Any) -> dict[str, Any]:
    return bitrl.run(backbone="mlp", steps=1024, out=out, options=OPTIONS | changed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "evaluated"
    train(out)
    return out


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def test_they_come_at_the_first_update_behind_each_multiple(run: Path) -> None:
    assert [row["step"] for row in rows(run)] == [256, 512, 640, 896, 1024]
    assert all(row["episodes"] == 3 for row in rows(run))


def test_the_training_is_the_same_without_them(run: Path, tmp_path: Path) -> None:
    train(tmp_path / "plain", **{"run.eval_every": None})
    assert (tmp_path / "plain" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "plain" / "evaluations.jsonl").exists()


def test_the_best_checkpoint_is_kept_and_plays_as_it_did(run: Path, tmp_path: Path) -> None:
    best = max(rows(run), key=lambda row: (row["mean_return"], -row["step"]))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_while_training"] == best
    again = bitrl.evaluate(run, best=True)
    assert again["step"] == best["step"]
    assert bitrl.export(run, tmp_path / "agent", best=True)["step"] == best["step"]
    assert bitrl.load_agent(tmp_path / "agent").facts["step"] == best["step"]
    assert bitrl.evaluate(run)["step"] == 1024


def test_a_run_that_was_killed_has_the_same_evaluations(run: Path, tmp_path: Path) -> None:
    """Killed behind an evaluation and before the checkpoint that covers it: at step 640."""

    class Killed(Exception):
        pass

    def kill(event: events.Event) -> None:
        if isinstance(event, events.Updated) and event.step == 768:
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        bitrl.run(backbone="mlp", steps=1024, out=out, options=OPTIONS, listeners=(kill,))
    assert [row["step"] for row in rows(out)] == [256, 512, 640]
    bitrl.resume(out)
    for name in ("evaluations.jsonl", "metrics.jsonl", "best.safetensors"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name


class Frail(CartPoleEnv):
    """Crashes while it is `broken`."""

    broken = False

    def step(self, action: Any) -> Any:
        if Frail.broken:
            raise ZeroDivisionError("no licence")
        return super().step(action)


def test_a_run_whose_evaluation_failed_is_saved_and_has_the_same_ones_once_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Frail-v0", entry_point=Frail, max_episode_steps=200)
    monkeypatch.setitem(gymnasium.registry, "Frail-v0", spec)

    def breaks(event: events.Event) -> None:
        if isinstance(event, (events.Updated, events.RunStarted)) and event.step == 640:
            monkeypatch.setattr(Frail, "broken", True)

    whole, out = tmp_path / "whole", tmp_path / "run"
    bitrl.run("Frail-v0", backbone="mlp", steps=1024, out=whole, options=OPTIONS)
    failed = r"evaluation at step 640 failed: environment Frail-v0 crashed .*; saved; continue with: .*resume"
    with pytest.raises(RunFailed, match=failed):
        bitrl.run("Frail-v0", backbone="mlp", steps=1024, out=out, options=OPTIONS, listeners=(breaks,))
    assert [row["step"] for row in rows(out)] == [256, 512]
    monkeypatch.setattr(Frail, "broken", False)
    with pytest.raises(RunFailed, match=failed):
        bitrl.resume(out, listeners=(breaks,))
    assert [path.name for path in (out / "checkpoints").iterdir()].count("000000000640.safetensors") == 1
    monkeypatch.setattr(Frail, "broken", False)
    bitrl.resume(out)
    for name in ("evaluations.jsonl", "metrics.jsonl", "best.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("step", [640, 1024])
def test_a_run_that_is_stopped_in_an_evaluation_does_that_one_again(run: Path, tmp_path: Path, step: int) -> None:
    """It may never end: the first signal stops it, and the update before it is saved."""
    heard: list[events.Event] = []

    def stop(event: events.Event) -> None:
        heard.append(event)
        updated = [each.step for each in heard if isinstance(each, events.Updated)]
        if isinstance(event, events.Evaluating) and updated[-1] == step and not stopped():
            os.kill(os.getpid(), signal.SIGTERM)

    def stopped() -> bool:
        return any(isinstance(each, events.Interrupted) for each in heard)

    out = tmp_path / "run"
    with pytest.raises(RunStopped):
        bitrl.run(backbone="mlp", steps=1024, out=out, options=OPTIONS | {"run.eval_episodes": 0}, listeners=(stop,))
    assert step not in [row["step"] for row in rows(out)]
    assert (out / "checkpoints" / f"{step:012}.safetensors").exists()
    bitrl.resume(out)
    for name in ("evaluations.jsonl", "metrics.jsonl", "best.safetensors"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name


def test_it_keeps_to_the_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrl.core.runs.memory_limit.MemoryLimit.exceeded", lambda self, reader: ("", "9 GB of 8 GB"))
    monkeypatch.setattr("bitrl.core.runs.evaluate.TOLD_EVERY", 1)
    with pytest.raises(RunFailed, match="evaluation at step 128 failed: stopped the evaluation: 9 GB of 8 GB"):
        train(tmp_path / "run", **{"run.memory_limit": "8GB", "run.eval_every": 100})


def test_one_that_never_comes_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(out, **{"run.eval_every": 5000})
    assert "run.eval_every: 5,000 steps are more than the run's 1,024" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"trained for 1,024 steps, and is evaluated every 5,000"):
        bitrl.evaluate(out, best=True)


def test_a_row_that_was_edited_to_hold_no_result_is_passed_over(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "summary.json").unlink()
    lines = (out / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (out / "evaluations.jsonl").write_text('{"step": 1}\n{"step": 2, "mean_return": null}\n' + "".join(lines))
    best = json.loads((run / "summary.json").read_text())["best_while_training"]
    assert bitrl.resume(out)["best_while_training"] == best


def test_without_a_best_checkpoint_or_with_a_damaged_one_it_says_so(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, **{"run.eval_every": None})
    with pytest.raises(UsageError, match=r"no best checkpoint: train with -o run\.eval_every=STEPS"):
        bitrl.evaluate(out, best=True)
    (out / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes()[:-1])
    with pytest.raises(RunFailed, match="is damaged"):
        bitrl.evaluate(out, best=True)
    bitrl.run(backbone="mlp", steps=0, out=out, options=OPTIONS, force=True)
    assert not (out / "best.safetensors").exists(), "a new run keeps nothing of an old one"
