"""A study of the paper goes on in an empty directory from what is recorded of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from small_studies import DATA, go

from bitrl.core.runs.store import as_toml
from bitrl.core.studies.study import read_study

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_only_what_is_not_recorded_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    paper = importlib.import_module("paper")
    data = {**DATA, "grid": {"algo.clip_coef": [0.1, 0.2]}, "study": {"seeds": "0-1"}}
    file = tmp_path / "small.toml"
    file.write_text(as_toml(data))
    first = go(tmp_path / "first", {**data, "study": {"seeds": "0"}}).results()
    assert paper.begin(tmp_path / "second", file, first) == (2, 2)
    assert paper.begin(tmp_path / "second", file, first) == (2, 2)  # nothing more happens
    go(tmp_path / "second", data)
    assert sorted((each.label, each.seed) for each in read_study(tmp_path / "second")[1]) == [
        ("algo.clip_coef=0.1", 1),
        ("algo.clip_coef=0.2", 1),
    ]
