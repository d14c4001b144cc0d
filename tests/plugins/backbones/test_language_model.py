"""The bitnet backbone: text to features, options, identity, errors."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl.core.acting.loading import load_backbone
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFileError, seal
from bitrl.plugins.backbones.language_model import LanguageModel

TEXTS = ['{"cart_position": 0.031, "pole_angle": -1.25}', "x=0.1", "", "Ünïcödé 日本", "The cart is 0.5 m right."]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return TinyModel(width=48, ffn=80, blocks=2, vocabulary=300)


@pytest.fixture(scope="module")
def path(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("bitnet") / "tiny.gguf"))


def test_features_are_those_of_the_tokens(tiny: TinyModel, path: str) -> None:
    backbone = LanguageModel(LanguageModelOptions(model=path))
    features = backbone.encode(TEXTS)
    assert features.shape == (5, 48)
    assert features.dtype == np.float32
    assert backbone.width == 48
    assert not features[2].any()
    for text, feature in zip(TEXTS, features, strict=True):
        if text:
            want = tiny.forward(backbone.tokenizer.encode(text).ids)[-1].mean(0)
            assert np.linalg.norm(feature - want) < 1e-6 * np.linalg.norm(want)
        np.testing.assert_array_equal(backbone.encode([text])[0], feature)
    assert backbone.encode([]).shape == (0, 48)


def test_options_change_features_and_identity(path: str) -> None:
    plain = LanguageModel(LanguageModelOptions(model=path))
    identities = [plain.identity]
    for options in ({"layers": 1}, {"pooling": "last"}, {"projection": 8}):
        other = LanguageModel(LanguageModelOptions(model=path, **options))
        assert other.identity not in identities
        identities.append(other.identity)
        assert other.encode(TEXTS).shape == (5, other.width)
        if other.width == plain.width:
            assert not np.array_equal(other.encode(TEXTS), plain.encode(TEXTS))
    same = LanguageModel(LanguageModelOptions(model=path, threads=3, layers=2))
    assert same.identity == plain.identity
    np.testing.assert_array_equal(same.encode(TEXTS), plain.encode(TEXTS))


def test_weights_may_take_fewer_bits_and_mean_the_same(path: str) -> None:
    plain, dense = (load_backbone("bitnet", path, bits=bits) for bits in ("2", "1.6"))
    assert (plain.engine.format, dense.engine.format) == ("ternary", "ternary-1.6")
    assert dense.identity == plain.identity
    np.testing.assert_array_equal(dense.encode(TEXTS), plain.encode(TEXTS))
    with pytest.raises(UsageError, match=r"backbone\.bits"):
        load_backbone("int8", path, bits="1.6")


@pytest.mark.parametrize(("name", "format"), [("int8", "int8"), ("int4", "int4"), ("bf16", "bf16")])
def test_the_same_model_in_other_formats(path: str, name: str, format: str) -> None:
    other = load_backbone(name, path)
    plain = LanguageModel(LanguageModelOptions(model=path))
    np.testing.assert_array_equal(other.encode(TEXTS), Engine(path, format).encode(plain.tokenize(TEXTS)))
    assert other.identity != plain.identity
    assert other.identity["format"] == format


def test_projection_is_fixed_and_does_not_depend_on_the_batch(path: str) -> None:
    plain, projected = (
        LanguageModel(LanguageModelOptions(model=path)),
        LanguageModel(LanguageModelOptions(model=path, projection=32)),
    )
    assert projected.width == 32
    features = projected.encode(TEXTS)
    assert features.shape == (5, 32)
    np.testing.assert_allclose(features, plain.encode(TEXTS) @ projected.projection, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(projected.projection[0, :3], [0.311837, 0.070738, 0.173016], atol=1e-5)
    for text, feature in zip(TEXTS, features, strict=True):
        np.testing.assert_array_equal(projected.encode([text])[0], feature)
    assert projected.encode([]).shape == (0, 32)


def test_identity_follows_the_file(tiny: TinyModel, tmp_path: Path) -> None:
    a, b = TinyModel(width=48, ffn=80, seed=1), TinyModel(width=48, ffn=80, seed=2)
    identities = []
    for i, model in enumerate((a, b, a)):
        path = model.write(tmp_path / f"{i}.gguf", seal=i < 2)
        if i < 2:
            seal(path)
        identities.append(LanguageModel(LanguageModelOptions(model=str(path))).identity)
    assert identities[0] != identities[1]
    copy = a.write(tmp_path / "copy.gguf", seal=True)
    seal(copy)
    assert LanguageModel(LanguageModelOptions(model=str(copy))).identity == identities[0]


def test_the_files_first_token_is_put_before_every_text(tiny: TinyModel, path: str, tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 7}
    backbone = LanguageModel(LanguageModelOptions(model=str(tiny.write(tmp_path / "bos.gguf", changes=changes))))
    ids = backbone.tokenizer.encode("x=0.1").ids
    np.testing.assert_array_equal(backbone.encode(["x=0.1", ""]), Engine(path).encode([[7, *ids], [7]]))
    for token in (None, 300, "bos"):
        broken = tiny.write(tmp_path / "bad.gguf", changes={**changes, "tokenizer.ggml.bos_token_id": token})
        with pytest.raises(ModelFileError, match="bos_token_id"):
            LanguageModel(LanguageModelOptions(model=str(broken)))


def test_wrong_input(tiny: TinyModel, path: str, tmp_path: Path) -> None:
    backbone = LanguageModel(LanguageModelOptions(model=path))
    with pytest.raises(TypeError, match="list of str, got one str"):
        backbone.encode("x=1")
    with pytest.raises(TypeError, match="int, str"):
        backbone.encode(["x", 1])
    with pytest.raises(TypeError, match="ndarray"):
        backbone.encode(np.zeros((2, 3)))
    with pytest.raises(UsageError, match="surrogate"):
        backbone.encode(["\ud800"])
    for pooling in ("mean", "field"):
        backbone = LanguageModel(LanguageModelOptions(model=path, pooling=pooling), width=1)
        with pytest.raises(UsageError, match=r"a text has 513 tokens, .* at most 512: .*compact.*'111"):
            backbone.encode(["1", "1" * 513])


def test_wrong_files(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path / "missing.gguf")))
    untold = tiny.write(tmp_path / "untold.gguf", changes={"tokenizer.ggml.tokens": None})
    with pytest.raises(ModelFileError, match="vocabulary"):
        LanguageModel(LanguageModelOptions(model=str(untold)))
    tokens = [*tiny.keys()["tokenizer.ggml.tokens"], *(f"extra{i}" for i in range(9))]
    wide = tiny.write(tmp_path / "wide.gguf", changes={"tokenizer.ggml.tokens": tokens})
    with pytest.raises(ModelFileError, match="embeds only 300"):
        LanguageModel(LanguageModelOptions(model=str(wide)))


def test_a_file_with_a_sentencepiece_vocabulary(tiny: TinyModel, path: str, tmp_path: Path) -> None:
    """Such a file asks for a first token unless it says otherwise; the ids are worked out by hand."""
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "x", "=", "1", "▁x", "▁x="]
    changes = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * 262 + [-1.0, -2.0], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, *[6] * 256, *[1] * 6], np.int32),
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.ggml.bos_token_id": 1,
    }
    asked = LanguageModel(LanguageModelOptions(model=str(tiny.write(tmp_path / "spm.gguf", changes=changes))))
    ids = [263, 261, 2 + ord("é".encode()[:1]), 2 + ord("é".encode()[1:])]
    engine = Engine(path)
    np.testing.assert_array_equal(asked.encode(["x=1é", "<s>"])[0], engine.encode([[1, *ids]])[0])
    assert 1 not in asked.tokenizer.encode("<s>").ids
    changes["tokenizer.ggml.add_bos_token"] = False
    without = LanguageModel(LanguageModelOptions(model=str(tiny.write(tmp_path / "without.gguf", changes=changes))))
    np.testing.assert_array_equal(without.encode(["x=1é"]), engine.encode([ids]))
