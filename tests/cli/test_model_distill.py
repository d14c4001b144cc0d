"""`bitrl model distill`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import add_tokenizer, calm_llama

Call = Callable[..., Any]


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bitrl.plugins.backbones.training.distillation.measure.PROBED", 80)
    folder = tmp_path / "teacher"
    small = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 512}
    calm_llama(**small).save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def test_distil_writes_a_model_that_an_agent_reads_and_its_card(bitrl: Call, tmp_path: Path, teacher: Path) -> None:
    text, out = tmp_path / "prose.txt", tmp_path / "s.gguf"
    text.write_text("Once upon a time there was a small model that thought of the other. " * 60)
    arguments = ("model", "distill", "--teacher", teacher, "--out", out, "--layers", 2, "--text", text)
    small = ("--envs", "MountainCar-v0", "--steps", 20, "--batch", 256, "--learning-rate", "1e-2", "--device", "cpu")
    done = bitrl(*arguments, *small, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["losses"]["hidden"] < 0.8 * told["history"][0]["hidden"]
    assert {(k["states"], k["block"]) for k in told["r_squared"]} == {
        (states, block) for states in ("uniform", "random") for block in (1, 2)
    }
    assert "20 of 20 steps" in done.err
    assert "\x1b" not in done.err
    card = out.with_suffix(".md").read_text()
    assert "bitrl model distill --teacher teacher --out s.gguf --layers 2 --text prose.txt" in card
    assert "| MountainCar-v0 | uniform | 2 |" in card

    shown = json.loads(bitrl("model", "inspect", out, "--json").out)
    assert (shown["architecture"], shown["checksum"]) == ("bitnet", "sealed")
    ran = bitrl(
        "run", "--env", "MountainCar-v0", "--backbone", "bitnet", "-o", f"backbone.model={out}", "--steps", 64,
        "-o", "run.num_envs=2", "-o", "algo.rollout_steps=64", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "nowhere.gguf"), "nowhere.gguf: no such file"),
        (("--out", "nowhere/s.gguf"), "there is no directory"),
        (("--pretraining-steps", 5, "--steps", 4), "--pretraining-steps 5"),
        (("--text", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("--layers", 9), "has 3 blocks, fewer than the 9"),
        (("--envs", "SmartHome-Light"), "SmartHome-Light: expected observations of numbers alone"),
        (("--envs", "CartPole-v2"), "CartPole-v2"),
        (("--teacher", "starter"), "is ternary already"),
        (("--device", "cuda"), "finds no CUDA device"),
    ],
)
def test_mistakes_are_told_in_one_line(
    bitrl: Call, tmp_path: Path, teacher: Path, arguments: tuple[Any, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = {"--teacher": teacher, "--out": tmp_path / "s.gguf"} | dict(
        zip(arguments[::2], arguments[1::2], strict=True)
    )
    done = bitrl("model", "distill", *(part for pair in given.items() for part in pair))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [teacher]
