"""Texts as tokens: the engine's and the library's are the same, and what the engine does not read the library does."""

import random
from unittest.mock import patch

import pytest

import bitrl
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.tokenizing import LONGEST, EngineTokenizer
from bitrl.plugins.backbones.files.tokenizer import build_tokenizer
from bitrl.plugins.backbones.number_ends import number_ends
from bitrl.plugins.backbones.text_tokens import TextTokens

TEXTS = [
    "",
    '{"cart_position": -0.031, "cart_velocity": 12.520, "pole_angle": 123456.012}',
    "The cart is right of the centre by 0.031 m, moving left at 0.520 m/s.",
    "x0=1.2 x1=-0.155 x2=1e-5 x3=nan",
    "Lampe: 21.5 °C, −3.5 K",
]


@pytest.fixture(scope="module")
def tokenizer():
    return bitrl.load_backbone("bitnet", layers=1).tokenizer


def expected_places(tokenizer, text):
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, [encoding.char_to_token(end - 1) for end in number_ends(text)]


@pytest.mark.parametrize("ours", [True, False])
def test_ids_and_the_tokens_of_numbers_are_the_librarys(tokenizer, ours) -> None:
    tokens = TextTokens(tokenizer, ours)
    assert tokens.ids(TEXTS) == [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    for texts in (TEXTS, TEXTS[:-1]):  # with a text that is not ASCII, and without
        ends = [number_ends(text) for text in texts]
        assert tokens.located(texts, ends) == [expected_places(tokenizer, text) for text in texts]
    assert tokens.ids([]) == []
    assert tokens.located([], []) == []


def test_the_engine_reads_what_it_can(tokenizer) -> None:
    tokens, long = TextTokens(tokenizer, ours=True), "0.5 " * (LONGEST // 4 + 1)
    with patch.object(EngineTokenizer, "tokenize", autospec=True, side_effect=EngineTokenizer.tokenize) as called:
        tokens.ids(TEXTS)
        assert called.call_count == 1
        assert tokens.ids(["a", long])[1] == tokenizer.encode(long, add_special_tokens=False).ids
        assert called.call_count == 1


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("method", ["ids", "located"])
def test_half_of_a_surrogate_pair_is_refused(tokenizer, ours, method) -> None:
    arguments = [["a", "b\ud800"]] if method == "ids" else [["a", "b\ud800"], [[], []]]
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        getattr(TextTokens(tokenizer, ours), method)(*arguments)


def test_a_tokenizer_that_only_says_it_cuts_so_is_the_librarys() -> None:
    printable = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ"]
    other = build_tokenizer([*printable, "12"], ["1 2"], pre="gpt-2")
    assert TextTokens(other, ours=True).ids(["x=123 12"]) == [other.encode("x=123 12").ids]


def test_characters_that_are_no_tokens_do_not_move_numbers() -> None:
    printable = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ"]
    few = build_tokenizer([*printable, "12"], ["1 2"])
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choice(["12", "0.5", "\n", "\t", "a", " ", "\x00"]) for _ in range(12))
        ends = number_ends(text)
        assert TextTokens(few, ours=True).located([text], [ends]) == [expected_places(few, text)]
