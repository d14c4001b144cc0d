"""A thousand of the hostile requests of benchmarks/serve_hostile.py: no wrong answer, and nothing left of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from served import Served

import bitrl

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_a_thousand_hostile_requests(served: Served, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    hostile = importlib.import_module("serve_hostile")
    expected = bitrl.load_agent(agent).act_batch(hostile.STATES)
    before = served.files()
    hostile.attack(served.port, expected, "warm", 300)
    memory = hostile.resident_mb(served.process.pid)
    answered, good = hostile.attack(served.port, expected, "a thousand", 1000)
    assert good == 100
    assert {"200", "400", "404", "405", "413", "422"} <= answered.keys()
    assert hostile.settled_files(served.process.pid, before) <= before
    assert hostile.resident_mb(served.process.pid) < memory + 8
    assert served.log.read_text(encoding="utf-8") == ""
