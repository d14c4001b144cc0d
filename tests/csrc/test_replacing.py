"""`replace` does to weights what loading does: those of the file, put in their own place, change no bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face_models import add_tokenizer, bitnet, gemma3, llama, packed, qwen3
from tiny_models import TinyModel, gguf_bytes

from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine, open_model
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.language_policy import engine_weights
from bitrl.plugins.backbones.training.decoder_file import read_decoder

TEXTS = [[1, 5, 299, 200, 4, 4, 17], [7]]
SHAPE: dict[str, Any] = {"width": 256, "ffn": 256, "blocks": 2, "heads": 4, "kv_heads": 2, "context": 32}


def tiny(architecture: str, weights: str | None = None, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: TinyModel(**SHAPE, architecture=architecture, weights=weights, **more).write(
        folder / "m.gguf"
    )


def saved(make: Callable[[], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        make().save_pretrained(folder)
        return folder

    return write


def with_scales(folder: Path) -> Path:
    """A BitNet file whose matrices have scales in tensors of their own, as `model convert` writes packed ones."""
    model = TinyModel(**SHAPE)
    path = model.write(folder / "plain.gguf")
    a, b = "bitnet-b1.58.", "bitnet."
    keys = {name.replace(a, b): value for name, value in model.keys().items()}
    keys |= {"general.architecture": "bitnet", "bitnet.hidden_activation": "relu2"}
    file, rng = ModelFile(path), np.random.default_rng(3)
    whole = [(tensor.name, 0, tensor.shape, file.weights(tensor.name).tobytes()) for tensor in file.tensors()]
    scales = [
        (name.replace(".weight", ".scale"), 0, (1,), np.float32(rng.uniform(0.2, 3)).tobytes())
        for name, _, shape, _ in whole
        if len(shape) == 2 and name.startswith("blk.")
    ]
    path.write_bytes(gguf_bytes(keys, whole + scales))
    return path


def packed_bitnet(folder: Path) -> Path:
    packed(bitnet(), folder, "autobitlinear")
    return folder


FILES: dict[str, Callable[[Path], Path]] = {
    "bitnet, I2_S": tiny("bitnet-b1.58"),
    "bitnet, TQ2_0": lambda folder: TinyModel(**SHAPE).write(folder / "m.gguf", "TQ2_0"),
    "bitnet, own scales": with_scales,
    "bitnet, packed safetensors": packed_bitnet,
    "llama, F16": tiny("llama", "F16"),
    "llama, Q8_0": tiny("llama", "Q8_0"),
    "llama, input norms": tiny("llama", input_norms=True),
    "llama, safetensors": saved(llama),
    "qwen3, Q4_0": tiny("qwen3", "Q4_0", head_dim=32),
    "qwen3, safetensors": saved(qwen3),
    "gemma3, BF16": tiny("gemma3", "BF16", head_dim=32, window=3, every=2),
    "gemma3, input norms": tiny("gemma3", head_dim=32, window=3, every=2, input_norms=True),
    "gemma3, safetensors": saved(gemma3),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("format", [None, "int8"])
def test_a_files_own_weights_in_their_place_change_nothing(tmp_path: Path, name: str, format: str | None) -> None:
    path = FILES[name](tmp_path)
    engine = Engine(path, format, threads=1)
    want, said = engine.encode(TEXTS, "none"), engine.generate(TEXTS, 3)
    replaced = 0
    for tensor in engine.tensors:
        if tensor.name.endswith(".scale"):
            continue
        weights = engine.file.weights(tensor.name)
        engine.replace(tensor.name, weights)
        np.testing.assert_array_equal(engine.encode(TEXTS, "none"), want, tensor.name)
        replaced += 1
        if tensor.name == "blk.0.attn_norm.weight":  # it is not that nothing was put there
            engine.replace(tensor.name, weights[::-1] + 0.5)
            assert (engine.encode(TEXTS, "none") != want).any()
            engine.replace(tensor.name, weights)
    assert replaced > 15
    for got, before in zip(engine.generate(TEXTS, 3), said, strict=True):
        np.testing.assert_array_equal(got.tokens, before.tokens)
        np.testing.assert_array_equal(got.logprobs, before.logprobs)


@pytest.mark.parametrize("name", ["gemma3, safetensors", "llama, F16", "bitnet, own scales"])
def test_what_learns_gives_the_engine_weights_as_the_file_holds_them(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    engine = Engine(path, threads=1)
    file = open_model(path)
    decoder = read_decoder(file, engine.format, learns=True)
    with torch.no_grad():
        weights = dict(engine_weights(decoder))
    for tensor, values in weights.items():
        np.testing.assert_allclose(values, file.weights(tensor), rtol=1e-6, atol=1e-7, err_msg=tensor)


def test_a_checkpoint_that_learns_is_the_same_model_after_a_step_of_zero(tmp_path: Path) -> None:
    """A policy pushes what differs from what it read; here, every norm."""
    path = FILES["gemma3, safetensors"](tmp_path)
    add_tokenizer(tmp_path)
    model = LanguageModel(LanguageModelOptions(model=str(path), threads=1), format="fp32")
    policy = model.language_policy()
    want = model.engine.encode(TEXTS)
    module = policy.module()
    with torch.no_grad():
        for norm, weight in module.named_parameters():
            if "norm" in norm:
                weight.mul_(1 + 2**-20)
    policy.sync()
    got = model.engine.encode(TEXTS)
    assert (got != want).any()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
