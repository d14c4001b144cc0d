"""A small instance of the benchmark of agents on large models."""

import importlib
from pathlib import Path

import attrs
import pytest

from bitrl.plugins.backbones.benchmark.random_model import random_shape

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_an_agent_on_random_weights_is_profiled_in_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    large_agent = importlib.import_module("large_agent")
    monkeypatch.setattr(large_agent, "FORMS", {each: large_agent.FORMS[each] for each in ("1.6 bits", "bf16")})
    monkeypatch.setattr(large_agent, "LAYERS", (1,))
    found = large_agent.measured(tmp_path, attrs.evolve(random_shape("256x256x2"), vocabulary=8192), "50ms")
    assert found["tokens"] == 41
    ternary, bf16 = (found["1 layers"][form] for form in ("1.6 bits", "bf16"))
    assert 40 < ternary["peak_rss_mb"] < bf16["peak_rss_mb"]
    assert ternary["acts"] > 0 < ternary["latency_ms"]["p50"] <= ternary["latency_ms"]["p99"]
