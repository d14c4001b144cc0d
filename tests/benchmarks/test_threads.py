"""The benchmark of one and two threads, in short."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_rounds_go_through_both_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = importlib.import_module("threads")
    clock, gone = [0.0], []
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def work(name: str, seconds: float):
        def go(number: int) -> None:
            gone.append((number, name))
            clock[0] += seconds

        return go

    found = threads.in_turns([work("one", 0.3), work("two", 0.2)], 1.2)
    assert found == {
        "1_threads_ms": pytest.approx(300),
        "2_threads_ms": pytest.approx(200),
        "ratio": pytest.approx(1.5),
    }
    assert gone[:4] == [(0, "two"), (0, "one"), (1, "one"), (1, "two")]
    assert len(gone) == 10  # five rounds at least


def test_a_short_one_has_a_row_for_each_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads, record = importlib.import_module("threads"), importlib.import_module("record")
    monkeypatch.setattr(threads, "save", lambda name, found: record.save(name, found, tmp_path))
    monkeypatch.setattr(threads, "ALONE", (1, 8))
    monkeypatch.setattr(threads, "TOGETHER", ((2, 5),))
    threads.main(["--seconds", "0"])
    rows = json.loads((tmp_path / "threads.json").read_text())["results"]["rows"]
    assert [(row["texts"], row["tokens"]) for row in rows] == [(1, 1), (1, 8), (2, 5), (1, 16), (4, 16), (16, 16)]
    assert all(row["ratio"] > 0 for row in rows)
