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
from bitrl.plugins.backbones.engine.engine import Engine, formats, instruction_sets, open_model
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.language_policy import engine_weights
from bitrl.plugins.backbones.training.decoder_file import read_decoder
from bitrl.plugins.backbones.training.products import QUANTISERS, codes_of

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


def plain(folder: Path, **more: Any) -> tuple[TinyModel, Path]:
    model = TinyModel(**SHAPE | {"width": 48, "ffn": 80, "weights": "F32"} | more)
    return model, model.write(folder / "m.gguf")


def stored(values: np.ndarray, format: str) -> np.ndarray:
    """What a format stores of each weight, as torch quantises it: codes, or bits."""
    weights = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if format == "fp32":
        return weights.view(torch.int32).numpy()
    if format == "bf16":
        return weights.bfloat16().view(torch.int16).numpy()
    codes, _ = codes_of(weights, format.split("-")[0])
    return (codes.view(torch.int8) if format == "fp8" else codes).numpy()


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("format", formats())
def test_codes_that_an_update_changes_are_counted(tmp_path: Path, format: str, head: bool) -> None:
    """Of the matrices that are multiplied: the head's too, once it is there, in its own format."""
    model, path = plain(tmp_path)
    engine, rng = Engine(path, format, threads=2), np.random.default_rng(0)
    if head:
        engine.generate([[1]], 1)
    before = {name: values for name, (_, values) in model.dense.items()} | {"token_embd.weight": model.embedding}
    assert engine.replace_all(before).changed == 0
    for size in (0.003, 0.3):  # a few of them, and nearly all
        after = {}
        for name, values in before.items():
            update = rng.normal(size=values.shape) * np.abs(values).mean() * size
            after[name] = (values + update * (rng.random(values.shape) < 0.5)).astype(np.float32)
        of_head = "int8" if format in QUANTISERS or format == "ternary-1.6" else format
        counted = {name: of_head if name == "token_embd.weight" else format for name in before}
        if not head:
            del counted["token_embd.weight"]
        differ = [(stored(before[name], how) != stored(after[name], how)).sum() for name, how in counted.items()]
        replaced = engine.replace_all({**after, "output_norm.weight": np.full(48, size)})
        assert (replaced.codes, replaced.changed) == (sum(after[name].size for name in counted), sum(differ))
        assert replaced.changed > 0
        before = after


@pytest.mark.parametrize("format", formats())
def test_stochastic_rounding_depends_on_the_seed_alone(tmp_path: Path, format: str) -> None:
    model, path = plain(tmp_path, architecture="llama")
    weights = {name: values * np.float32(1.01) for name, (_, values) in model.dense.items()}
    nearest = Engine(path, format, threads=1)
    nearest.replace_all(weights)
    found = {}
    for seed in (0, 2**64 - 1):
        for isa, threads in [("auto", 1), ("auto", 3), *((isa, 2) for isa in instruction_sets())]:
            engine = Engine(path, format, threads=threads, isa=isa)
            for part in (weights, dict(reversed(weights.items()))):  # in whatever order they are given
                engine.replace_all(part, rounding_seed=seed)
                got = engine.encode(TEXTS, "none")
                np.testing.assert_array_equal(got, found.setdefault(seed, got))
    if format == "fp32":
        np.testing.assert_array_equal(found[0], nearest.encode(TEXTS, "none"))
    else:
        assert (found[0] != found[2**64 - 1]).any()
        assert (found[0] != nearest.encode(TEXTS, "none")).any()


def test_rows_and_tensors_are_rounded_independently(tmp_path: Path) -> None:
    """Two seeds round a weight of fraction f differently with the probability 2 f (1 - f): of equal rows in two equal
    tensors, as many as of independent ones."""
    _, path = plain(tmp_path)
    engine = Engine(path, "int8", threads=1)
    row = np.concatenate([[127.0], np.random.default_rng(0).uniform(-126, 126, 47)]).astype(np.float32)
    weights = {f"blk.{i}.{name}.weight": np.tile(row, (80, 1)) for i in range(2) for name in ("ffn_gate", "ffn_up")}
    share = row - np.floor(row)
    chance = np.tile(2 * share * (1 - share), 320)
    for seed in range(20):
        engine.replace_all(weights, rounding_seed=2 * seed)
        changed = engine.replace_all(weights, rounding_seed=2 * seed + 1).changed
        assert abs(changed - chance.sum()) < 5 * (chance * (1 - chance)).sum() ** 0.5


def on_the_grid(shape: tuple[int, int], format: str, rng: np.random.Generator) -> np.ndarray:
    """Weights that a format can hold, with steps that are powers of two."""
    if format.startswith("ternary"):
        return rng.integers(-1, 2, shape) * np.float32(0.25)
    if format == "int8":
        values = rng.integers(-127, 128, shape) / np.float32(256)
        values[:, 0] = 127 / 256
    elif format == "int4":
        values = rng.integers(-7, 8, shape) * np.float32(17 / 1024)
        values[:, ::32] = 7 * 17 / 1024
    elif format == "fp8":
        values = np.ldexp(rng.integers(-15, 16, shape).astype(np.float32), rng.integers(-9, 5, shape))
        values[:, 0] = 448
    else:
        values = np.ldexp(rng.integers(-255, 256, shape).astype(np.float32), rng.integers(-20, 5, shape))
    return values.astype(np.float32)


@pytest.mark.parametrize("format", formats())
def test_weights_on_the_grid_are_not_moved_by_stochastic_rounding(tmp_path: Path, format: str) -> None:
    model, path = plain(tmp_path)
    engine, rng = Engine(path, format, threads=2), np.random.default_rng(1)
    weights = {name: on_the_grid(values.shape, format, rng) for name, (_, values) in model.dense.items()}
    assert engine.replace_all(weights).changed > 0
    want = engine.encode(TEXTS, "none")
    for seed in range(5):
        assert engine.replace_all(weights, rounding_seed=seed).changed == 0
        np.testing.assert_array_equal(engine.encode(TEXTS, "none"), want)
