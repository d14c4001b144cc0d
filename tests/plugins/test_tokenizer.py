"""How text is cut, and tokenizers built from a file's metadata."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TinyModel
from tokenizers import Regex, pre_tokenizers

from bitrl.plugins.backbones.model_file import ModelFileError
from bitrl.plugins.backbones.tokenizer import BITRL_PATTERN, build_tokenizer, tokenizer_from_metadata

SPLIT = pre_tokenizers.Split(Regex(BITRL_PATTERN), behavior="isolated")


def pieces(text: str) -> list[str]:
    return [piece for piece, _ in SPLIT.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            '{"cart_position": 0.031, "joint_3": -12.5, "v": -0.5}',
            [
                '{"cart_position": ',
                "0.",
                "0",
                "3",
                "1",
                ', "joint_3": ',
                "-",
                "1",
                "2",
                ".",
                "5",
                ', "v": ',
                "-0.",
                "5",
                "}",
            ],
        ),
        ("x=0.031 theta_dot=-1.0", ["x=", "0.", "0", "3", "1", " theta_dot=", "-", "1", ".", "0"]),
        (
            "The cart is 0.031 m right, moving at -0.5 m/s.",
            [
                "The",
                " cart",
                " is ",
                "0.",
                "0",
                "3",
                "1",
                " m",
                " right",
                ",",
                " moving",
                " at ",
                "-0.",
                "5",
                " m",
                "/",
                "s",
                ".",
            ],
        ),
        ("10.05 20.0", ["1", "0", ".", "0", "5", " ", "2", "0", ".", "0"]),
        ("It is 1.0. Or 0.", ["It", " is ", "1", ".", "0", ".", " Or ", "0", "."]),
        ("[0.1, -0.2, 3]", ["[", "0.", "1", ", ", "-0.", "2", ", ", "3", "]"]),
        ("3-0.5", ["3", "-", "0.", "5"]),
        ('{"mission": "go to"}', ['{"mission": ', '"', "go", " to", '"}']),
        ("a\n\n  b", ["a", "\n\n ", " b"]),
    ],
)
def test_pieces(text: str, want: list[str]) -> None:
    assert pieces(text) == want


@given(st.text(st.characters(codec="utf-8")) | st.text('{}[],": -.0159aZ_=\n'))
def test_cutting_loses_nothing_and_isolates_digits(text: str) -> None:
    cut = pieces(text)
    assert "".join(cut) == text
    for piece in cut:
        if any(digit in piece for digit in "123456789"):  # only a key may hold digits in one piece with something else
            assert len(piece) == 1 or '":' in piece or piece.endswith("=")


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_survives_encoding_and_decoding(text: str) -> None:
    keys = TinyModel(vocabulary=300).keys()
    tokenizer = build_tokenizer(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.merges"])
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_hostile_text_takes_linear_time() -> None:
    for unit in ('"a', "{[, ", "a1", " ", "-0", '"a b', "_="):
        assert "".join(pieces(unit * 50_000)) == unit * 50_000


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", None, "has no tokenizer"),
        ("model", "llama", "'llama'"),
        ("tokens", None, "no usable vocabulary"),
        ("tokens", ["a", "b"], "byte tokens"),
        ("merges", ["nonsense"], "nonsense"),
        ("merges", 5, "no usable vocabulary"),
        ("pre", "klingon", "klingon"),
        ("pre", 7, "7"),
    ],
)
def test_broken_vocabularies_are_errors(key: str, value: object, words: str) -> None:
    keys = TinyModel().keys() | {f"tokenizer.ggml.{key}": value}
    keys = {name: value for name, value in keys.items() if value is not None}
    with pytest.raises(ModelFileError, match=words) as caught:
        tokenizer_from_metadata(keys, "some.gguf")
    assert str(caught.value).startswith("some.gguf ")


def test_a_token_twice_is_an_error() -> None:
    keys = TinyModel().keys()
    keys["tokenizer.ggml.tokens"].append("a")
    with pytest.raises(ModelFileError, match="twice"):
        tokenizer_from_metadata(keys, "some.gguf")


@pytest.mark.parametrize(
    ("pre", "want"), [("gpt-2", ["ab", "12"]), ("llama-bpe", ["ab", "12"]), ("bitrl", ["ab", "1", "2"])]
)
def test_other_ways_of_cutting(pre: str, want: list[str]) -> None:
    keys = TinyModel().keys()
    tokenizer = tokenizer_from_metadata(keys | {"tokenizer.ggml.pre": pre}, "some.gguf")
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("ab12")] == want
