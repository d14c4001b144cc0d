"""A byte-level BPE vocabulary as csrc/tokenizer.c takes it: of a model that cuts texts as bitrl's own do.

Knows which tokenizers of the `tokenizers` library that C file can be in the place of. Does not read texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from attrs import frozen
from tokenizers import Tokenizer, models

from bitrl.plugins.backbones.files.tokenizer import pre_tokenizer

_LONGEST_TOKEN = 255
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of a phrase that is more than its text


@frozen
class ByteVocabulary:
    """Arguments of `bitrl_tokenizer_open`, without the sizes.

    Attributes:
        token_lengths: uint8 [tokens], bytes of each; 0: no plain text gives it.
        token_bytes: uint8, those of all, one after another.
        phrases: uint32, tokens that are found in a text before it is cut.
        merges: uint32 [merges * 3], a left token, a right one, and what they become; the best first.
    """

    token_lengths: np.ndarray
    token_bytes: np.ndarray
    phrases: np.ndarray
    merges: np.ndarray


def byte_vocabulary(tokenizer: Tokenizer) -> ByteVocabulary:
    """The vocabulary of a tokenizer that cuts texts as bitrl's own models do.

    Raises:
        ValueError: it is of another kind, or has tokens that are too long; the message says which.
    """
    whole = json.loads(tokenizer.to_str())
    model = whole["model"]
    ours = Tokenizer(models.BPE(ignore_merges=True))
    ours.pre_tokenizer = pre_tokenizer()
    expected = json.loads(ours.to_str())
    plain = all(whole[part] == expected[part] for part in ("normalizer", "pre_tokenizer"))
    plain = plain and not any(token[flag] for token in whole["added_tokens"] for flag in _FLAGS)
    others = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
    if not plain or others != {name: value for name, value in expected["model"].items() if name in others}:
        raise ValueError(
            "it is no byte-level BPE that cuts texts as bitrl's own models do (tokenizer.ggml.pre bitrl-2)"
        )
    alphabet, phrases = _alphabet(), {token["id"] for token in whole["added_tokens"]}
    tokens: list[bytes] = [b""] * (max(model["vocab"].values()) + 1)
    for token, number in model["vocab"].items():
        if number in phrases:
            tokens[number] = token.encode()
        else:
            with suppress(UnicodeEncodeError):
                tokens[number] = token.translate(alphabet).encode("latin-1")
    if max(map(len, tokens)) > _LONGEST_TOKEN:
        raise ValueError(f"it has tokens of more than {_LONGEST_TOKEN} bytes")
    pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
    merges = [(model["vocab"][left], model["vocab"][right], model["vocab"][left + right]) for left, right in pairs]
    return ByteVocabulary(
        token_lengths=np.array([*map(len, tokens)], np.uint8),
        token_bytes=np.frombuffer(b"".join(tokens), np.uint8),
        phrases=np.array([*phrases], np.uint32),
        merges=np.array(merges, np.uint32).ravel(),
    )


def _alphabet() -> Mapping[int, int]:
    """For `str.translate`: the characters that byte-level BPE writes bytes as → bytes. These are the visible ones as
    themselves, the others from U+0100 on; characters that stand for no byte become one that is none.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return dict.fromkeys(others, 0xFFFF) | {0x100 + place: byte for place, byte in enumerate(others)}
