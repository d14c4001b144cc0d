"""A small instance of the benchmark of whole runs: a tiny model of random weights, with the starter's tokenizer."""

import importlib
from pathlib import Path

import attrs
import pytest

from bitrl.plugins.backbones.benchmark.random_model import random_shape

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_heads_learn_on_a_model_of_random_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    whole_run = importlib.import_module("whole_run")
    shape = attrs.evolve(random_shape("256x256x2"), vocabulary=8192)
    found = whole_run.heads_on(tmp_path, shape, ("1.6",), 64, "120MB")
    assert 40 < found["1.6"]["peak_rss_mb"] <= 120
    assert found["1.6"]["plan_mb"]["limit"] == 120
    assert whole_run.seconds_to_first_step(tmp_path / "run") > 0
