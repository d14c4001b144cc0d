"""Numbers read in a few directions of their states: as a product in float64 says, wherever they are read."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.directions import read, written
from bitrl.plugins.backbones.language_model import LanguageModel, language_model
from bitrl.plugins.backbones.tools.model_memory import int8

WIDTH, FIELDS = 48, 3
TEXTS = ["x=1 y=2 z=30", "", "x=1 y=2 z=4", "x=5 y=-2 z=0.125", *(f"{i} {i * i} {-i}" for i in range(40))]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(width=WIDTH, ffn=80).write(tmp_path_factory.mktemp("directions") / "tiny.gguf")


@pytest.fixture(scope="module")
def text() -> str:
    return written(np.random.default_rng(3).normal(size=(2, WIDTH)))


def model(path: Path, **options: Any) -> LanguageModel:
    return LanguageModel(LanguageModelOptions(model=str(path), pooling="field", **options), FIELDS)


def expected(whole: LanguageModel, text: str) -> np.ndarray:
    """What directions make of states that a model gives side by side, in float64."""
    states = whole.encode(TEXTS).reshape(len(TEXTS), FIELDS, WIDTH).astype(np.float64)
    product: np.ndarray = states @ read(text, WIDTH).T.astype(np.float64)
    return product.reshape(len(TEXTS), -1)


def test_directions_are_of_length_one_and_as_near_as_eight_bits_are(text: str) -> None:
    rows = np.random.default_rng(3).normal(size=(2, WIDTH))
    found = read(text, WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_allclose((found.astype(np.float64) ** 2).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=0.01)
    assert written(found) == text  # which is a fixed point: nothing is lost again


@pytest.mark.parametrize(
    "wrong", ["", "####", "AQID", base64.b64encode(bytes(WIDTH)).decode(), base64.b64encode(bytes([1] * 49)).decode()]
)
def test_what_are_no_directions_of_this_model_is_refused(path: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match=r"backbone\.directions: expected base64 of int8 \[count, 48\]"):
        model(path, directions=wrong)


@pytest.mark.parametrize("beside", [{"pooling": "mean"}, {"pooling": None}, {"projection": 8}])
def test_directions_are_refused_where_nothing_is_read_in_them(path: Path, text: str, beside: dict[str, object]) -> None:
    options: dict[str, Any] = {"model": str(path), "pooling": "field", "directions": text, **beside}
    with pytest.raises(UsageError, match=r"backbone\.directions: each number's state is read in them"):
        LanguageModel(LanguageModelOptions(**options), FIELDS)


def test_features_are_each_numbers_state_in_each_direction(path: Path, text: str) -> None:
    whole, some = model(path), model(path, directions=text)
    assert some.width == FIELDS * 2
    others = model(path, directions=written(read(text, WIDTH)[::-1]))
    assert len({each.identity["directions"] for each in (whole, some, others)}) == 3
    states = whole.encode(TEXTS).reshape(len(TEXTS), FIELDS, WIDTH).astype(np.float64)
    found = some.encode(TEXTS)
    np.testing.assert_allclose(
        found, (states @ read(text, WIDTH).T.astype(np.float64)).reshape(-1, 6), rtol=1e-5, atol=1e-6
    )
    assert not found[1].any()
    alone = [model(path, directions=text, cache_mb=0).encode([each])[0] for each in TEXTS]
    np.testing.assert_array_equal(found, alone)


def test_a_memory_limit_counts_the_features_that_there_will_be(path: Path, text: str) -> None:
    options = LanguageModelOptions(model=str(path), pooling="field", directions=text)
    assert int8(options, FIELDS).width == model(path, directions=text).width == 6


def test_chunks_have_their_numbers_side_by_side(path: Path, text: str) -> None:
    states = model(path, chunk=2).encode(TEXTS).reshape(len(TEXTS), FIELDS, WIDTH).astype(np.float64)
    found = model(path, chunk=2, directions=text).encode(TEXTS)
    np.testing.assert_allclose(
        found, (states @ read(text, WIDTH).T.astype(np.float64)).reshape(-1, 6), rtol=1e-5, atol=1e-6
    )


def test_adapters_learn_through_directions(path: Path, text: str) -> None:
    import torch

    options = LanguageModelOptions(model=str(path), pooling="field", directions=text, lora_rank=2)
    learning: Any = language_model(options, FIELDS, "ternary")
    features = learning.module()(TEXTS)
    np.testing.assert_allclose(features.detach().numpy(), learning.encode(TEXTS), rtol=1e-4, atol=1e-5)
    features.square().sum().backward()
    gradients = [each.grad for each in learning.module().parameters() if each.grad is not None]
    assert any(bool(torch.any(each != 0)) for each in gradients)
