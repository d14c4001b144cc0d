"""Low-rank adapters beside a model's projections: against float64, against merged weights, and bit for bit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import MATRICES, TinyModel

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine, formats, instruction_sets
from bitrl.plugins.backbones.files.model_file import ModelFileError

SHAPE: dict[str, Any] = {"width": 48, "ffn": 80, "heads": 4, "kv_heads": 2, "blocks": 2}
MODELS: dict[str, dict[str, Any]] = {
    "bitnet": {},
    "llama": {"architecture": "llama"},
    "qwen3": {"architecture": "qwen3", "head_dim": 24},
    "input norms": {"architecture": "qwen3", "input_norms": True},
    "gemma3": {"architecture": "gemma3", "window": 5, "every": 2},
}
TEXTS = [[1, 2, 3, 4, 5, 299], [1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, *range(30)]]
Q = "blk.0.attn_q.weight"


def with_adapters(model: TinyModel, ranks: tuple[int, ...] = (1, 5, 16, 17, 2, 33, 8), seed: int = 0) -> TinyModel:
    """The model with an adapter for every projection, each of another rank, about as large as its product."""
    rng = np.random.default_rng(seed)
    adapters = {}
    for i, (name, (codes, _)) in enumerate(model.ternary.items()):
        rows, columns = codes.shape
        rank = min(ranks[i % len(ranks)], rows, columns)
        down, up = rng.normal(size=(rank, columns)) / columns**0.5, rng.normal(size=(rows, rank)) / rank**0.5
        adapters[name] = down.astype(np.float32), up.astype(np.float32)
    return dataclasses.replace(model, ternary={}, dense={}, vectors={}, adapters=adapters)


def tiny(name: str, **more: Any) -> TinyModel:
    return with_adapters(TinyModel(**SHAPE | MODELS[name] | more))


def interleaved(model: TinyModel, name: str, rows: np.ndarray) -> np.ndarray:
    """Rows of a projection in the order of a GGUF file, where llama's q and k have the two halves of each head's
    rotation interleaved."""
    if model.architecture != "llama" or name.split(".")[2] not in ("attn_q", "attn_k"):
        return rows
    halves = rows.reshape(-1, 2, model.head_dim // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write(model: TinyModel, path: Path) -> Path:
    """The file of a model of float32 weights."""

    def patch(name: str, data: bytes) -> bytes:
        if name not in model.ternary:
            return data
        values = np.frombuffer(data, np.float32).reshape(model.ternary[name][0].shape)
        return interleaved(model, name, values).tobytes()

    return model.write(path, "F32", patch=patch)


def adapt(engine: Engine, model: TinyModel) -> Engine:
    for name, (down, up) in model.adapters.items():
        engine.adapt(name, down, interleaved(model, name, up))
    return engine


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)


@pytest.mark.parametrize("format", ["fp32", "ternary"])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_a_plain_float64_pass(tmp_path: Path, name: str, format: str) -> None:
    model = tiny(name)
    engine = adapt(Engine(write(model, tmp_path / "model.gguf"), format, threads=2), model)
    states = [model.forward(text, format) for text in TEXTS]
    close(engine.encode(TEXTS, "none"), np.concatenate([blocks[-1] for blocks in states]), 1e-5)
    blocks = engine.encode_blocks(TEXTS)
    for i in range(model.blocks):
        close(blocks[i], np.concatenate([state[i + 1] for state in states]), 1e-5)
    np.testing.assert_array_equal(blocks[-1], engine.encode(TEXTS, "none"))


@pytest.mark.parametrize("matrix", MATRICES)
def test_each_projection_takes_an_adapter_of_its_own(tmp_path: Path, matrix: str) -> None:
    """Most of those that share an input have none here."""
    model = tiny("bitnet")
    model.adapters = {name: both for name, both in model.adapters.items() if name == f"blk.1.{matrix}.weight"}
    engine = Engine(write(model, tmp_path / "model.gguf"), threads=1, format="int8")
    before = engine.encode(TEXTS, "none")
    got = adapt(engine, model).encode(TEXTS, "none")
    close(got, np.concatenate([model.forward(text, "int8")[-1] for text in TEXTS]), 1e-5)
    assert np.linalg.norm(got - before) > 1e-3 * np.linalg.norm(before)


@pytest.mark.parametrize("name", MODELS)
def test_features_and_tokens_are_those_of_merged_weights(tmp_path: Path, name: str) -> None:
    model = tiny(name, weights="F32")
    path = write(model, tmp_path / "model.gguf")
    merged, adapted = Engine(path, threads=1), adapt(Engine(path, threads=1), model)
    for tensor, (down, up) in model.adapters.items():
        weights = model.dense[tensor][1] + up.astype(np.float64) @ down
        merged.replace(tensor, interleaved(model, tensor, weights))
    close(adapted.encode(TEXTS, "none"), merged.encode(TEXTS, "none"), 1e-5)
    for got, want in zip(adapted.generate(TEXTS, 5, seed=3), merged.generate(TEXTS, 5, seed=3), strict=True):
        np.testing.assert_array_equal(got.tokens, want.tokens)
        np.testing.assert_allclose(got.model_logprobs, want.model_logprobs, atol=1e-3)


@pytest.mark.parametrize("format", formats())
def test_every_instruction_set_thread_count_and_batch_gives_the_same_bits(tmp_path: Path, format: str) -> None:
    model = with_adapters(TinyModel(**SHAPE | {"width": 96, "heads": 3, "kv_heads": 1}), (70, 3, 16, 64, 1, 80, 65))
    path = write(model, tmp_path / "model.gguf")
    want = None
    for isa in instruction_sets():
        for threads in (1, 3):
            engine = adapt(Engine(path, format, threads=threads, isa=isa), model)
            together = engine.encode(TEXTS * 3, "none")
            alone = np.concatenate([engine.encode([text], "none") for text in TEXTS])
            np.testing.assert_array_equal(together, np.concatenate([alone] * 3))
            want = alone if want is None else want
            np.testing.assert_array_equal(alone, want)


def test_an_up_of_zeros_changes_no_bit_and_no_adapter_is_left_behind(tmp_path: Path) -> None:
    model = tiny("bitnet")
    engine = Engine(write(model, tmp_path / "model.gguf"), threads=2)
    before, bytes_before = engine.encode(TEXTS, "none"), engine.bytes_per_token
    for name, (down, up) in model.adapters.items():
        engine.adapt(name, down, np.zeros_like(up))
    np.testing.assert_array_equal(engine.encode(TEXTS, "none"), before)
    adapt(engine, model)
    assert (engine.encode(TEXTS, "none") != before).any()
    assert engine.bytes_per_token > bytes_before + sum(down.nbytes + up.nbytes for down, up in model.adapters.values())
    engine.unadapt()
    np.testing.assert_array_equal(engine.encode(TEXTS, "none"), before)
    assert engine.bytes_per_token == bytes_before


def test_an_adapter_takes_the_place_of_the_one_before_whatever_its_rank(tmp_path: Path) -> None:
    """On one engine, whose working memory grows and then is larger than it need be."""
    path = write(tiny("qwen3"), tmp_path / "model.gguf")
    engine = Engine(path, threads=1)
    for seed, rank in enumerate((2, 48, 1)):
        model = with_adapters(TinyModel(**SHAPE | MODELS["qwen3"]), (rank,), seed)
        fresh = adapt(Engine(path, threads=1), model)
        np.testing.assert_array_equal(adapt(engine, model).encode(TEXTS), fresh.encode(TEXTS))


@pytest.mark.parametrize("format", ["fp32", "int4"])
def test_adapters_stay_when_weights_are_replaced(tmp_path: Path, format: str) -> None:
    model, other = tiny("llama", weights="F32"), tiny("llama", weights="F32", seed=1)
    engine = adapt(Engine(write(model, tmp_path / "model.gguf"), format, threads=1), model)
    engine.encode(TEXTS)
    for name, (_, values) in other.dense.items():
        engine.replace(name, interleaved(other, name, values))
    for name, vector in other.vectors.items():
        engine.replace(name, vector)
    engine.replace("token_embd.weight", other.embedding)
    fresh = adapt(Engine(write(other, tmp_path / "other.gguf"), format, threads=1), model)
    np.testing.assert_array_equal(engine.encode(TEXTS), fresh.encode(TEXTS))


def extend(engine: Engine, cache: Any, tokens: list[int]) -> str | np.ndarray:
    """The logits, or what is wrong."""
    logits, error = np.empty(engine.vocabulary, np.float32), ffi.new("char[256]")
    status = lib.bitrl_extend(
        engine.session, ffi.new("bitrl_cache *[]", [cache]), ffi.new("int32_t[]", tokens),
        ffi.new("uint64_t[]", [len(tokens)]), 1, ffi.from_buffer("float[]", logits, require_writable=True), error,
    )  # fmt: skip
    return logits if status == lib.BITRL_OK else ffi.string(error).decode()


def open_cache(engine: Engine) -> Any:
    cache = ffi.new("bitrl_cache **")
    assert lib.bitrl_cache_open(engine.model, 50, cache, ffi.new("char[256]")) == lib.BITRL_OK
    return ffi.gc(cache[0], lib.bitrl_cache_close)


def test_a_sequence_read_in_pieces_is_the_sequence_read_at_once(tmp_path: Path) -> None:
    model = tiny("gemma3")
    engine = adapt(Engine(write(model, tmp_path / "model.gguf"), threads=2), model)
    engine.generate([[1]], 1)  # makes the head ready
    pieces, whole = open_cache(engine), open_cache(engine)
    for piece in ([1], [2, 3, 4], list(range(20))):
        logits = extend(engine, pieces, piece)
    np.testing.assert_array_equal(logits, extend(engine, whole, [1, 2, 3, 4, *range(20)]))


CHANGES: dict[str, Callable[[Engine, TinyModel], object]] = {
    "adapt": lambda engine, model: adapt(engine, model),
    "unadapt": lambda engine, model: engine.unadapt(),
    "replace": lambda engine, model: engine.replace("output_norm.weight", np.full(model.width, 2.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_kept_sequence_of_other_weights_is_refused_until_it_is_read_again(tmp_path: Path, change: str) -> None:
    model = tiny("bitnet")
    engine = Engine(write(model, tmp_path / "model.gguf"), threads=1)
    engine.generate([[1]], 1)
    kept, copy, error = open_cache(engine), open_cache(engine), ffi.new("char[256]")
    assert not isinstance(extend(engine, kept, [1, 2, 3]), str)
    CHANGES[change](engine, model)
    assert lib.bitrl_cache_copy(copy, kept, 2, error) == lib.BITRL_OK
    for cache in (kept, copy):
        assert "weights that have been changed since" in extend(engine, cache, [4])
    assert lib.bitrl_cache_cut(kept, 0, error) == lib.BITRL_OK
    np.testing.assert_array_equal(extend(engine, kept, [1, 2, 3, 4]), extend(engine, open_cache(engine), [1, 2, 3, 4]))


def test_a_sequence_forgets_tokens_that_gave_no_finite_numbers(tmp_path: Path) -> None:
    model = tiny("bitnet")
    engine = Engine(write(model, tmp_path / "model.gguf"), threads=1)
    engine.generate([[1]], 1)
    down, up = model.adapters[Q]
    engine.adapt(Q, np.full_like(down, 3e38), np.full_like(up, 3e38))
    kept = open_cache(engine)
    assert "not finite" in extend(engine, kept, [1, 2, 3])
    engine.unadapt()
    np.testing.assert_array_equal(extend(engine, kept, [4, 5]), extend(engine, open_cache(engine), [4, 5]))


def test_what_texts_begin_with_is_forgotten_when_adapters_change(tmp_path: Path) -> None:
    model = tiny("bitnet")
    path = write(model, tmp_path / "model.gguf")
    engine = Engine(path, threads=1)
    before = engine.encode(TEXTS)  # keeps the five tokens in common
    np.testing.assert_array_equal(
        adapt(engine, model).encode(TEXTS), adapt(Engine(path, threads=1), model).encode(TEXTS)
    )
    engine.unadapt()
    np.testing.assert_array_equal(engine.encode(TEXTS), before)


@pytest.mark.parametrize("threads", [1, 3])
def test_features_beyond_all_floats_are_an_error_that_leaves_nothing_behind(tmp_path: Path, threads: int) -> None:
    model = tiny("bitnet")
    engine = Engine(write(model, tmp_path / "model.gguf"), threads=threads)
    for name, (down, up) in list(model.adapters.items())[:7]:  # of codes and scores that hide it, too
        engine.adapt(name, np.full_like(down, 3e38), np.full_like(up, 3e38))
        for texts in (TEXTS, TEXTS, [[7], *TEXTS]):  # with a beginning in common, which is not kept, and without
            with pytest.raises(ModelFileError, match="not finite"):
                engine.encode(texts)
        with pytest.raises(ModelFileError, match="not finite"):
            engine.generate(TEXTS, 1)
        engine.unadapt()
    fresh = adapt(Engine(engine.path, threads=1), model)
    np.testing.assert_array_equal(adapt(engine, model).encode(TEXTS), fresh.encode(TEXTS))


@pytest.mark.parametrize(
    ("name", "down", "up", "problem"),
    [
        (Q, (2, 48), (48, 3), r"down \[rank, in\] and up \[out, rank\], got down \[2, 48\] and up \[48, 3\]"),
        (Q, (48,), (48, 1), r"got down \[48\] and up \[48, 1\]"),
        (Q, (2, 47), (48, 2), r"down \[rank, 48\] and up \[48, rank\], got down \[2, 47\] and up \[48, 2\]"),
        ("blk.1.ffn_down.weight", (2, 48), (80, 2), r"down \[rank, 80\] and up \[48, rank\], got down \[2, 48\]"),
        (Q, (0, 48), (48, 0), "a rank from 1 to 48, got 0"),
        ("blk.0.attn_k.weight", (25, 48), (24, 25), "a rank from 1 to 24, got 25"),
        ("blk.2.attn_q.weight", (2, 48), (48, 2), "a projection of one of the 2 blocks"),
        ("blk.0.attn_norm.weight", (1, 48), (1, 1), "such as blk.0.attn_q.weight"),
        ("token_embd.weight", (2, 48), (300, 2), "token_embd.weight: expected a projection"),
        ("attn_q", (2, 48), (48, 2), "attn_q: expected a projection"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_a_line_and_changes_nothing(
    tmp_path: Path, name: str, down: tuple[int, ...], up: tuple[int, ...], problem: str
) -> None:
    model = tiny("bitnet")
    engine = adapt(Engine(write(model, tmp_path / "model.gguf"), threads=1), model)
    before = engine.encode(TEXTS)
    with pytest.raises(UsageError, match=problem) as caught:
        engine.adapt(name, np.ones(down), np.ones(up))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(engine.encode(TEXTS), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_an_adapter_that_is_not_finite_is_refused(tmp_path: Path, part: int, value: float) -> None:
    model = tiny("bitnet")
    engine = adapt(Engine(write(model, tmp_path / "model.gguf"), threads=1), model)
    before, parts = engine.encode(TEXTS), [matrix.copy() for matrix in model.adapters[Q]]
    parts[part][-1, -1] = value
    with pytest.raises(UsageError, match=r"blk\.0\.attn_q\.weight: expected finite values"):
        engine.adapt(Q, *parts)
    np.testing.assert_array_equal(engine.encode(TEXTS), before)
