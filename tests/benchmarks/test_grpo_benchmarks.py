"""Small instances of the benchmarks of GRPO: the rival gets the same model, parts add up, ratios are of neighbours."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from language_tasks import begin, tiny_backbone, tiny_file
from tiny_models import TinyModel

from bitrl.plugins.backbones.engine.engine import open_model
from bitrl.plugins.backbones.training.decoder_file import read_decoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("architecture", ["llama", "bitnet-b1.58"])
def test_the_rival_gets_the_same_model(benchmarks, tmp_path: Path, architecture: str) -> None:
    tiny = TinyModel(width=48, ffn=80, heads=4, kv_heads=2, blocks=2, weights="F32", architecture=architecture)
    decoder = read_decoder(open_model(tiny.write(tmp_path / "model.gguf")), "fp32", learns=True)
    theirs = benchmarks("grpo_against_trl").transformers_model(decoder)
    assert sum(each.numel() for each in theirs.parameters()) == sum(each.numel() for each in decoder.parameters())
    tokens = torch.tensor([[3, 299, 17, 17, 250]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits.double(), decoder(tokens).double(), rtol=1e-4, atol=1e-4)


def clock_of(benchmarks: Any, **seconds: list[float]) -> Any:
    clock = benchmarks("turns").Clock(seconds)
    clock.seconds, clock.cpu_seconds = seconds, {name: [2 * each for each in found] for name, found in seconds.items()}
    return clock


def test_ratios_are_of_neighbours_and_leave_out_the_first(benchmarks) -> None:
    clock = clock_of(benchmarks, **{"bitrl fp32": [9, 1, 2, 4], "trl": [1, 3, 2, 40]})
    rewards = {"bitrl fp32": [0.0, 0.5, 1.0, 1.0], "trl": [0.25, 0.0, 0.0, 0.75]}
    found = benchmarks("grpo_against_trl").compared(clock, rewards)
    assert found["ratio_to_trl"] == found["ratio_to_trl_in_cpu_seconds"] == {"bitrl fp32": 3}  # of 3, 1 and 10
    assert found["updates_per_hour"] == {"bitrl fp32": 1800, "trl": 1200}
    assert found["reward"] == {"bitrl fp32": {"first": 0, "last": 1}, "trl": {"first": 0.25, "last": 0.75}}


def test_groups_of_the_task_differ_and_runs_have_their_own_settings(benchmarks, tmp_path: Path) -> None:
    """Other letters than vowels score nothing, so what a model writes is rarely worth the same twice."""
    task = benchmarks("share_of_vowels").ShareOfVowels()
    assert [task.score(None, text) for text in ("A river, 1800.", "xyz", "", "42")] == [3 / 6, 0, 0, 0]
    turns = benchmarks("turns")
    model = str(tiny_file(tmp_path / "model.gguf"))
    defaults = {
        "env": "reverse-word",
        "model": model,
        "updates": 1,
        "completions": 8,
        "tokens": 2,
        "learning_rate": 1e-3,
    }
    args = turns.parser_of(None, **defaults).parse_args(["--group", "4", "--threads", "1"])
    runs = turns.runs_of(args, {"one": {"algo.rollout": "fp32"}, "other": {"algo.rollout": "int8"}})
    assert {name: run.agent.actor.format for name, run in runs.items()} == {"one": "fp32", "other": "int8"}
    assert all(run.options.group_size == 4 and run.options.max_tokens == 2 for run in runs.values())


def test_parts_of_an_update_add_up_and_int8_is_beside_the_faster_full_precision(benchmarks, tmp_path: Path) -> None:
    parts = benchmarks("grpo_by_parts")
    run = begin("grpo", tiny_backbone(tiny_file(tmp_path / "model.gguf")), rollout="int8")
    clock, found, rewards, skipped = parts.take_turns({"int8": run}, 2)
    for each, whole in zip(found["int8"], clock.seconds["int8"], strict=True):
        assert math.isclose(sum(each.values()), whole)
        assert set(each) == {*parts.PARTS, "rest"}
        assert min(each[part] for part in ("generation", "update", "replacement")) > 0
    assert len(rewards["int8"]) == len(skipped["int8"]) == 2

    clock = clock_of(benchmarks, fp32=[1, 4, 4], bf16=[1, 8, 8], int8=[1, 3, 3])
    made = {name: [{"update": 2.0, "replacement": 0.5}] * 3 for name in clock.seconds}
    compared = parts.compared(clock, made, {name: [0.5] * 3 for name in clock.seconds})
    assert compared["full_precision"] == "fp32"
    assert compared["int8_step_to_full_precision"] == 0.75
    assert compared["replacement_share"]["fp32"] == 0.125
    assert compared["seconds_by_part"]["int8"] == {"update": 2.0, "replacement": 0.5}
