"""What `inspect` says of a model against what loading it says and takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hugging_face_models import add_tokenizer, bitnet, llama, packed
from tiny_models import gguf_bytes

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine, formats, open_model, plan
from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.tools.inspection import inspect


@pytest.mark.parametrize("format", formats())
def test_the_memory_of_each_format_is_what_the_engine_takes(format: str) -> None:
    memory = inspect(starter_path()).memory
    assert memory is not None
    assert memory.matrices[format] == Engine(starter_path(), format).bytes_per_token


def test_the_cache_of_a_token_is_what_the_engine_keeps(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)  # heads of 8, which are padded
    engine, error = Engine(tmp_path), ffi.new("char[256]")
    cache = ffi.new("bitrl_cache **")
    assert lib.bitrl_cache_open(engine.model, 100, cache, error) == 0
    kept = ffi.gc(cache[0], lib.bitrl_cache_close)
    whole_groups = 104  # of eight tokens, in which keys are kept
    assert lib.bitrl_cache_bytes(kept) == whole_groups * plan(open_model(tmp_path)).cache_bytes_per_token


def test_the_starter_model_runs_as_it_is() -> None:
    found = inspect(starter_path())
    assert found.verdict.words == "runs as it is"
    assert found.memory is not None
    tensors = open_model(starter_path()).tensors()
    assert sum(total["bytes"] for total in found.totals.values()) == sum(tensor.bytes for tensor in tensors)
    assert found.totals["TQ2_0"]["tensors"] == 28
    outside = sum(t.bytes for t in tensors if t.name in ("token_embd.weight", "output_norm.weight"))
    assert found.memory.embedding == outside


def test_an_activation_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert inspect(tmp_path).verdict.words == "runs as it is"
    del config["hidden_act"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert inspect(tmp_path).verdict.words == "needs -o backbone.activation=relu2 or silu"
    with pytest.raises(UsageError, match="activation"):
        Engine(tmp_path)
    Engine(tmp_path, activation="silu")


def test_a_linear_class_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    packed(bitnet(hidden_size=64, intermediate_size=128, num_attention_heads=4), tmp_path, "autobitlinear")
    add_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert inspect(tmp_path).verdict.words == "runs as it is"
    del config["quantization_config"]["linear_class"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert inspect(tmp_path).verdict.words == "needs -o backbone.linear_class=autobitlinear or bitlinear"


def test_what_a_model_lacks_is_said(tmp_path: Path) -> None:
    gpt2 = tmp_path / "gpt2.gguf"
    gpt2.write_bytes(gguf_bytes({"general.architecture": "gpt2"}, [("wte.weight", 0, (2, 4), bytes(32))]))
    found = inspect(gpt2)
    assert found.verdict.words.startswith(
        "cannot run: it holds a model of architecture gpt2, which is not supported; supported are"
    )
    assert "it has no tokenizer" in found.verdict.words
    assert found.memory is None
    assert found.totals == {"F32": {"tensors": 1, "weights": 8, "bytes": 32}}


def test_a_norm_that_is_missing_is_found_without_loading(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    shutil.copy(starter_path(), source)
    data = source.read_bytes()
    place = data.index(b"blk.3.ffn_norm.weight")
    source.write_bytes(data[:place] + b"blk.9.ffn_norm.weight" + data[place + 21 :])
    assert inspect(source).verdict.problems == ["it lacks the tensor blk.3.ffn_norm.weight"]
    with pytest.raises(UsageError, match=r"damaged|lacks the tensor blk\.3\.ffn_norm\.weight"):
        Engine(source)


def test_a_tokenizer_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    llama(vocab_size=20).save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf")
    assert "tokens but embeds only 20 of them" in inspect(tmp_path / "hf").verdict.words
