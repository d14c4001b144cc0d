"""The comparison of two versions' speed: what it makes of its rounds, and one of this version with itself."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_rounds_are_compared_by_their_own_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    compared = importlib.import_module("two_versions").compared([(100.0, 200.0), (50.0, 75.0), (80.0, 400.0)])
    assert compared["before"] == 80
    assert compared["after"] == 200
    assert compared["ratio"] == 2


def test_a_version_trains_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    assert importlib.import_module("two_versions").steps_per_second(tmp_path, "MountainCar-v0", 2048) > 0
