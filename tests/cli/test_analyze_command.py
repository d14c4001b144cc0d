"""`bitrl analyze`, as a user calls it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitrl as face

Call = Callable[..., Any]
QUICK = {
    "run.num_envs": 4,
    "run.eval_episodes": 0,
    "backbone.layers": 1,
    "backbone.threads": 1,
    "algo.rollout_steps": 128,
    "algo.epochs": 1,
    "algo.hidden": [16],
}


def trained(place: Path, env: str, backbone: str) -> Path:
    options = {each: value for each, value in QUICK.items() if backbone != "mlp" or not each.startswith("backbone")}
    face.run(env, backbone=backbone, steps=256, out=place / env, options=options)
    return place / env


@pytest.fixture(scope="module")
def discrete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), "CartPole-v1", "bitnet")


def test_a_run_with_discrete_actions(bitrl: Call, discrete: Path, tmp_path: Path) -> None:
    out = tmp_path / "analysis"
    done = bitrl("analyze", discrete, "--states", 256, "--out", out)
    assert done.code == 0, done.err
    tables, place = done.out.rsplit("\n  in ", 1)
    assert max(map(len, tables.splitlines())) <= 100
    assert place.strip() == str(out)
    assert "Full precision is starter-fp16" in done.out
    assert "compare two trainings" in " ".join(done.out.split())
    found = json.loads((out / "analysis.json").read_text())
    assert (found["env"], found["states"], found["discrete"], found["step"]) == ("CartPole-v1", 256, True, 256)
    names = ["bf16", "int8", "int4", "ternary untrained", "ternary"]
    assert [each["name"] for each in found["precisions"]] == names
    for each in found["precisions"]:
        assert len(each["block_errors"]) == 1
        assert -1 <= each["gradient"]["cosine"] <= 1
        assert 0 <= each["disagreement"] <= 1
        assert 0 < each["entropy"] < math.log(2)
        assert [*each["values"]["absolute"]] == ["0.9", "0.95", "0.98", "0.99", "0.995"]
    errors = [each["feature_error"] for each in found["precisions"][:4]]
    assert errors == sorted(errors)
    assert found["precisions"][0]["gradient"]["cosine"] > 0.999
    [overall, *_] = found["fits"]
    assert 0.7 < overall["feature_error"]["exponent"] < 1.3
    written = sorted(path.name for path in out.iterdir())
    assert written == ["analysis.json", "analysis.md", "blocks.svg", "features.svg", "gradient.svg", "values.svg"]
    for name in written[2:]:
        assert ET.parse(out / name).getroot().tag.endswith("svg")
    page = (out / "analysis.md").read_text()
    assert "blk.0.ffn_down" in page
    assert "bitrl analyze" in page
    again = bitrl("analyze", discrete, "--states", 256, "--out", out)
    assert (again.code, "already has an analysis" in again.err) == (2, True)


def test_a_run_with_continuous_actions_on_floats_as_json(bitrl: Call, tmp_path: Path) -> None:
    run = trained(tmp_path, "Pendulum-v1", "int8")
    done = bitrl("analyze", run, "--states", 256, "--seed", 3, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["discrete"], found["run_precision"], found["seed"]) == (False, "int8", 3)
    assert [found["entropy"], found["precisions"][0]["entropy"]] == [None, None]
    assert "whatever the features" in found["words"]
    assert found["precisions"][1]["disagreement"] < found["precisions"][3]["disagreement"]


@pytest.mark.parametrize("codebook", ["uniform", "learned"])
def test_a_run_with_quantised_actions_is_refused_in_a_line(bitrl: Call, tmp_path: Path, codebook: str) -> None:
    options = {**QUICK, "algo.action_codebook": codebook, "algo.action_bins": 3}
    face.run("Pendulum-v1", backbone="bitnet", steps=128, out=tmp_path / "run", options=options)
    refused = bitrl("analyze", tmp_path / "run", "--states", 256)
    assert (refused.code, refused.out) == (2, "")
    assert "actions are of a codebook" in refused.err


def test_a_run_that_taught_a_language_model_is_refused_in_a_line(bitrl: Call, tmp_path: Path) -> None:
    options = {"run.num_envs": 8, "run.eval_episodes": 1, "algo.max_tokens": 2}
    face.run("reverse-word", algo="grpo", steps=8, out=tmp_path / "run", options=options)
    refused = bitrl("analyze", tmp_path / "run")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "grpo taught a language model" in refused.err
    assert "metrics.jsonl (kl_behaviour, m2, ess, sign_skew)" in refused.err


def test_what_cannot_be_analysed_is_said_in_a_line(bitrl: Call, discrete: Path, tmp_path: Path) -> None:
    nothing = bitrl("analyze", tmp_path)
    assert (nothing.code, "not a run" in nothing.err) == (2, True)
    plain = bitrl("analyze", trained(tmp_path, "CartPole-v1", "mlp"))
    assert (plain.code, "has no language model" in plain.err) == (2, True)
    unknown = bitrl("analyze", discrete, "--twin", "starter-fp61")
    assert (unknown.code, "starter-fp16" in unknown.err) == (2, True)
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in bitrl("analyze", discrete, "--out", file).err
    for checkpoint in (tmp_path / "CartPole-v1" / "checkpoints").iterdir():
        checkpoint.unlink()
    bare = bitrl("analyze", tmp_path / "CartPole-v1")
    assert (bare.code, "no checkpoint" in bare.err) == (2, True)
