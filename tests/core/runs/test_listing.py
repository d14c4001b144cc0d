"""Listing runs: what each is, how far it came, and whether it is done."""

import pytest

import bitrl
from bitrl.core import events
from bitrl.core.runs.store import RunStore

QUICK = {"run.eval_episodes": 2, "run.num_envs": 2, "run.checkpoint_every": 1, "algo.rollout_steps": 32}


def test_runs_are_listed_with_what_they_are_and_how_they_stand(tmp_path):
    class Stop(Exception): ...

    def stop(event):
        if isinstance(event, events.CheckpointSaved):
            raise Stop

    done = bitrl.run(backbone="mlp", steps=64, seed=3, out=tmp_path / "b", options=QUICK)
    with pytest.raises(Stop):
        bitrl.run("Pendulum-v1", backbone="mlp", steps=64, out=tmp_path / "a", options=QUICK, listeners=(stop,))
    (tmp_path / "notes").mkdir()
    stopped, finished = bitrl.list_runs(tmp_path)
    assert (stopped["run"], stopped["env"], stopped["step"]) == (str(tmp_path / "a"), "Pendulum-v1", 32)
    assert (stopped["status"], stopped["mean_return"]) == ("stopped", None)
    assert (finished["seed"], finished["step"], finished["steps"]) == (3, 64, 64)
    assert (finished["status"], finished["mean_return"]) == ("finished", done["eval"]["mean_return"])
    assert (finished["serializer"], finished["critic_backbone"]) == ("vector", None)
    store = RunStore.open(tmp_path / "a")
    assert bitrl.list_runs(tmp_path)[0]["status"] == "running"
    store.close()
    with open(tmp_path / "a" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 6')
    assert bitrl.list_runs(tmp_path)[0]["step"] == 32


def test_no_directory_is_said(tmp_path):
    with pytest.raises(bitrl.UsageError, match="is not a directory: give the one that holds your runs"):
        bitrl.list_runs(tmp_path / "none")
    assert bitrl.list_runs(tmp_path) == []


def test_progress_is_shown_when_asked_for(tmp_path, capfd):
    settings = {"backbone": "mlp", "steps": 64, "options": QUICK}
    bitrl.run(out=tmp_path / "quiet", **settings)
    assert capfd.readouterr() == ("", "")
    bitrl.run(out=tmp_path / "shown", progress=True, **settings)
    shown = capfd.readouterr()
    assert "CartPole-v1 → vector → mlp → ppo, seed 0" in shown.err
    assert "training: 64 of 64 steps" in shown.err
    assert shown.out == ""
    bitrl.evaluate(tmp_path / "shown", progress=True)
    bitrl.resume(tmp_path / "shown", progress=True)
