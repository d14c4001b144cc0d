"""A small instance of benchmarks/failing_rewards.py: every failure is counted, and the run goes on."""

import importlib
from pathlib import Path

import pytest
from language_tasks import tiny_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_failing_rewards_stall_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    failing = importlib.import_module("failing_rewards")
    options = failing.SETTINGS | {
        "run.num_envs": 16,
        "backbone.model": str(tiny_file(tmp_path / "model.gguf")),
        "backbone.threads": 1,
    }
    found = failing.measure(100, options)
    assert found["failed"] >= 100
    assert 0.35 < found["failed"] / found["scored"] < 0.65
    assert found["scored"] % 16 == 0
    said = capfd.readouterr().err
    for why in ("raised ValueError: no score", "returned nan", "returned None", "ended its process (exit code 3)"):
        assert why in said
