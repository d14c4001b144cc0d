"""The engine's forward pass against a plain float64 implementation of the same quantised arithmetic."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine, instruction_sets

SETS = instruction_sets()
SHAPES = {
    "starter": ({"width": 256, "ffn": 768, "blocks": 4, "heads": 4, "kv_heads": 2}, "TQ2_0"),
    "odd": ({"width": 48, "ffn": 80, "blocks": 3, "heads": 4, "kv_heads": 2}, "I2_S"),
    "narrow heads": ({"width": 16, "ffn": 16, "blocks": 2, "heads": 8, "kv_heads": 8, "theta": 500000.0}, "I2_S"),
    "one key head": ({"width": 640, "ffn": 1728, "blocks": 1, "heads": 5, "kv_heads": 1}, "I2_S"),
    "qwen3 embedding": (
        {"architecture": "qwen3", "input_norms": True, "width": 48, "ffn": 80, "blocks": 3, "heads": 4, "kv_heads": 2,
         "head_dim": 24, "eps": 1e-6, "theta": 1e6},
        "I2_S",
    ),
    "gemma3 embedding": (
        {"architecture": "gemma3", "input_norms": True, "width": 80, "ffn": 64, "blocks": 4, "heads": 2, "kv_heads": 1,
         "head_dim": 32, "eps": 1e-6, "theta": 1e6, "window": 9, "every": 3},
        "I2_S",
    ),
    "gemma3 embedding as converted": (  # bitnet.cpp's converter names no window: llama.cpp then has none
        {"architecture": "gemma3", "input_norms": True, "width": 64, "ffn": 96, "blocks": 2, "heads": 4, "kv_heads": 4,
         "eps": 1e-6},
        "I2_S",
    ),
}  # fmt: skip


def texts(model: TinyModel, seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = (21, 1, 2, 3, 50, 7, 8, 9, 64, 33, 13)
    return [rng.integers(0, model.vocabulary, n).tolist() for n in lengths]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name", SHAPES)
def test_every_block_matches_float64(tmp_path: Path, name: str) -> None:
    options, kind = SHAPES[name]
    model = TinyModel(**options)
    path = model.write(tmp_path / "model.gguf", kind)
    batch = texts(model)
    states = [model.forward(text) for text in batch]
    for layers in range(1, model.blocks + 1):
        got = Engine(path, layers=layers, threads=2).encode(batch, "none")
        want = np.concatenate([state[layers] for state in states])
        # Free-running: the engine's double precision keeps every 8-bit activation on the code float64 gives it,
        # so what is left is the rounding of the result to float32.
        assert relative_error(got, want) < 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_features_do_not_depend_on_batch_threads_or_instruction_set(tmp_path: Path, name: str) -> None:
    options, kind = SHAPES[name]
    model = TinyModel(**options)
    path = model.write(tmp_path / "model.gguf", kind)
    batch = texts(model)
    alone = Engine(path, threads=1, isa="scalar")
    want = np.concatenate([alone.encode([text]) for text in batch])
    for isa in SETS:
        for threads in (1, 2, 5):
            engine = Engine(path, threads=threads, isa=isa)
            assert engine.isa == isa
            np.testing.assert_array_equal(engine.encode(batch), want)
            np.testing.assert_array_equal(engine.encode(batch[::-1] * 3), np.tile(want[::-1], (3, 1)))


def test_pooling(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    engine = Engine(model.write(tmp_path / "model.gguf"), threads=2)
    batch = [*texts(model), []]
    states = np.split(engine.encode(batch, "none"), np.cumsum([len(text) for text in batch])[:-1])
    means, lasts = engine.encode(batch, "mean"), engine.encode(batch, "last")
    for text, state, mean, last in zip(batch, states, means, lasts, strict=True):
        assert len(state) == len(text)
        if text:
            np.testing.assert_allclose(mean, state.astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(last, state[-1])
        else:
            assert not mean.any()
            assert not last.any()
    assert engine.encode([]).shape == (0, 48)
    assert engine.encode([], "none").shape == (0, 48)
    assert engine.encode([[], []], "none").shape == (0, 48)


def test_a_file_written_by_the_gguf_package(tmp_path: Path) -> None:
    """The tests' own writer and the reader could share a misunderstanding; this file has neither's hand in it."""
    model = TinyModel(blocks=1, ffn=256)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "bitnet-b1.58")
    writer.add_block_count(model.blocks)
    writer.add_embedding_length(model.width)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.eps)
    writer.add_rope_freq_base(model.theta)
    writer.add_context_length(model.context)
    writer.add_tensor("token_embd.weight", model.embedding)
    for name, vector in model.vectors.items():
        writer.add_tensor(name, vector)
    for name, (codes, scale) in model.ternary.items():
        kind = gguf.GGMLQuantizationType.TQ2_0
        writer.add_tensor(name, gguf.quantize(codes * np.float32(scale), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    batch = texts(model)
    got = Engine(tmp_path / "model.gguf").encode(batch, "none")
    assert relative_error(got, np.concatenate([model.forward(text)[-1] for text in batch])) < 1e-6


@pytest.mark.parametrize("architecture", ["bitnet-25", "bitnet"])
def test_other_names_of_the_architecture(tmp_path: Path, architecture: str) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    prefix = "bitnet-b1.58."
    old = {name: value for name, value in model.keys().items() if name.startswith(prefix)}
    changes = dict.fromkeys(old) | {name.replace(prefix, architecture + "."): v for name, v in old.items()}
    path = model.write(tmp_path / "a.gguf", changes={**changes, "general.architecture": architecture})
    reference = Engine(model.write(tmp_path / "b.gguf"))
    activation = "relu2" if architecture == "bitnet" else None  # a name that two models with two activations share
    np.testing.assert_array_equal(
        Engine(path, activation=activation).encode(texts(model)), reference.encode(texts(model))
    )


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_other_embedding_types(tmp_path: Path, kind: str) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    model.embedding = torch.from_numpy(model.embedding).bfloat16().half().numpy()
    half = model.write(tmp_path / "half.gguf")
    raw = torch.from_numpy(model.embedding.astype(np.float32))
    data = raw.bfloat16().view(torch.int16).numpy().tobytes() if kind == "bfloat16" else raw.numpy().tobytes()
    path = model.write(tmp_path / "other.gguf", embedding=(30 if kind == "bfloat16" else 0, data))
    np.testing.assert_array_equal(Engine(path).encode(texts(model)), Engine(half).encode(texts(model)))


def test_wrong_calls(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=2, context=20)
    path = model.write(tmp_path / "model.gguf")
    engine = Engine(path)
    for ids in ([[model.vocabulary]], [[-1]], [[2**40]]):
        with pytest.raises(UsageError, match="vocabulary"):
            engine.encode(ids)
    with pytest.raises(UsageError, match="text 1 has 21 tokens; this model reads at most 20"):
        engine.encode([[1], [1] * 21])
    with pytest.raises(UsageError, match="pooling"):
        engine.encode([[1]], "median")
    with pytest.raises(UsageError, match=f"it has {SETS[0]}"):
        Engine(path, isa="neon9")
    with pytest.raises(UsageError, match=r"model\.gguf has 2 blocks"):
        Engine(path, layers=3)
    with pytest.raises(UsageError, match="layers"):
        Engine(path, layers=0)
    with pytest.raises(UsageError, match="threads"):
        Engine(path, threads=10**6)


def test_one_engine_may_be_called_from_many_threads(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=2)
    engine = Engine(model.write(tmp_path / "model.gguf"), threads=2)
    batches = [texts(model, seed) for seed in range(8)]
    want = [engine.encode(batch) for batch in batches]
    got: dict[int, np.ndarray] = {}
    callers = [
        threading.Thread(target=lambda i=i: got.update({i: engine.encode(batches[i])})) for i in range(len(batches))
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for i, features in enumerate(want):
        np.testing.assert_array_equal(got[i], features)


def test_a_forked_child_can_encode(tmp_path: Path) -> None:
    """Threads do not survive a fork (vector environments fork): the child does the work on its own thread."""
    script = f"""
import os, sys
from bitrl.plugins.backbones.engine.engine import Engine
engine = Engine({str(TinyModel(width=48, ffn=80, blocks=1).write(tmp_path / "model.gguf"))!r}, threads=3)
batch = [[1, 2, 3], [4], [5, 6], [7] * 40]
want = engine.encode(batch).tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if engine.encode(batch).tobytes() == want else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"threads": -1}, "threads: expected 0 to 1024, got -1"),
        ({"threads": 1025}, "threads: expected 0 to 1024, got 1025"),  # which was blamed on the file
        ({"layers": 1 << 70}, "layers: expected 1 to 2147483647, got"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, given: dict[str, Any], problem: str) -> None:
    path = TinyModel(blocks=1).write(tmp_path / "m.gguf")
    with pytest.raises(UsageError, match=f"^{problem}"):
        Engine(path, **given)
