"""`bitrl model train`, `convert` and `inspect`, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import add_tokenizer, llama

from bitrl.plugins.backbones.language_model import starter_path

Call = Callable[..., Any]
TINY = ("--blocks", 1, "--ffn", 256, "--vocab", 4400, "--batch", 384, "--envs", "MountainCar-v0")


@pytest.fixture(autouse=True)
def _small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrl.plugins.backbones.training.pretraining.measure.PROBED", 80)
    monkeypatch.setattr("bitrl.plugins.backbones.training.pretraining.command.LEARNING_STEPS", 0)
    monkeypatch.setattr("bitrl.plugins.backbones.training.pretraining.measure.UNSEEN", ())


def test_train_writes_a_model_and_a_card_that_repeats_the_command(bitrl: Call, tmp_path: Path) -> None:
    text = tmp_path / "some prose.txt"
    text.write_text("Once upon a time there was a small model. " * 100)
    out = tmp_path / "m.gguf"
    done = bitrl("model", "train", "--out", out, "--text", text, "--steps", 2, *TINY, "--note", "made for a test")
    assert done.code == 0, done.err
    assert "bits per byte" in done.out
    assert "MountainCar-v0" in done.out
    assert "2 of 2 steps" in done.err
    assert "\x1b" not in done.err
    card = out.with_suffix(".md").read_text()
    assert "bitrl model train --out m.gguf --text 'some prose.txt' --steps 2" in card
    assert "made for a test" in card

    shown = json.loads(bitrl("model", "inspect", out, "--json").out)
    assert shown["architecture"] == "bitnet-b1.58"
    assert shown["checksum"] == "sealed"
    assert shown["parameters"]["block_count"] == 1
    # One block: q and o [256, 256], k and v [128, 256], three of [256, 256] in the feed-forward network.
    assert shown["ternary_weights"] == (2 + 1 + 3) * 256 * 256


def test_inspect_shows_the_starter_model(bitrl: Call) -> None:
    shown = bitrl("model", "inspect", starter_path())
    assert shown.code == 0
    for fact in ("bitnet-b1.58", "sealed", "blk.0.ffn_down.weight", "TQ2_0", "gpt2", "embedding_length"):
        assert fact in shown.out


def test_inspect_computes_what_training_adapters_of_the_2b_shape_takes(bitrl: Call) -> None:
    """Of its published shape, without a file of it: rank 8 on q and v."""
    shown = json.loads(bitrl("model", "inspect", "random:bitnet-2b-4t", "--json").out)
    lora = shown["memory"]["lora"]
    assert lora["gradients"] == 30 * 8 * (2560 + 2560 + 2560 + 640) * 4
    assert lora["weights"] == 30 * (2 * 2560**2 + 2 * 640 * 2560 + 3 * 6912 * 2560) + 4 * 128256 * 2560
    assert shown["file"] == "random:bitnet-2b-4t"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "missing.gguf"), "no such file"),
        (("train", "--out", "m.gguf", "--steps", 1, "--minutes", 1), "expected one of them, got both"),
        (("train", "--out", "m.gguf", "--steps", 1, "--width", 300), "multiples of 256"),
        (("train", "--out", "m.gguf", "--steps", 1, "--resume"), "no checkpoint"),
        (("train", "--out", "m.gguf", "--steps", 1, "--text", "missing.txt"), "missing.txt"),
        (("train", "--out", "nowhere/m.gguf", "--steps", 1), "nowhere"),
        (("train", "--out", "m.gguf", "--steps", 1, "--envs", "CartPol-v1"), "CartPol-v1"),
        (("train", "--out", "m.gguf", "--steps", 1, "--device", "cuda"), "finds no CUDA device"),
    ],
)
def test_wrong_commands_are_told_in_one_line(
    bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    failed = bitrl("model", *arguments)
    assert failed.code == 2
    assert message in failed.err
    assert "Traceback" not in failed.err
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_a_damaged_file(bitrl: Call, tmp_path: Path) -> None:
    damaged = bytearray(starter_path().read_bytes())
    damaged[-100] ^= 1
    (tmp_path / "m.gguf").write_bytes(damaged)
    failed = bitrl("model", "inspect", tmp_path / "m.gguf")
    assert failed.code == 2
    assert "damaged" in failed.err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    llama().save_pretrained(path)
    add_tokenizer(path)
    return path


def test_convert_writes_a_file_that_inspect_shows(bitrl: Call, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = bitrl("model", "convert", checkpoint, "--out", out, "--type", "bf16")
    assert done.code == 0, done.err
    assert done.out == f"{out}: {out.stat().st_size:,} bytes\n"
    assert "\x1b" not in done.err
    shown, source = (json.loads(bitrl("model", "inspect", path, "--json").out) for path in (out, checkpoint))
    assert shown["architecture"] == source["architecture"] == "llama"
    assert (shown["checksum"], source["checksum"]) == ("sealed", "unsealed")
    assert shown["weights"] == source["weights"]
    assert {t["type"] for t in shown["tensors"] if t["name"].startswith("blk.1.ffn_u")} == {"BF16"}
    assert shown["tokenizer"]["tokens"] == "300 entries"


def test_convert_replaces_a_file_only_when_told(bitrl: Call, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("precious")
    failed = bitrl("model", "convert", checkpoint, "--out", out)
    assert (failed.code, out.read_text()) == (2, "precious")
    assert "--force" in failed.err
    assert bitrl("model", "convert", checkpoint, "--out", out, "--force").code == 0
    failed = bitrl("model", "convert", out, "--out", out, "--force")
    assert failed.code == 2
    assert "choose another" in failed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "m.gguf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "--out", "m.gguf"), "no such file or directory"),
        ((".", "--out", "m.gguf"), "neither model.safetensors nor"),
        (("checkpoint", "--out", "nowhere/m.gguf"), "no directory nowhere"),
        (("checkpoint", "--out", "m.gguf", "--type", "q8"), 'did you mean "q8_0"'),
        (("checkpoint", "--out", "m.gguf", "--type", "tq2_0"), "bitrl model quantize"),
        (("checkpoint", "--out", "m.gguf", "--i2s-packing", "riscv"), "riscv"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(
    bitrl: Call,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = bitrl("model", "convert", *arguments)
    assert failed.code == 2
    assert message in failed.err
    assert "Traceback" not in failed.err
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("option", ["--text-envs", "--worlds"])
def test_text_environments_are_named_by_either_spelling(bitrl: Call, tmp_path: Path, option: str) -> None:
    done = bitrl("model", "train", "--out", tmp_path / "a.gguf", option, "Nowhere")
    assert done.code == 2
    assert 'text environment "Nowhere"' in done.err
    assert "BabyAI, SmartHome-Light, TextWorld" in done.err
