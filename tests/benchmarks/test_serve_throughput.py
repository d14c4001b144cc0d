"""A small instance of the benchmark of serving."""

import importlib
from pathlib import Path

import bitrl

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_clients_are_answered_beside_the_batched_encoder(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    throughput = importlib.import_module("serve_throughput")
    options = {"run.eval_episodes": 0, "run.num_envs": 2, "algo.rollout_steps": 16, "backbone.layers": 1}
    bitrl.run("CartPole-v1", steps=32, out=tmp_path / "run", options=options)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    found = throughput.compare(tmp_path / "agent", clients=3, rounds=1, seconds=0.1, threads=1)
    assert (found["failed"], len(found["shares"])) == (0, 1)
    assert found["shares"][0] > 0
    assert found["per_second"] > 0
    assert found["server_rss_mb"] > 10
