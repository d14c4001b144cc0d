"""Runs and agents made under an earlier name of a component work the same under the current one."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import attrs
import numpy as np
import pytest
import tomli_w

import bitrl
from bitrl.core.acting import checkpoints
from bitrl.core.config import read_toml
from bitrl.core.registry import registry

SETTINGS = {
    "run.num_envs": 2,
    "run.eval_episodes": 1,
    "run.checkpoint_every": 1,
    "algo.rollout_steps": 16,
    "algo.epochs": 1,
    "backbone.layers": 1,
}
NOTE = "backbone fp16 computes in bfloat16 and is now called bf16\n"


@pytest.fixture(autouse=True)
def _nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "_reported", set())


def as_before_the_change(directory: Path) -> None:
    """Write the run's configuration as it was when the backbone was called fp16."""
    path = directory / "config.toml"
    data = tomllib.loads(path.read_text())
    assert data["run"]["backbone"] == "bf16"
    data["run"]["backbone"] = "fp16"
    path.write_text(tomli_w.dumps(data))


def test_a_new_run_by_the_old_name_is_stored_by_the_present_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    summary = bitrl.run(backbone="fp16", critic_backbone="bitrl:fp16", steps=0, options={"run.eval_episodes": 0})
    assert summary["run"] == "runs/CartPole-v1-bf16-critic-bitrl_bf16-json-ppo-seed0"
    assert (summary["backbone"], summary["critic_backbone"]) == ("bf16", "bitrl:bf16")
    assert read_toml(Path(summary["run"], "config.toml"))["run"]["backbone"] == "bf16"
    assert capsys.readouterr().err == NOTE


def test_an_old_run_resumes_to_the_same_bytes_and_an_old_agent_acts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole, old = tmp_path / "whole", tmp_path / "old"
    bitrl.run(backbone="bf16", steps=64, out=whole, options=SETTINGS)
    assert capsys.readouterr().err == ""
    shutil.copytree(whole, old)
    checkpoints.paths(old / "checkpoints")[0].unlink()
    (old / "summary.json").unlink()
    as_before_the_change(old)
    assert bitrl.resume(old)["backbone"] == "bf16"
    assert (old / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert bitrl.evaluate(old)["returns"] == bitrl.evaluate(whole)["returns"]
    assert capsys.readouterr().err == NOTE

    new, earlier = tmp_path / "new.agent", tmp_path / "old.agent"
    bitrl.export(whole, new)
    file = checkpoints.read(new)
    assert file.meta["backbone"]["name"] == "bf16"
    backbone = {**file.meta["backbone"], "name": "fp16"}
    earlier.write_bytes(checkpoints.as_bytes(attrs.evolve(file, meta={**file.meta, "backbone": backbone})))
    observations = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 4))
    actions = [[bitrl.load_agent(path).act(row) for row in observations] for path in (new, earlier)]
    assert actions[0] == actions[1]
