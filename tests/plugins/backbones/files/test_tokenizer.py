"""How text is cut, and tokenizers built from a file's metadata."""

import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TinyModel
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.tokenizer import (
    BITRL_PATTERN,
    build_sentencepiece,
    build_tokenizer,
    tokenizer_from_metadata,
)

NUMBER = re.compile(r"-?[0-9]{1,2}\.[0-9]|-?[0-9]{1,3}|\.[0-9]")
SPLIT = pre_tokenizers.Split(Regex(BITRL_PATTERN), behavior="isolated")


def pieces(text: str) -> list[str]:
    return [piece for piece, _ in SPLIT.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            '{"cart_position": 0.031, "joint_3": -12.5, "v": -0.5}',
            ['{"cart_position": ', "0.0", "31", ', "joint_3": ', "-12.5", ', "v": ', "-0.5", "}"],
        ),
        ("x=0.031 theta_dot=-1.0", ["x=", "0.0", "31", " theta_dot=", "-1.0"]),
        (
            "The cart is 0.031 m right, moving at -0.5 m/s.",
            ["The", " cart", " is ", "0.0", "31", " m", " right", ",", " moving", " at ", "-0.5", " m", "/", "s", "."],
        ),
        ("10.05 20.0", ["10.0", "5", " ", "20.0"]),
        ("1234.5 -12345 0.12345", ["12", "34", ".5", " ", "-1", "23", "45", " ", "0.1", "23", "45"]),
        ("It is 1.0. Or 0.", ["It", " is ", "1.0", ".", " Or ", "0", "."]),
        ("[0.1, -0.2, 3]", ["[", "0.1", ", ", "-0.2", ", ", "3", "]"]),
        ("3-0.5", ["3", "-", "0.5"]),
        ('{"mission": "go to"}', ['{"mission": ', '"', "go", " to", '"}']),
        ("a\n\n  b", ["a", "\n\n ", " b"]),
    ],
)
def test_pieces(text: str, want: list[str]) -> None:
    assert pieces(text) == want


@given(st.text(st.characters(codec="utf-8")) | st.text('{}[],": -.0159aZ_=\n'))
def test_cutting_loses_nothing_and_keeps_numbers_to_themselves(text: str) -> None:
    cut = pieces(text)
    assert "".join(cut) == text
    for piece in cut:
        if any(digit in piece for digit in "123456789"):  # only a key may hold digits in one piece with something else
            assert NUMBER.fullmatch(piece) or '":' in piece or piece.endswith("=")


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
        ("model", "bert", "'bert'"),
        ("tokens", None, "no usable vocabulary"),
        ("tokens", ["a", "b"], "byte tokens"),
        ("merges", ["nonsense"], "nonsense"),
        ("merges", 5, "no usable vocabulary"),
        ("pre", "klingon", "klingon"),
        ("pre", 7, "7"),
        ("token_type", np.ones(7, np.int32), "tokens but 7 types"),
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
    ("pre", "want"), [("gpt-2", ["ab", "12"]), ("llama-bpe", ["ab", "12"]), ("bitrl-2", ["ab", "12"])]
)
def test_other_ways_of_cutting(pre: str, want: list[str]) -> None:
    keys = TinyModel().keys()
    tokenizer = tokenizer_from_metadata(keys | {"tokenizer.ggml.pre": pre}, "some.gguf")
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("ab12")] == want


# How the published tokenizer.json of each family cuts text, written as such a file has it.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTE_LEVEL | {"use_regex": True}
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


PUBLISHED = {
    "gpt-2": (None, GPT2),
    "smollm": (None, {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}),
    "llama-bpe": (
        None,
        {"type": "Sequence", "pretokenizers": [split(WORDS + r"|\p{N}{1,3}|" + REST), BYTE_LEVEL]},
    ),
    "qwen2": (
        {"type": "NFC"},
        {"type": "Sequence", "pretokenizers": [split(WORDS + r"|\p{N}|" + REST), BYTE_LEVEL]},
    ),
}
SCRAPS = [
    "The",
    "cart",
    "isn't",
    "WE'LL",
    "I'm",
    "   ",
    "\n\n",
    "\t",
    " ",
    "12",
    "3456",
    "0.031",
    "-1.25e-3",
    "Ünïcödé",
    "日本語",
    "𝟙𝟚",
    "½",
    "Ⅷ",
    "٣٤",
    "e\u0301",
    "😀",
    "_x1",
    "joint_3",
    '{"a": 1}',
    "don’t",
    "--",
    "...",
    "\r\n",
    "\xa0",
    "\u3000",
    "3.14159",
    "x=",
    "π≈",
    "кот",
    "नमस्ते",
    "ﬁ",
    "<",
    "im_end",
    ">",
    "\x01",
    "a\u030a\u0323",
]


def texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(SCRAPS) + rng.choice(["", " ", "", " ", "  "]) for _ in range(rng.randint(1, 12)))
        for _ in range(count)
    ]


def llama_cpps_default(text: str) -> list[str]:
    """Its four expressions one after another, each within the pieces that the former left."""
    import regex

    pieces = [text]
    for step in (
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ):
        cut = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(step, piece):
                cut += [piece[at : match.start()], match[0]]
                at = match.end()
            cut.append(piece[at:])
        pieces = [piece for piece in cut if piece]
    return pieces


def test_a_file_that_does_not_say_how_is_cut_by_llama_cpps_default_unless_it_is_a_bitnet() -> None:
    keys = TinyModel(architecture="llama").keys()
    del keys["tokenizer.ggml.pre"]
    plain = tokenizer_from_metadata(keys, "some.gguf").pre_tokenizer
    said = tokenizer_from_metadata(keys | {"tokenizer.ggml.pre": "default"}, "some.gguf").pre_tokenizer
    bitnet = tokenizer_from_metadata(keys | {"general.architecture": "bitnet-b1.58"}, "some.gguf").pre_tokenizer
    llama = tokenizer_from_metadata(keys | {"tokenizer.ggml.pre": "llama-bpe"}, "some.gguf").pre_tokenizer
    for text in [*texts(3, 200), "12345 3.1415 don't (x+y) a\n\nb"]:
        cut = [text[slice(*place)] for _, place in plain.pre_tokenize_str(text)]
        assert cut == llama_cpps_default(text)
        assert plain.pre_tokenize_str(text) == said.pre_tokenize_str(text)
        assert bitnet.pre_tokenize_str(text) == llama.pre_tokenize_str(text)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "default", "bitrl-2"])
def test_user_defined_tokens_are_found_as_tokenizer_json_finds_them(pre: str) -> None:
    """`<think>` of a reasoning model; control tokens stay text, and of two the longer one is found."""
    keys = TinyModel(architecture="llama").keys() | {"tokenizer.ggml.pre": pre}
    own = ["<think>", "<think>s", "</think>", "<|im_end|>"]
    tokens = keys["tokenizer.ggml.tokens"] + own
    types = np.array([1] * (len(tokens) - 4) + [4, 4, 4, 3], np.int32)
    ours = tokenizer_from_metadata(
        keys | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}, "some.gguf"
    )
    for text in ("a<think>b</think>", "<think>st", " <think> ", "<thin", "<|im_end|>x"):
        want, at = [], 0
        for match in re.finditer("<think>s|<think>|</think>", text):
            want += [*ours.encode(text[at : match.start()]).ids, tokens.index(match[0])]
            at = match.end()
        assert ours.encode(text).ids == want + ours.encode(text[at:]).ids
    assert tokens.index("<|im_end|>") not in ours.encode("<|im_end|>").ids


def test_the_names_of_the_same_cutting() -> None:
    from bitrl.plugins.backbones.files.tokenizer import ALIASES, pre_tokenizer

    assert {"falcon3", "llama-v3", "pixtral"} <= set(ALIASES["llama-bpe"])
    assert {"refact", "starcoder"} <= set(ALIASES["smollm"])
    assert "deepseek-r1-qwen" in ALIASES["qwen2"]
    for ours, names in ALIASES.items():
        for text in texts(4, 20):
            want = pre_tokenizer(ours).pre_tokenize_str(text)
            assert all(pre_tokenizer(name).pre_tokenize_str(text) == want for name in names)


@pytest.mark.parametrize("pre", PUBLISHED)
def test_text_is_cut_as_the_published_tokenizers_cut_it(pre: str) -> None:
    """A vocabulary learned with no cutting at all, so that a piece's border shows in the ids wherever it matters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(texts(0, 500), trainer)
    model = json.loads(trained.to_str())["model"]
    normalizer, cutting = PUBLISHED[pre]
    file = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": cutting,
        "post_processor": None,
        "decoder": None,
        "model": model | {"ignore_merges": pre == "llama-bpe"},
    }
    want = Tokenizer.from_str(json.dumps(file))
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
    }
    ours = tokenizer_from_metadata(keys, "some.gguf")
    for text in texts(1, 1500):
        assert ours.encode(text).ids == want.encode(text).ids, text


def sentencepiece(seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """A random SentencePiece vocabulary: tokens, scores, types."""
    rng = random.Random(seed)
    tokens = ["<pad>", "<unk>", "<ctl>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [3, 2, 3, *[6] * 256]
    tokens += ["  ", "▁▁▁▁", "<table>"]  # user-defined, their spaces written either way
    types += [4, 4, 4]
    pieces = list("abcdeé.x0123▁<>l")
    while len(pieces) < 200:
        piece = rng.choice(pieces) + rng.choice(pieces)
        if piece not in pieces and "▁▁" not in piece and len(piece) < 9:
            pieces.append(piece)
    scores = [0.0] * len(tokens) + [-float(i) for i in rng.sample(range(1000), len(pieces))]
    return tokens + pieces, np.array(scores, np.float32), np.array(types + [1] * len(pieces), np.int32)


def plain_sentencepiece(text: str, tokens: list[str], scores: np.ndarray, types: np.ndarray) -> list[int]:
    """SentencePiece's BPE as it is defined: join the best-scored pair of neighbours, the leftmost first, until none
    is a piece; what was user-defined stands for itself.
    """
    text = text.replace(" ", "▁")
    ids = {token.replace(" ", "▁"): i for i, token in enumerate(tokens)}
    own = sorted((token for token, i in ids.items() if types[i] == 4), key=len, reverse=True)
    found, at = [], 0
    runs: list[list[str]] = [[]]
    while at < len(text):
        whole = next((token for token in own if text.startswith(token, at)), None)
        if whole:
            runs += [[whole], []]
        else:
            runs[-1].append(text[at])
        at += len(whole or text[at])
    for run in runs:
        while True:
            joined = [
                (scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(run)) if types[ids.get(a + b, 0)] == 1
            ]
            if not joined:
                break
            i = -max(joined)[1]
            run[i : i + 2] = [run[i] + run[i + 1]]
        for piece in run:
            found += [ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_sentencepiece_vocabularies(seed: int) -> None:
    vocabulary = sentencepiece(seed)
    tokenizer = build_sentencepiece(*vocabulary, space_prefix=False)
    rng = random.Random(seed)
    for _ in range(400):
        text = "".join(
            rng.choices([*"abcdeé.x0123 <>l", "日", "<table>", "<ctl>", "<0x61>", "    "], k=rng.randint(0, 14))
        )
        assert tokenizer.encode(text).ids == plain_sentencepiece(text, *vocabulary), text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_space_is_put_before_the_text_where_the_file_asks_for_it() -> None:
    tokens, scores, types = sentencepiece()
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
    }
    never = tokenizer_from_metadata(keys | {"tokenizer.ggml.add_space_prefix": False}, "some.gguf")
    for flag in ({}, {"tokenizer.ggml.add_space_prefix": True}):
        tokenizer = tokenizer_from_metadata(keys | flag, "some.gguf")
        assert tokenizer.encode("").ids == []
        for text in ("abc", "a.x0 b", "日e"):
            assert tokenizer.encode(text).ids == never.encode(" " + text).ids
            assert tokenizer.decode(tokenizer.encode(text).ids) == text
            assert [text[slice(*place)] for place in tokenizer.encode(text).offsets][-1] == text[-1]


def change(name: str, value: object):
    return lambda keys: keys | {f"tokenizer.ggml.{name}": value}


def first(name: str, value: object):
    def patch(keys: dict) -> dict:
        values = keys[f"tokenizer.ggml.{name}"].copy()
        values[values.index("<0x41>") if name == "tokens" else 5] = value
        return keys | {f"tokenizer.ggml.{name}": values}

    return patch


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (first("tokens", "<0x-1>"), "'<0x-1>' names no byte"),
        (first("tokens", "<0x41"), "names no byte"),
        (first("tokens", "<0x42>"), "twice"),
        (first("tokens", "\n" * 60), "names no byte"),
        (first("scores", np.nan), "score of token 5 is not a finite number"),
        (first("scores", np.inf), "not a finite number"),
        (first("token_type", 1), None),
        (change("scores", np.zeros(7, np.float32)), "462 tokens but 7 scores"),
        (change("scores", None), "no scores"),
        (change("scores", ["1"] * 462), "no scores"),
        (change("scores", np.zeros(462, np.int32)), "no scores"),
        (change("token_type", np.zeros(461, np.int32)), "461 types"),
        (change("token_type", None), "no types"),
        (change("token_type", np.zeros(462, np.float32)), "no types"),
        (change("tokens", None), "no usable vocabulary"),
        (change("tokens", []), "0 tokens but 462 scores"),
        (change("tokens", np.zeros(462, np.int32)), "no usable vocabulary"),
    ],
)
def test_broken_sentencepiece_vocabularies_are_errors(patch, words: str | None) -> None:
    tokens, scores, types = sentencepiece()
    tokens += ["a1", "b1", "c1"][: 462 - len(tokens)]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
    }
    assert len(tokens) == 462
    if words is None:
        assert tokenizer_from_metadata(patch(keys), "some.gguf").get_vocab_size() == 462
        return
    with pytest.raises(ModelFileError, match=words) as caught:
        tokenizer_from_metadata(patch(keys), "some.gguf")
    assert str(caught.value).startswith("some.gguf has ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_piece_too_long_to_take_apart_is_an_error() -> None:
    tokens, scores, types = sentencepiece()
    with pytest.raises(ValueError, match="longer than 512"):
        build_sentencepiece([*tokens[:-1], "a" * 1_000_000], scores, types)
