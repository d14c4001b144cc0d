"""Texts as tokens: by the engine where it knows the model's way of cutting, else by the `tokenizers` library.

Both give the same tokens; the engine in an eighth of the time. Knows neither models nor features.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress

from tokenizers import Encoding, Tokenizer

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.tokenizing import LONGEST, EngineTokenizer
from bitrl.plugins.backbones.files.byte_vocabulary import byte_vocabulary
from bitrl.plugins.backbones.files.tokenizer_json import calmly


class TextTokens:
    """What reads texts as tokens of `tokenizer`; `ours`: it is said to cut them as bitrl's own models do."""

    def __init__(self, tokenizer: Tokenizer, ours: bool) -> None:
        self._tokenizer = tokenizer
        self._engine: EngineTokenizer | None = None
        if ours:
            with suppress(ValueError):  # of a file that is not what it says: the library reads what there is
                self._engine = EngineTokenizer(byte_vocabulary(tokenizer))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text.

        Raises:
            UsageError: a text is not Unicode, or nothing that the tokenizer can read.
        """
        encoded = self._bytes(texts) if self._engine else None
        if self._engine and encoded is not None:
            return self._engine.tokenize(encoded)[0]
        # One by one: `encode_batch` starts threads that do not survive a fork, and vector environments fork.
        return [encode_text(self._tokenizer, text).ids for text in texts]

    def located(self, texts: Sequence[str], ends: Sequence[Sequence[int]]) -> list[tuple[list[int], list[int | None]]]:
        """Of each text its ids, and the token that holds the character before each of its `ends`; None: no token does.

        Raises as `ids`.
        """
        encoded = self._bytes(texts) if self._engine and all(map(str.isascii, texts)) else None
        if self._engine and encoded is not None:
            ids, token_ends = self._engine.tokenize(encoded)
            if all(self._engine.bytes_of(own) == len(text) for own, text in zip(ids, texts, strict=True)):
                places = zip(token_ends, ends, strict=True)
                return [
                    (own, [bisect_left(at, end) for end in of_text])
                    for own, (at, of_text) in zip(ids, places, strict=True)
                ]
        encodings = [encode_text(self._tokenizer, text) for text in texts]
        return [
            (each.ids, [each.char_to_token(end - 1) for end in own]) for each, own in zip(encodings, ends, strict=True)
        ]

    @staticmethod
    def _bytes(texts: Sequence[str]) -> list[bytes] | None:
        """As the engine reads them; None where one is longer than it reads."""
        try:
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError:
            raise _halved() from None
        return None if any(len(each) > LONGEST for each in encoded) else encoded


def encode_text(tokenizer: Tokenizer, text: str) -> Encoding:
    """A text's tokens, with their ids and their places in it. Raises as `TextTokens.ids`."""
    try:
        return calmly(lambda: tokenizer.encode(text, add_special_tokens=False))
    except (TypeError, UnicodeEncodeError):  # what the library says of text it cannot read
        raise _halved() from None
    except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
        raise UsageError(f"the model's tokenizer cannot read {text[:80]!r}: {str(error)[:200]}") from None


def _halved() -> UsageError:
    return UsageError("a text holds half of a surrogate pair, which is not Unicode text")
