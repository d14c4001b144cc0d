"""A study goes on in an empty directory from what is recorded of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from small_studies import DATA, go

from bitrl.core.runs.store import as_toml
from bitrl.core.studies.study import read_study

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_only_what_is_not_recorded_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("recorded_study")
    file = tmp_path / "small.toml"
    file.write_text(as_toml(DATA))
    recorded = go(tmp_path / "first", {**DATA, "study": {"seeds": "0"}}).results()
    trained = [f"CartPole-v1 algo.clip_coef={clip} seed 1: finished " for clip in (0.1, 0.2)]
    for told in (trained, []):  # the second time nothing is left
        benchmark.train(tmp_path / "second", file, recorded, 2, benchmark.told())
        found = read_study(tmp_path / "second")[1]
        assert [(each.label, each.seed) for each in found] == [("algo.clip_coef=0.1", 1), ("algo.clip_coef=0.2", 1)]
        assert sorted(capsys.readouterr().out.splitlines()) == told
