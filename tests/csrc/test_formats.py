"""One model in every format: against a float64 twin of the same arithmetic, and on every instruction set."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine, formats, instruction_sets

FORMATS = ("ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32")
# Codes and sums are exact and all else is double precision: what is left is float32's rounding of the features. The
# products of floats round to float32 after each of `columns` additions; in bf16 that now and then takes an activation
# to its neighbour, 2^-8 away, in fp8 more seldom, 2^-4 away.
TOLERANCE = {"ternary": 1e-6, "ternary-1.6": 1e-6, "int8": 1e-6, "int4": 1e-6, "fp8": 1e-3, "bf16": 1e-3, "fp32": 1e-5}
TYPES = {"F32": "fp32", "F16": "bf16", "BF16": "bf16", "Q8_0": "int8", "Q4_0": "int4", "Q4_1": "int8"}
SHAPES = {
    "starter": {"width": 256, "ffn": 768, "blocks": 2, "weights": "F32"},
    "odd": {"width": 48, "ffn": 80, "blocks": 2, "weights": "F32"},
    "odder": {"width": 36, "ffn": 50, "blocks": 1, "heads": 3, "kv_heads": 1, "weights": "F16"},
    "ternary": {"width": 256, "ffn": 256, "blocks": 1},
    "Q8_0": {"width": 64, "ffn": 96, "blocks": 1, "weights": "Q8_0"},
    "Q4_1": {"width": 64, "ffn": 96, "blocks": 1, "weights": "Q4_1"},
    # With input norms: without a norm, what a text's first token attends to is its own integer sums, whose ratios fall
    # on exact ties between two codes, and the twin's last bit decides.
    "qwen3": {
        "architecture": "qwen3", "width": 48, "ffn": 80, "blocks": 2, "head_dim": 20, "input_norms": True,
        "weights": "F32",
    },
    "gemma3": {
        "architecture": "gemma3", "width": 48, "ffn": 80, "blocks": 2, "head_dim": 20, "window": 9, "every": 2,
        "input_norms": True, "weights": "F32",
    },
}  # fmt: skip


def texts(model: TinyModel) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, model.vocabulary, n).tolist() for n in (21, 1, 2, 50, 7, 13)]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states_match_the_twin(tmp_path: Path, name: str, format: str) -> None:
    model = TinyModel(**SHAPES[name])
    engine = Engine(model.write(tmp_path / "model.gguf"), format)
    assert engine.format == format
    batch = texts(model)
    want = np.concatenate([model.forward(text, format)[-1] for text in batch])
    assert relative_error(engine.encode(batch, "none"), want) < TOLERANCE[format]


@pytest.mark.parametrize("format", FORMATS)
def test_features_do_not_depend_on_batch_threads_or_instruction_set(tmp_path: Path, format: str) -> None:
    model = TinyModel(width=48, ffn=80, blocks=2, weights="F32")
    path = model.write(tmp_path / "model.gguf")
    batch = texts(model)
    alone = Engine(path, format, threads=1, isa="scalar")
    want = np.concatenate([alone.encode([text]) for text in batch])
    for isa in instruction_sets():
        for threads in (1, 3):
            engine = Engine(path, format, threads=threads, isa=isa)
            np.testing.assert_array_equal(engine.encode(batch), want)
            np.testing.assert_array_equal(engine.encode(batch[::-1] * 3), np.tile(want[::-1], (3, 1)))


@pytest.mark.parametrize("weights", TYPES)
def test_a_file_is_run_as_what_it_holds(tmp_path: Path, weights: str) -> None:
    model = TinyModel(width=64, ffn=96, blocks=1, weights=weights)
    path = model.write(tmp_path / "model.gguf")
    engine = Engine(path)
    assert engine.format == TYPES[weights]
    batch = texts(model)
    np.testing.assert_array_equal(engine.encode(batch), Engine(path, TYPES[weights]).encode(batch))
    exact = np.concatenate([model.forward(text, "fp32")[-1].mean(0, keepdims=True) for text in batch])
    # Weights err by 0.2 %, 0.8 % and 9 % of their size in bf16, int8 and int4; two products and a square enlarge that.
    largest = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.05, "int4": 0.5}[engine.format]
    assert relative_error(engine.encode(batch), exact) < largest


def test_a_ternary_file_keeps_its_weights_in_every_format(tmp_path: Path) -> None:
    """-1, 0, 1 times a scale has an exact place in all of them; only bf16 must round that scale."""
    model = TinyModel(ffn=256, blocks=1)
    path = model.write(tmp_path / "model.gguf", "TQ2_0")
    assert Engine(path).format == "ternary"
    batch = texts(model)
    want = Engine(path).encode(batch)
    for format in ("int8", "int4"):
        assert relative_error(Engine(path, format).encode(batch), want) < 1e-6
    assert relative_error(Engine(path, "fp32").encode(batch), want) < 0.05  # it does not quantise activations


@pytest.mark.parametrize("weights", ["Q8_0", "F16"])
def test_a_file_of_ternary_and_other_matrices_loses_neither(tmp_path: Path, weights: str) -> None:
    model = TinyModel(ffn=256, blocks=1, weights=weights)
    model.dense = {name: values for name, values in model.dense.items() if "ffn_down" in name}
    engine = Engine(model.write(tmp_path / "model.gguf", "TQ2_0"))
    assert engine.format == "int8"
    batch = texts(model)
    exact = np.concatenate([model.forward(text, "fp32")[-1].mean(0, keepdims=True) for text in batch])
    assert relative_error(engine.encode(batch), exact) < 0.05  # activations in 8 bits


def test_four_bits_with_a_step_for_each_block_beat_one_for_each_row() -> None:
    """Why int4 is what it is: with a step a row, one outlier costs the whole row its precision."""
    model = TinyModel(blocks=1, weights="F32")
    raw, values = model.dense["blk.0.attn_q.weight"]
    values = values.copy()
    values[:, 7] *= 10
    model.dense["blk.0.attn_q.weight"] = (raw, values)
    step = np.abs(values).max(1, keepdims=True) / 7
    by_row = np.round(values / step) * step
    by_block = model.matrix("blk.0.attn_q.weight", "int4").numpy()
    assert relative_error(by_block, values) < 0.5 * relative_error(by_row, values)


def test_rows_of_zeros_and_zero_matrices(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1, weights="F32")
    for name, row in (("blk.0.attn_q.weight", 0), ("blk.0.ffn_up.weight", 79)):
        model.dense[name][1][row] = 0
    model.dense["blk.0.attn_v.weight"][1][:] = 0
    model.dense = {name: (values.tobytes(), values) for name, (_, values) in model.dense.items()}
    path = model.write(tmp_path / "model.gguf")
    batch = texts(model)
    for format in FORMATS:
        want = np.concatenate([model.forward(text, format)[-1] for text in batch])
        assert relative_error(Engine(path, format).encode(batch, "none"), want) < TOLERANCE[format]


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    assert tuple(formats()) == FORMATS
    path = TinyModel(width=48, ffn=80, blocks=1).write(tmp_path / "model.gguf")
    with pytest.raises(UsageError, match=r"known: ternary, ternary-1\.6, int8, int4, fp8, bf16, fp32"):
        Engine(path, "int3")
