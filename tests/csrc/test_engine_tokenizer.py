"""The engine's tokenizer beside the tokenizers library, with whose tokens it must agree."""

import ctypes
import random

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

import bitrl
from bitrl import _engine
from bitrl.plugins.backbones.engine.tokenizing import EngineTokenizer
from bitrl.plugins.backbones.files.byte_vocabulary import byte_vocabulary
from bitrl.plugins.backbones.files.tokenizer import build_tokenizer

LETTER, DIGIT, NUMERIC = 1, 2, 3


def both(tokenizer):
    """A tokenizer of the library's, and the same of the engine's."""
    return tokenizer, EngineTokenizer(byte_vocabulary(tokenizer))


@pytest.fixture(scope="module")
def starter():
    return both(bitrl.load_backbone("bitnet", layers=1).tokenizer)


def check(pair, *texts: str) -> None:
    """The texts, read together, are the library's tokens, which end where the library says."""
    ids, ends = pair[1].tokenize([text.encode() for text in texts])
    for text, own, at in zip(texts, ids, ends, strict=True):
        encoding = pair[0].encode(text, add_special_tokens=False)
        assert own == encoding.ids, text
        if text.isascii():
            assert at == [end for _, end in encoding.offsets], text


STATES = st.text(st.sampled_from('{}[]",: ._-=+eE\n0123456789abcdefinlpstuvxyzAT'), max_size=60)
NUMBERS = st.lists(
    st.sampled_from(["-", ".", " ", ",", "0", "12", "345", "9999", "1" * 66, "e-5", "x=", '"a": ']), max_size=12
)


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.text(max_size=40), STATES, NUMBERS.map("".join)))
@example('{"cart_position": -0.031, "cart_velocity": 12.520, "pole_angle": 123456.012}')
@example("The cart is right of the centre by 0.031 m, moving left at 0.520 m/s.")
@example("the  fridge is\topen. \r\n　x")
@example("-" * 70 + "é—ß‿文字１２")
def test_tokens_are_those_of_the_library(starter, text) -> None:
    check(starter, text)


def test_phrases_are_found_first_and_the_longest_of_them(starter) -> None:
    phrases = [token.content for token in starter[0].get_added_tokens_decoder().values()]
    assert len(phrases) > 50
    rng = random.Random(0)
    for _ in range(100):
        words = [rng.choice([*phrases, "12.5", " ", "{", "go to", phrases[0][:-1]]) for _ in range(4)]
        check(starter, "".join(words))


def test_long_pieces_take_no_square_of_their_length(starter) -> None:
    for text in ("ab" * 5_000, " !" * 2_000, "9" * 2_000, '"' * 3_000):
        check(starter, text)


def test_merges_of_random_vocabularies_are_those_of_the_library() -> None:
    """Few letters and many merges: candidates go stale in the queue. Half of the bytes are no tokens."""
    rng = random.Random(0)
    printable = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ"]
    for _ in range(30):
        tokens, merges = list(printable), []
        while len(merges) < 40:
            left, right = (rng.choice([*"abc", *tokens[95:]]) for _ in range(2))
            if left + right not in tokens:
                tokens.append(left + right)
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
        tokenizer = build_tokenizer(tokens, merges)
        pair = both(tokenizer)
        for _ in range(20):
            check(pair, "".join(rng.choice("abcabcé ") for _ in range(rng.randrange(30))))


def test_characters_are_of_the_kinds_that_the_libraries_say() -> None:
    library = ctypes.CDLL(_engine.__file__)
    codes = [*range(0x80, 0x1800), *random.Random(0).sample(range(0x1800, 0x110000), 3_000)]
    codes = [code for code in codes if not 0xD800 <= code < 0xE000]
    for pattern, matches in (
        (r"\p{L}", lambda code: library.kind_of_character(code) == LETTER),
        (r"\s", library.is_white_space),
    ):
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
        others = {piece for text, _ in split.pre_tokenize_str("".join(map(chr, codes))) for piece in text}
        library.is_white_space.restype = ctypes.c_bool
        wrong = [hex(code) for code in codes if bool(matches(code)) != (chr(code) not in others)]
        assert not wrong, (pattern, wrong[:10])
    kinds = {"aZé文": LETTER, "09٣": DIGIT, "²Ⅷ½": NUMERIC, "_ ": 0}
    for characters, kind in kinds.items():
        assert {library.kind_of_character(ord(character)) for character in characters} == {kind}, characters


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), STATES), max_size=6))
def test_texts_of_a_batch_see_nothing_of_each_other(starter, texts) -> None:
    check(starter, *texts)


def test_a_vocabulary_that_contradicts_itself_is_refused(starter) -> None:
    found = byte_vocabulary(starter[0])
    same, none = np.frombuffer(b"abcb", np.uint8), np.zeros(0, np.uint32)
    with pytest.raises(ValueError, match="has a token twice"):
        EngineTokenizer(evolve(found, token_lengths=np.ones(4, np.uint8), token_bytes=same, phrases=none, merges=none))
    with pytest.raises(ValueError, match="fewer bytes than its tokens"):
        EngineTokenizer(evolve(found, token_bytes=same))
