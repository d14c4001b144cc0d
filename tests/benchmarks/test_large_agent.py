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
    program = tmp_path / "bitrl-act"  # tests of csrc/agent have the real one
    program.write_text("#!/bin/sh\nwhile read line; do echo 1; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(large_agent, "PROGRAM", program)
    found = large_agent.measured(tmp_path, attrs.evolve(random_shape("256x256x2"), vocabulary=8192), "50ms")
    assert found["tokens"] == 41
    ternary, bf16 = (found["1 layers"][form] for form in ("1.6 bits", "bf16"))
    assert 40 < ternary["peak_rss_mb"] < bf16["peak_rss_mb"]
    assert (tmp_path / "agent.gguf").exists()
    alone = found["1 layers"]["1.6 bits, without Python"]
    assert alone["acts"] == large_agent.ACTS - large_agent.STATES
    assert 0 < alone["peak_rss_mb"] < 40
    assert ternary["acts"] > 0 < ternary["latency_ms"]["p50"] <= ternary["latency_ms"]["p99"]
