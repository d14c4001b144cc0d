"""benchmarks/learning.py: a small table made, and gone on with; its statistics on hand-worked cases."""

import importlib.util
import json
import math
import sys
import types
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--steps", "128", "--seeds", "2", "-o", "algo.rollout_steps=64", "-o", "run.eval_episodes=2")
SMALL = (*SMALL, "-o", "run.num_envs=2", "-o", "algo.hidden=8", "--env", "CartPole-v1")


@pytest.fixture(scope="module")
def learning():
    sys.path.insert(0, str(BENCHMARKS))  # it imports its neighbour record.py
    try:
        spec = importlib.util.spec_from_file_location("learning", BENCHMARKS / "learning.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["learning"] = module  # attrs looks there for annotations
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("learning", None)


def test_a_small_table_is_made_and_only_what_is_missing_is_trained(learning, tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(learning, "REFERENCE", "mlp")
    true_train = learning.Cell.train

    def train(cell, seed):
        trained.append((cell.env, cell.backbone, seed))
        if cell.backbone == "mlp" and seed == 0:
            return true_train(cell, seed)
        return {
            "seed": seed,
            "steps": 128,
            "eval": {"mean_return": 20.0 + seed, "std_return": 1.0},
            "train_seconds": 1.5,
            "peak_rss_mb": 300.0,
            "curve": [[64, 10.0 + seed], [128, 20.0]],
        }

    monkeypatch.setattr(learning.Cell, "train", train)
    arguments = [*SMALL, "--backbone", "mlp", "--backbone", "bitnet", "--out", str(tmp_path)]
    learning.main(arguments)
    assert sorted(trained) == [("CartPole-v1", each, seed) for each in ("bitnet", "mlp") for seed in (0, 1)]

    mlp = json.loads((tmp_path / "learning-CartPole-v1-mlp-vector.json").read_text())["results"]
    real, made_up = mlp["runs"]
    assert (real["steps"], real["eval"]["episodes"], real["seed"]) == (128, 2, 0)
    assert made_up["seed"] == 1
    assert "threads" not in mlp["settings"]["config"]["backbone"]
    bitnet = json.loads((tmp_path / "learning-CartPole-v1-bitnet-json.json").read_text())["results"]
    assert bitnet["settings"]["config"]["backbone"]["threads"] == 1
    assert bitnet["mean_return"] == 20.5
    # Two values one apart: s = 1/√2, and t(1) · s/√2 = 12.706 / 2.
    assert bitnet["confidence_95"] == pytest.approx(6.353)
    rows = json.loads((tmp_path / "learning.json").read_text())["results"]["rows"]
    assert [row["backbone"] for row in rows] == ["mlp", "bitnet"]
    assert rows[0]["ratio_to_mlp"] is None
    mean = (real["eval"]["mean_return"] + 21) / 2
    assert rows[1]["ratio_to_mlp"][0] == pytest.approx(20.5 / mean)
    assert "| CartPole-v1 | bitnet | `json` | 2 | 128 | 20.5 ± 6.4 | 20.0 |" in (tmp_path / "learning.md").read_text()

    trained.clear()
    learning.main(arguments)
    assert trained == []
    learning.main([*arguments, "--seeds", "3"])
    assert sorted(trained) == [("CartPole-v1", "bitnet", 2), ("CartPole-v1", "mlp", 2)]

    trained.clear()
    capsys.readouterr()
    learning.main([*arguments, "-o", "algo.gamma=0.9"])
    assert len(trained) == 4
    assert "made with other settings or another model" in capsys.readouterr().err


def test_a_seed_that_fails_leaves_those_that_finished(learning, tmp_path, monkeypatch):
    def train(cell, seed):
        if seed == 1:
            raise SystemExit("Error: no")
        return {"seed": 0, "steps": 1, "eval": {"mean_return": 1.0, "std_return": 0.0}, "train_seconds": 1.0} | {
            "peak_rss_mb": 1.0,
            "curve": [],
        }

    monkeypatch.setattr(learning.Cell, "train", train)
    with pytest.raises(SystemExit, match="Error: no"):
        learning.main([*SMALL, "--backbone", "mlp", "--jobs", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "learning-CartPole-v1-mlp-vector.json").read_text())["results"]
    assert [run["seed"] for run in results["runs"]] == [0]
    assert results["confidence_95"] is None


def test_successes_have_a_column_where_an_environment_counts_them(learning):
    def run(seed, mean, **more):
        return {"seed": seed, "steps": 64, "train_seconds": 1, "peak_rss_mb": 1} | {
            "eval": {"mean_return": mean, "std_return": 0.0, **more}
        }

    settings = {"config": {"run": {"serializer": "grid"}}}
    found = {
        learning.Cell("BabyAI-GoToRedBall-v0", "bitnet", None, ()): learning.summarise(
            [run(0, 0.7, success_rate=0.8), run(1, 0.9, success_rate=0.9)], settings
        ),
        learning.Cell("CartPole-v1", "bitnet", None, ()): learning.summarise([run(0, 500.0), run(1, 500.0)], settings),
    }
    counted, uncounted = learning.table(found)
    assert counted["success_rate"] == pytest.approx(0.85)
    # s = 0.1/√2, and t(1) · s/√2 = 12.706 · 0.05.
    assert counted["success_confidence_95"] == pytest.approx(0.6353)
    assert uncounted["success_rate"] is None
    lines = learning.markdown([counted, uncounted], "").splitlines()
    assert "| BabyAI-GoToRedBall-v0 | bitnet | `grid` | 2 | 64 | 0.800 ± 1.271 | 0.700 | 85.0% ± 63.5% |" in lines
    assert "| CartPole-v1 | bitnet | `grid` | 2 | 64 | 500.0 ± 0.0 | 500.0 |  |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "success" not in learning.markdown([uncounted], "")
    assert "bf16" not in "".join(lines)
    compared = learning.markdown([counted, {**uncounted, "ratio_to_bf16": (0.97, 0.95, 0.99)}], "").splitlines()
    assert "| CartPole-v1 | bitnet | `grid` | 2 | 64 | 500.0 ± 0.0 | 500.0 |  | 97.0% (95.0% to 99.0%) |" in compared
    assert len({line.count("|") for line in compared if line.startswith("|")}) == 1


def test_a_ratio_is_above_one_where_it_is_better(learning):
    assert learning.ratio([500.0] * 5, [400.0] * 5) == (1.25, 1.25, 1.25)
    assert learning.ratio([-80.0] * 5, [-100.0] * 5) == (1.25, 1.25, 1.25)
    share, low, high = learning.ratio([-100.0, -110.0, -105.0], [-105.0, -100.0, -110.0])
    assert share == 1
    assert 100 / 110 < low < 0.98
    assert 1.02 < high < 1.1


def test_an_interval_is_students(learning):
    mean, half = learning.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert half == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5))


def test_a_backbone_after_a_slash_is_the_critics_and_each_reads_on_one_thread(learning, monkeypatch):
    asked = []

    def resolve(values, typed):
        asked.append(values)
        options = types.SimpleNamespace(threads=0)
        return types.SimpleNamespace(backbone_options=options, critic_backbone_options=options)

    monkeypatch.setattr(learning, "resolve", resolve)
    learning.Cell("CartPole-v1", "bitnet/int8", None, ("backbone.threads=2",)).config()
    assert asked[-1] == {
        "run": {"env": "CartPole-v1", "backbone": "bitnet", "critic_backbone": "int8"},
        "backbone": {"threads": "2"},
        "critic_backbone": {"threads": 1},
    }
