"""Evaluations while training: the training is the same without them, and a killed run has the same ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bitrl
from bitrl.core import events
from bitrl.core.errors import RunFailed, UsageError

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
