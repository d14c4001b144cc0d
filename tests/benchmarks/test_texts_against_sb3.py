"""The comparison of CartPole in words with Stable-Baselines3: what it makes of its rounds, and a small one."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_each_has_the_threads_that_suit_it_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    texts = importlib.import_module("texts_against_sb3")
    rounds = [
        {
            "bitrl": {1: 100.0, 2: 150.0},
            "bitrl_four_blocks": {1: 300.0, 2: 100.0},
            "bitrl_auto": {1: 400.0, 2: 100.0},
            "stable_baselines3": {1: 200.0, 2: 90.0},
        },
        {
            "bitrl": {1: 400.0, 2: 160.0},
            "bitrl_four_blocks": {1: 160.0, 2: 100.0},
            "bitrl_auto": {1: 240.0, 2: 100.0},
            "stable_baselines3": {1: 80.0, 2: 100.0},
        },
        {
            "bitrl": {1: 110.0, 2: 180.0},
            "bitrl_four_blocks": {1: 180.0, 2: 100.0},
            "bitrl_auto": {1: 240.0, 2: 100.0},
            "stable_baselines3": {1: 120.0, 2: 95.0},
        },
    ]
    found = texts.compared(rounds)
    assert found["bitrl"] == {"threads": 2, "steps_per_second": 160.0, "ratio": 180 / 120}
    assert found["bitrl_four_blocks"] == {"threads": 1, "steps_per_second": 180.0, "ratio": 180 / 120}
    assert found["stable_baselines3"] == {"threads": 1, "steps_per_second": 120.0, "ratio": 1}
    assert found["bitrl_auto"] == {"threads": 1, "steps_per_second": 240.0, "ratio": 2}
    for ours in ("bitrl_four_blocks", "bitrl_auto"):
        assert texts.measure(texts.RIVALS[ours], 2048, 1)["steps_per_second"] > 0
