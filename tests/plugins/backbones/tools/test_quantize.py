"""Quantised files against the gguf package's own types, and their losses against a twin in float64."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hugging_face_models import llama
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.tools.quantize import ALIASES, loses, quantize

SMALL = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
NAME, THEIRS = "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    llama(**SMALL).save_pretrained(folder)
    return folder


def twin(weights: np.ndarray, kind: str) -> np.ndarray:
    """Quantised and back, in float64."""
    if kind == "ternary":
        mean = np.abs(weights).mean()
        return np.clip(np.rint(weights / mean), -1, 1) * mean
    blocks = weights.reshape(-1, 32)
    if kind == "int8":
        step = np.abs(blocks).max(1, keepdims=True) / 127
        return (np.rint(blocks / step) * step).reshape(weights.shape)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    step = largest / -8
    return (np.clip(np.floor(blocks / step + 8.5), 0, 15) - 8).reshape(weights.shape) * np.repeat(step, 32).reshape(
        weights.shape
    )


@pytest.mark.parametrize("kind", ["ternary", "int8", "int4"])
def test_the_loss_is_that_of_a_float64_twin_and_the_bytes_are_the_gguf_packages(
    source: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "m.gguf"
    made = quantize(source, out, kind)
    assert len(made.losses) == 7
    weights = llama(**SMALL).state_dict()[THEIRS].numpy()
    exact = weights.astype(np.float64)
    want = np.linalg.norm(twin(exact, kind) - exact) / np.linalg.norm(exact)
    [loss] = [loss for loss in made.losses if loss.name == NAME]
    assert (loss.before, loss.after) == ("F32", ALIASES[kind].upper())
    assert loss.error == pytest.approx(want, rel=2e-3)  # the file's steps are float16
    [tensor] = [tensor for tensor in gguf.GGUFReader(out).tensors if tensor.name == NAME]
    read = gguf.dequantize(tensor.data, tensor.tensor_type)
    assert loss.error == pytest.approx(np.linalg.norm(read - exact) / np.linalg.norm(exact), rel=1e-6)
    if kind != "ternary":  # of which the package knows the bytes, but not BitNet's scale
        np.testing.assert_array_equal(tensor.data, gguf.quantize(weights, tensor.tensor_type))
    else:
        mean = np.abs(exact).mean()
        codes = (np.clip(np.rint(exact / mean), -1, 1) * mean).astype(np.float32)
        np.testing.assert_array_equal(tensor.data, gguf.quantize(codes, tensor.tensor_type))
    sizes = {loss.name: np.prod(loss.shape) for loss in made.losses}
    assert min(x.error for x in made.losses) <= made.error <= max(x.error for x in made.losses)
    assert sizes[NAME] == weights.size


def test_rows_that_llama_cpp_has_in_another_order_lose_no_more(source: Path, tmp_path: Path) -> None:
    errors = {loss.name: loss.error for loss in quantize(source, tmp_path / "m.gguf", "int8").losses}
    assert errors["blk.0.attn_q.weight"] == pytest.approx(errors["blk.0.attn_output.weight"], rel=0.1)


def test_the_engine_runs_what_was_written_as_it_would_have_at_load(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    quantize(source, out, "ternary")
    tokens = [[1, 5, 299, 200, 4, 17], [7]]
    want = Engine(source, "ternary").encode(tokens)
    got = Engine(out).encode(tokens)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2  # the file's scale is float16


def test_embeddings_are_quantised_only_when_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    quantize(source, out, "int8")
    assert {t.name: t.type for t in ModelFile(out).tensors()}["token_embd.weight"] == "F32"
    made = quantize(source, out, "int8", embeddings="q8_0")
    assert {t.name: t.type for t in ModelFile(out).tensors()}["token_embd.weight"] == "Q8_0"
    [loss] = [loss for loss in made.losses if loss.name == "token_embd.weight"]
    assert 0 < loss.error < 0.02
    assert Engine(out).encode([[1, 2]]).shape == (1, 256)


def test_a_quantised_source_is_refused_unless_forced(source: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    quantize(source, once, "int4")
    with pytest.raises(UsageError, match=r"quantised already \(Q4_0\)"):
        quantize(once, twice, "ternary")
    assert not twice.exists()
    assert {loss.after for loss in quantize(once, twice, "ternary", again=True).losses} == {"TQ2_0"}
    ternary = TinyModel().write(tmp_path / "ternary.gguf")
    with pytest.raises(UsageError, match="quantised already"):
        quantize(ternary, twice, "int8")


def test_what_would_quantise_floats_is_known(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    quantize(source, out, "ternary")
    assert loses(source, "q8_0")
    assert not loses(source, "bf16")
    assert not loses(out, "tq1_0")  # -1, 0, 1 either way


@pytest.mark.parametrize(
    ("kind", "embeddings", "message"),
    [("int9", None, 'did you mean "int8"'), ("int8", "tq2_0", "unknown type of embeddings")],
)
def test_unknown_types_are_refused(
    source: Path, tmp_path: Path, kind: str, embeddings: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(source, tmp_path / "m.gguf", kind, embeddings)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)  # rows of 48
    with pytest.raises(UsageError, match="needs a multiple of 256: choose another --type"):
        quantize(tmp_path, tmp_path / "m.gguf", "ternary")
    assert not (tmp_path / "m.gguf").exists()
