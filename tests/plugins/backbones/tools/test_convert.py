"""`convert`: the same features before and after, and files that the gguf package reads as llama.cpp would."""

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from hugging_face_models import TEXTS, add_tokenizer, bitnet, gemma3, llama, packed, qwen3, relative_error, save_rounded
from tiny_models import TinyModel, gguf_bytes

from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.tools.convert import convert, ternary

MODELS = {"llama": llama, "qwen3": qwen3, "gemma3": gemma3}
BIG = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}


def tensors_of(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", MODELS)
def test_float_models_keep_their_features_to_the_bit(tmp_path: Path, name: str) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    out = tmp_path / "m.gguf"
    convert(tmp_path, out)
    assert ModelFile(out).verify() == "sealed"
    want = Engine(tmp_path).encode(TEXTS)
    if name == "gemma3":  # its norms have become 1 + w in float32
        assert relative_error(Engine(out).encode(TEXTS), want) < 1e-6
    else:
        np.testing.assert_array_equal(Engine(out).encode(TEXTS), want)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "tq2_0", "tq1_0"])
def test_every_type_is_written_as_the_gguf_package_reads_it(tmp_path: Path, kind: str) -> None:
    model = save_rounded(llama(**BIG), tmp_path, torch.bfloat16)
    out = tmp_path / "m.gguf"
    convert(tmp_path, out, kind)
    found = tensors_of(out)
    weight = model.state_dict()["model.layers.1.mlp.down_proj.weight"].float().numpy()
    tensor = found["blk.1.ffn_down.weight"]
    assert tensor.tensor_type.name.lower() == kind
    read = gguf.dequantize(tensor.data, tensor.tensor_type)
    # f16 holds all but the smallest of these bf16 weights; then half steps of 8 and 4 bits, and of -1, 0, 1.
    most = {"f32": 0, "f16": 1e-3, "bf16": 0, "q8_0": 0.01, "q4_0": 0.12, "q4_1": 0.1, "tq2_0": 0.6, "tq1_0": 0.6}[kind]
    assert relative_error(read, weight) <= most
    assert found["token_embd.weight"].tensor_type.name == "BF16"
    assert found["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    # In the format that the type is run in, quantised before or at load: the same but for the blocks' own scales, which
    # TQ2_0 and TQ1_0 have in float16.
    format = Engine(out).format
    got, want = Engine(out).encode(TEXTS), Engine(tmp_path, format).encode(TEXTS)
    most = {"f32": 0, "f16": 1e-2, "bf16": 0, "q8_0": 0.05, "q4_0": 0.5, "q4_1": 0.5}.get(kind, 0.02)
    assert relative_error(got, want) <= most


def test_llamas_rows_are_turned_and_gemmas_norms_have_their_one(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "llama")
    convert(tmp_path / "llama", tmp_path / "llama.gguf")
    heads, weight = 6, model.state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    # By llama.cpp's own words: pairs (i, i + half) of a head become (2 i, 2 i + 1).
    expected = np.stack([
        weight[head * 8 + (row % 2) * 4 + row // 2] for head in range(heads) for row in range(8)
    ])  # fmt: skip
    np.testing.assert_array_equal(tensors_of(tmp_path / "llama.gguf")["blk.0.attn_q.weight"].data, expected)

    model = gemma3()
    model.save_pretrained(tmp_path / "gemma")
    convert(tmp_path / "gemma", tmp_path / "gemma.gguf")
    norm = model.state_dict()["model.layers.0.self_attn.q_norm.weight"].numpy()
    np.testing.assert_array_equal(tensors_of(tmp_path / "gemma.gguf")["blk.0.attn_q_norm.weight"].data, norm + 1)
    metadata = ModelFile(tmp_path / "gemma.gguf").metadata()
    assert metadata["gemma3.rope.freq_base_swa"] == 50.0
    assert metadata["gemma3.attention.sliding_window_pattern"] == 2


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_packed_weights_become_tq2_0(tmp_path: Path, linear_class: str) -> None:
    packed(bitnet(**BIG), tmp_path, linear_class, torch.bfloat16)
    out = tmp_path / "m.gguf"
    convert(tmp_path, out)
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == "bitnet"
    assert reader.fields["bitnet.hidden_activation"].contents() == "relu2"
    assert tensors_of(out)["blk.0.attn_q.weight"].tensor_type.name == "TQ2_0"
    assert tensors_of(out)["blk.0.attn_q.scale"].data.shape == (1,)
    np.testing.assert_array_equal(Engine(out).encode(TEXTS), Engine(tmp_path).encode(TEXTS))


def test_master_weights_of_bitnet_become_tq2_0_with_their_whole_scale(tmp_path: Path) -> None:
    bitnet(**BIG).save_pretrained(tmp_path)
    convert(tmp_path, tmp_path / "m.gguf", "tq2_0")
    want = Engine(tmp_path, "ternary").encode(TEXTS)
    assert relative_error(Engine(tmp_path / "m.gguf").encode(TEXTS), want) < 1e-6


def test_packed_weights_with_odd_rows_need_another_type(tmp_path: Path) -> None:
    packed(bitnet(), tmp_path, "autobitlinear")
    with pytest.raises(
        UsageError, match=r"rows of 80 weights, but TQ2_0 needs a multiple of 256: choose another --type"
    ):
        convert(tmp_path, tmp_path / "m.gguf")
    convert(tmp_path, tmp_path / "m.gguf", "f32")
    want = Engine(tmp_path).encode(TEXTS)
    np.testing.assert_array_equal(Engine(tmp_path / "m.gguf", "ternary").encode(TEXTS), want)


def test_norms_before_projections_pass_unchanged(tmp_path: Path) -> None:
    model = gemma3(tie_word_embeddings=True)
    weights = {name: weight for name, weight in model.state_dict().items() if "lm_head" not in name}
    torch.manual_seed(3)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        weights[name.replace(".weight", ".norm.weight")] = torch.rand(weights[name].shape[1]) + 0.5
    model.config.save_pretrained(tmp_path)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    assert any("norms before single projections" in lack for lack in convert(tmp_path, tmp_path / "m.gguf"))
    norm = weights["model.layers.0.mlp.up_proj.norm.weight"].numpy()
    np.testing.assert_array_equal(tensors_of(tmp_path / "m.gguf")["blk.0.ffn_up_norm_in.weight"].data, norm)
    want = Engine(tmp_path).encode(TEXTS)
    assert relative_error(Engine(tmp_path / "m.gguf").encode(TEXTS), want) < 1e-6


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    tokenizer = add_tokenizer(tmp_path)
    out = tmp_path / "m.gguf"
    assert convert(tmp_path, out) == []
    metadata = ModelFile(out).metadata()
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.tokens"][256:259] == ["th", "<s>", "[PAD258]"]
    assert len(metadata["tokenizer.ggml.tokens"]) == 300
    assert metadata["tokenizer.ggml.token_type"][256:259].tolist() == [1, 3, 5]
    assert metadata["tokenizer.ggml.merges"] == ["t h"]
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.bos_token_id"] == tokenizer.token_to_id("<s>")
    assert metadata["tokenizer.ggml.eos_token_id"] == 8
    texts = ["the thin moth", "", '{"x": -0.25}']
    before = LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32").encode(texts)
    np.testing.assert_array_equal(
        LanguageModel(LanguageModelOptions(model=str(out)), format="fp32").encode(texts), before
    )


def test_a_tokenizer_that_llama_cpp_cannot_read_is_reported(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert "no tokenizer" in convert(tmp_path, tmp_path / "a.gguf")[0]
    add_tokenizer(tmp_path)
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    said["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    assert "llama.cpp cannot read" in convert(tmp_path, tmp_path / "b.gguf")[0]
    LanguageModel(LanguageModelOptions(model=str(tmp_path / "b.gguf")), format="fp32")  # bitrl can


@pytest.mark.parametrize("kind", [None, "q8_0"])
def test_a_gguf_file_is_a_source_too(tmp_path: Path, kind: str | None) -> None:
    model = TinyModel(width=256, ffn=256, blocks=1)
    source, out = model.write(tmp_path / "i2s.gguf", "I2_S"), tmp_path / "out.gguf"
    convert(source, out, kind)
    assert tensors_of(out)["blk.0.attn_q.weight"].tensor_type.name == (kind or "tq2_0").upper()
    before, after = ModelFile(source).metadata(), ModelFile(out).metadata()
    assert after["general.architecture"] == "bitnet"  # what llama.cpp calls it
    assert after["bitnet.hidden_activation"] == "relu2"
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.pre"):
        assert after[name] == before[name]
    assert after["bitnet.rope.freq_base"] == before["bitnet-b1.58.rope.freq_base"]
    want = Engine(source).encode(TEXTS)
    if kind is None:
        np.testing.assert_array_equal(Engine(out).encode(TEXTS), want)
    else:
        assert relative_error(Engine(out, "ternary").encode(TEXTS), want) < 0.05


def test_ternary_keeps_what_is_ternary_and_rounds_by_the_mean() -> None:
    exact = np.array([[0.3, -0.3, 0.0]], np.float32)
    assert ternary(exact) is exact
    np.testing.assert_allclose(ternary(np.array([[3.0, -1.0, 0.5, 0.1]])), np.array([[1.15, -1.15, 0.0, 0.0]]))


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama().save_pretrained(tmp_path / "source")
    out = tmp_path / "out"
    out.mkdir()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bitrl.plugins.backbones.files.gguf_writing.seal", full)
    with pytest.raises(RunFailed, match="no space left"):
        convert(tmp_path / "source", out / "m.gguf")
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # what a full disk does, at the first weights
    try:
        with pytest.raises(RunFailed, match="cannot be written: File too large"):
            convert(tmp_path / "source", out / "m.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("build", "changes", "said"),
    [
        (gemma3, {"query_pre_attn_scalar": 12}, []),
        (gemma3, {"query_pre_attn_scalar": 20}, ["scales attention"]),
        (bitnet, {"hidden_act": "silu", "tie_word_embeddings": True}, []),
        (bitnet, {"hidden_act": "relu2", "tie_word_embeddings": True}, ["takes SiLU"]),
        (bitnet, {"hidden_act": "silu", "tie_word_embeddings": False}, ["output.weight"]),
    ],
)
def test_what_llama_cpp_computes_differently_is_reported(
    tmp_path: Path, build: Any, changes: dict[str, Any], said: list[str]
) -> None:
    build(**changes).save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    told = convert(tmp_path, tmp_path / "m.gguf", "f32")
    assert len(told) == len(said)
    assert all(part in line for part, line in zip(said, told, strict=True))


@pytest.mark.parametrize("missing", [["pre_tokenizer"], ["model", "type"], ["added_tokens"]])
def test_a_tokenizer_that_leaves_out_what_it_may_is_converted(tmp_path: Path, missing: list[str]) -> None:
    """Llama 2's has no pre_tokenizer: it was called a vocabulary that does not fit the model."""
    llama().save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    if missing[0] == "pre_tokenizer":
        said["pre_tokenizer"] = None
    else:
        (said[missing[0]] if missing[1:] else said).pop(missing[-1])
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    lacks = convert(tmp_path, tmp_path / "m.gguf")
    assert [lack.partition(",")[0] for lack in lacks] == ["llama.cpp cannot read its tokenizer"] * (
        missing == ["pre_tokenizer"]
    )
    assert Engine(tmp_path / "m.gguf").encode(TEXTS).shape == (2, 48)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"general.architecture": 5}, "does not name its architecture"),
        ({"general.architecture": None}, "does not name its architecture"),
        ({"general.tags": []}, "has an empty array, general.tags"),
    ],
)
def test_keys_that_cannot_be_written_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    source = TinyModel(blocks=1).write(tmp_path / "a.gguf", changes=changes)
    with pytest.raises(ModelFileError, match=rf"^{source} {problem}"):
        convert(source, tmp_path / "b.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_odd_names_of_tensors_and_half_a_gemma_are_no_crash(tmp_path: Path) -> None:
    source, out = tmp_path / "a.gguf", tmp_path / "b.gguf"
    keys = {"general.architecture": "gemma3", "gemma3.attention.scale": 0.5, "gemma3.attention.key_length": 0}
    source.write_bytes(gguf_bytes(keys, [("blk", 0, (2, 4), bytes(32))]))
    convert(source, out)
    assert list(tensors_of(out)) == ["blk"]


def test_a_source_cut_off_while_it_is_copied_is_an_error(tmp_path: Path) -> None:
    """Not a signal (SIGBUS), which ended the process: so in one of its own."""
    source = TinyModel(blocks=1, weights="Q8_0").write(tmp_path / "a.gguf")
    program = (
        "import os, sys\n"
        "from bitrl.plugins.backbones.files.model_file import ModelFile\n"
        "from bitrl.plugins.backbones.tools.convert import raw_bytes\n"
        "file = ModelFile(sys.argv[1])\n"
        "os.truncate(sys.argv[1], 8192)\n"
        "raw_bytes(file, 'blk.0.ffn_down.weight').sum()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(source)], capture_output=True, text=True)
    assert done.returncode == 1, done
    assert "changed while it was in use" in done.stderr


def test_a_model_without_a_head_is_reported(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=False)
    model.model.save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    assert convert(tmp_path, tmp_path / "m.gguf") == [
        "it has no head (lm_head.weight), so what generates by it is wrong"
    ]
