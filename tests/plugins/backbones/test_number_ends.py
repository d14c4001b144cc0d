"""Where numbers end in a text, and the features made of the states there."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TinyModel

from bitrl.core.acting.loading import load_backbone
from bitrl.core.environments.loading import load_serializer
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.language_model import LanguageModel, count_sketch, language_model
from bitrl.plugins.backbones.number_ends import chunks, number_ends


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return str(TinyModel(width=48, ffn=80).write(tmp_path_factory.mktemp("fields") / "tiny.gguf"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('{"cart_position": 0.031, "joint_3": -12.5, "joint 4": 1e-05, "5": 6}', ["0.031", "12.5", "1e-05", "6"]),
        ('{"a \\" 1": 2, "b": null, "c": "3"}', ["2", "null", "3"]),
        ("x1=0.031 v2=-0.520 theta_dot=+7 t=nan u=-inf", ["0.031", "0.520", "7", "nan", "inf"]),
        ("The arm-2 leans by 0.5 rad, turning at -1.25. It is 3.", ["0.5", "1.25", "3"]),
        ("[.5, 1E+3, 2e, 0.5m]", [".5", "1E+3", "2", "0.5"]),
        ("3-0.5 4/5", ["3", "0.5", "4", "5"]),
        ("nothing here, x3 inf=2 é9", ["2"]),
        ("", []),
    ],
)
def test_numbers(text: str, numbers: list[str]) -> None:
    assert [text[:end][-len(number) :] for end, number in zip(number_ends(text), numbers, strict=True)] == numbers


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9) | st.none(),
    )
)
def test_any_json_object_of_numbers_has_as_many_ends_as_numbers(numbers: dict) -> None:
    text = json.dumps(numbers)
    ends = number_ends(text)
    assert len(ends) == len(numbers)
    for end, value in zip(ends, numbers.values(), strict=True):
        assert text[:end].endswith(json.dumps(value).lstrip("-"))


def test_hostile_text_takes_linear_time() -> None:
    for unit in ('"', '\\"', "a.", "1e", "1.", "-", '" ', "é-"):
        assert len(number_ends(unit * 100_000)) <= 100_000


@pytest.mark.parametrize("serializer", ["json", "natural", "compact", "bins"])
@pytest.mark.parametrize(("env", "count"), [("CartPole-v1", 4), ("Acrobot-v1", 6), ("MountainCar-v0", 2)])
def test_every_number_of_the_serializers_is_found(serializer: str, env: str, count: int) -> None:
    write = load_serializer(serializer, env=env)
    for values in (np.linspace(-1, 1, count), np.zeros(count), np.full(count, np.nan)):
        assert len(number_ends(write(values.astype(np.float32)))) == count


def test_features_are_the_states_at_the_numbers_ends(path: str) -> None:
    backbone = LanguageModel(LanguageModelOptions(model=path, pooling="field"), 2)
    assert backbone.width == 2 * 48
    texts = ['{"x1": 0.037, "y": -1.25}', "a=12 b=7.", "", "Ünïcödé 3 日本 4"]
    features, states = backbone.encode(texts), backbone.tokens(texts)
    assert features.shape == (4, 96)
    assert not features[2].any()
    assert features.dtype == np.float32
    # The tiny model's tokens are single digits, so the one that ends a number is its last digit's; found by hand.
    for row, each, last in ((0, states[0], "75"), (1, states[1], "27"), (3, states[3], "34")):
        tokens = backbone.tokenizer.encode(texts[row]).tokens
        ends = [max(i for i, token in enumerate(tokens) if token == digit) for digit in last]
        np.testing.assert_array_equal(features[row], each[ends].reshape(-1))
    for text, feature in zip(texts, features, strict=True):
        np.testing.assert_array_equal(backbone.encode([text])[0], feature)


def test_a_sketch_adds_each_number_of_the_states_to_one_feature_with_a_sign(path: str) -> None:
    plain, sketched = (
        LanguageModel(LanguageModelOptions(model=path, pooling="field", projection=to), 2) for to in (None, 20)
    )
    texts = ["x=1 y=2", "", "x=-7 y=0.5", *(f"{i} {i * i}" for i in range(80))]
    states, found = plain.encode(texts), sketched.encode(texts)
    assert found.shape == (83, 20)
    assert sketched.sketch is not None
    matrix = np.zeros((96, 20))
    for row, to in enumerate(sketched.sketch):
        matrix[row, to if to >= 0 else -1 - to] = 1 if to >= 0 else -1
    np.testing.assert_allclose(found, states @ matrix, rtol=1e-5, atol=1e-5)
    assert set(np.abs(matrix[:48]).sum(axis=0)) == {2, 3}  # 48 numbers of a state to 20 features, as evenly as can be
    assert abs(int(matrix.sum())) < 30
    np.testing.assert_array_equal(count_sketch(2, 48, 20)[:6], [9, -5, 6, 10, -13, -18])  # the same for ever
    for text, feature in zip(texts, found, strict=True):
        np.testing.assert_array_equal(sketched.encode([text])[0], feature)
    assert sketched.identity != plain.identity
    norms = (found**2).sum(axis=1) / (states**2).sum(axis=1).clip(min=1e-9)
    assert 0.5 < norms[3:].mean() < 2  # squared lengths are kept on average


def test_the_files_first_token_moves_the_places(path: str, tmp_path) -> None:
    changes = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 7}
    model = str(TinyModel(width=48, ffn=80).write(tmp_path / "bos.gguf", changes=changes))
    backbone = LanguageModel(LanguageModelOptions(model=model, pooling="field"), 1)
    [states] = backbone.tokens(["x=5!"])
    assert len(states) == 1 + len(backbone.tokenizer.encode("x=5!").ids)
    np.testing.assert_array_equal(backbone.encode(["x=5!"])[0], states[-2])


def test_tokens_pool_to_the_other_features(path: str) -> None:
    texts = ["x=0.1", "", "the cart"]
    for pooling, pool in (
        ("mean", lambda states: states.mean(0, dtype=np.float64)),
        ("last", lambda states: states[-1]),
    ):
        backbone = LanguageModel(LanguageModelOptions(model=path, pooling=pooling))
        states, features = backbone.tokens(texts), backbone.encode(texts)
        assert [each.shape for each in states] == [(len(backbone.tokenizer.encode(text).ids), 48) for text in texts]
        for i in (0, 2):
            np.testing.assert_allclose(features[i], pool(states[i]), rtol=1e-5, atol=1e-6)
    assert LanguageModel(LanguageModelOptions(model=path)).tokens([]) == []


def test_another_count_of_numbers_is_an_error_that_names_both(path: str) -> None:
    backbone = LanguageModel(LanguageModelOptions(model=path, pooling="field"), 2)
    with pytest.raises(UsageError, match=r"expected 2 numbers in a text, got 3: '1 2 3'"):
        backbone.encode(["1 2", "1 2 3"])
    with pytest.raises(UsageError, match="how many numbers"):
        LanguageModel(LanguageModelOptions(model=path, pooling="field"))
    assert load_backbone("bitnet", path, width=3, pooling="field").width == 3 * 48


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("1 2 3 4", 2, ["1 2", "3 4"]),
        ("1 -2.5 3.", 2, ["1 -2.5", "3."]),
        ('{"x0": 1, "x1": 2, "x2": 3}', 1, ['{"x0": 1', ', "x1": 2', ', "x2": 3}']),
        ('"x1": e-5. 1 2', 8, ['"x1": e-5. 1 2']),
        ("no numbers", 2, ["no numbers"]),
    ],
)
def test_chunks(text: str, count: int, expected: list[str]) -> None:
    assert chunks(text, count) == expected


CHUNKED = ["x=1 y=2 z=30", "", "x=1 y=2 z=4", "x=5 y=-2 z=30"]


def chunked(path: str, **options: object) -> LanguageModel:
    return LanguageModel(LanguageModelOptions(model=path, pooling="field", chunk=2, **options), 3)


def test_chunks_are_read_as_texts_of_their_own(path: str) -> None:
    two, one = (LanguageModel(LanguageModelOptions(model=path, pooling="field"), count) for count in (2, 1))
    first, rest = two.encode(["x=1 y=2", "", "x=1 y=2", "x=5 y=-2"]), one.encode(["z=30", "", "z=4", "z=30"])
    features = chunked(path).encode(CHUNKED)
    np.testing.assert_array_equal(features, np.c_[first, rest])
    alone = [chunked(path, cache_mb=0).encode([text])[0] for text in CHUNKED]
    np.testing.assert_array_equal(features, alone)
    assert len({chunked(path).identity["chunk"], two.identity["chunk"]}) == 2


def test_chunks_are_projected_as_whole_texts_are(path: str) -> None:
    features, model = chunked(path).encode(CHUNKED), chunked(path, projection=20)
    expected = np.zeros((len(CHUNKED), 20))
    for i, to in enumerate(count_sketch(3, 48, 20)):
        expected[:, max(to, -1 - to)] += features[:, i] if to >= 0 else -features[:, i]
    np.testing.assert_allclose(model.encode(CHUNKED), expected, rtol=1e-4, atol=1e-5)


def test_chunks_after_every_block(path: str) -> None:
    model = chunked(path)
    blocks = model.pooled_blocks(CHUNKED, ["mean", "field"], 3)
    assert blocks["mean"].shape == (4, model.engine.blocks, 48)
    np.testing.assert_array_equal(blocks["field"][:, -1], model.encode(CHUNKED))


def test_a_text_longer_than_the_context_is_read_in_chunks(path: str) -> None:
    text = " ".join(["0.5"] * 600)
    whole = LanguageModel(LanguageModelOptions(model=path, pooling="field", projection=8), 600)
    with pytest.raises(UsageError, match="the model reads at most"):
        whole.encode([text])
    model = LanguageModel(LanguageModelOptions(model=path, pooling="field", projection=8, chunk=20), 600)
    assert model.encode([text]).any()


def test_chunks_that_cannot_be_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="texts are cut after their numbers"):
        LanguageModel(LanguageModelOptions(model=path, chunk=2), 3)
    with pytest.raises(UsageError, match="learn from whole texts"):
        language_model(LanguageModelOptions(model=path, pooling="field", chunk=2, lora_rank=1), 3, "ternary")
    with pytest.raises(UsageError, match="expected 3 numbers in a text, got 2"):
        chunked(path).encode(["x=1 y=2"])
