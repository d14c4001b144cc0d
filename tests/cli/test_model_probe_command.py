"""`bitrl model probe` and `quantize`, and what `inspect` adds, as a user calls them."""

from __future__ import annotations

import importlib.util
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import add_tokenizer, llama

from bitrl.plugins.backbones.language_model import starter_path

Call = Callable[..., Any]
PROBE = ("model", "probe", "--env", "MountainCar-v0", "--serializer", "compact", "--count", 400)


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose parts all have the right checksums."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, at = [], 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        parts.append(data[at + 4 : at + 8])
        assert zlib.crc32(data[at + 4 : at + 8 + size]) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        at += 12 + size
    assert (parts[0], parts[-1]) == (b"IHDR", b"IEND")
    return struct.unpack(">II", data[16:24])


def test_probe_prints_a_table_and_the_options_to_use(bitrl: Call, tmp_path: Path) -> None:
    done = bitrl(*PROBE, "--fields", "--out", tmp_path / "p.png")
    assert done.code == 0, done.err
    assert "MountainCar-v0, compact, states uniform in their bounds" in done.out
    assert "MountainCar-v0, compact, states visited by a random policy" in done.out
    assert "-o backbone.layers=" in done.out
    assert "velocity" in done.out
    assert "\x1b" not in done.err
    assert min(png_size((tmp_path / "p.png").read_bytes())) > 300
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_probe_as_json_has_what_the_table_sums_up(bitrl: Call) -> None:
    done = bitrl(
        *PROBE, "--states", "uniform", "--pooling", "mean", "--backbone", "int8", "-o", "backbone.layers=2", "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    [reading] = found["readings"]
    assert (reading["env"], reading["serializer"], reading["states"]) == ("MountainCar-v0", "compact", "uniform")
    assert [(score["block"], score["pooling"]) for score in reading["scores"]] == [(1, "mean"), (2, "mean")]
    for score in reading["scores"]:
        values = score["fields"]
        assert score["mean"] == pytest.approx(sum(values.values()) / 2)
        assert values[score["worst"]] == min(values.values())
    assert found["best"]["mean"] == max(score["mean"] for score in reading["scores"])
    layers = found["best"]["layers"]
    assert found["best"]["options"] == f"-o backbone.layers={layers} -o backbone.pooling=mean"
    again = json.loads(bitrl(*PROBE, "--states", "uniform", "--pooling", "mean", "--json").out)
    assert again["readings"][0]["tokens"] == reading["tokens"]  # the same states


def test_probe_without_matplotlib_names_the_extra(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    failed = bitrl(*PROBE, "--out", tmp_path / "p.png")
    assert failed.code == 2
    assert "bitrl[report]" in failed.err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    llama(hidden_size=64, intermediate_size=64, num_attention_heads=4).save_pretrained(path)
    add_tokenizer(path)
    return path


def test_quantize_says_what_was_lost(bitrl: Call, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = bitrl("model", "quantize", checkpoint, "--out", out, "--type", "int8", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["bytes"] == out.stat().st_size
    assert {row["to"] for row in found["matrices"]} == {"Q8_0"}
    assert 0 < found["error"] < 0.02
    done = bitrl("model", "quantize", checkpoint, "--out", out, "--type", "int4", "--force")
    assert done.code == 0, done.err
    assert "blk.2.ffn_down.weight     64x64  F32   Q4_0" in done.out
    shown = bitrl("model", "inspect", out)
    assert f"{out} runs as it is" in shown.out
    assert "blocks as ternary-1.6" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("probe", "missing.gguf"), "missing.gguf"),
        (("probe", "--env", "CartPol-v1"), 'did you mean "CartPole-v1"'),
        (("probe", "--serializer", "jsno"), 'did you mean "json"'),
        (("probe", "--serializer", "vector"), "emits vector"),
        (("probe", "--backbone", "mlp"), "mlp"),
        (("probe", "--out", "p.jpg"), "--out must end in .png, got p.jpg"),
        (("probe", "--out", "nowhere/p.png"), "nowhere"),
        (("probe", "-o", "backbone.pooling=last"), "--pooling"),
        (("quantize", "checkpoint", "--out", "m.gguf", "--type", "int7"), "did you mean"),
        (("quantize", "checkpoint", "--out", "m.gguf", "--type", "ternary"), "multiple of 256"),
        (("quantize", "missing", "--out", "m.gguf", "--type", "int8"), "no such file"),
        (("quantize", "checkpoint", "--out", "nowhere/m.gguf", "--type", "int8"), "nowhere"),
        (("quantize", str(starter_path()), "--out", "m.gguf", "--type", "int8"), "--again"),
        (("convert", "checkpoint", "--out", "m.gguf", "--type", "q4_0"), "bitrl model quantize"),
    ],
)
def test_wrong_commands_are_told_in_one_line(
    bitrl: Call,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = bitrl("model", *arguments)
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_inspect_tells_what_a_model_needs(bitrl: Call, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    del config["hidden_act"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    found = json.loads(bitrl("model", "inspect", checkpoint, "--json").out)
    assert found["verdict"]["runs"]
    assert found["verdict"]["needs"] == ["-o backbone.activation=relu2 or silu"]
    assert found["memory"]["matrices"]["int8"] < found["memory"]["matrices"]["bf16"]
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    failed = bitrl("model", "inspect", checkpoint)
    assert failed.code == 2
    assert "gpt2" in failed.err
