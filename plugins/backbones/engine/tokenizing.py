"""Python binding of csrc/tokenizer.c: texts in, token ids out.

Knows the cffi calls and their buffers. Does not know which models cut texts so: files/byte_vocabulary.py does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.plugins.backbones.files.byte_vocabulary import ByteVocabulary
from bitrl.plugins.backbones.files.model_file import message

_ERROR_BYTES = 256
LONGEST = 1 << 16
"""Bytes of the longest text, as UTF-8, that is read."""


class EngineTokenizer:
    """A byte-level BPE tokenizer that cuts texts as bitrl's own models do.

    Raises ValueError for a vocabulary that contradicts itself.
    """

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        error, out = ffi.new("char[]", _ERROR_BYTES), ffi.new("bitrl_tokenizer **")
        merges, phrases = vocabulary.merges.view(np.uint8), vocabulary.phrases.view(np.uint8)
        status = lib.bitrl_tokenizer_open(
            ffi.from_buffer("uint8_t[]", vocabulary.token_lengths), len(vocabulary.token_lengths),
            ffi.from_buffer("uint8_t[]", vocabulary.token_bytes), len(vocabulary.token_bytes),
            ffi.from_buffer("uint8_t[]", merges), len(vocabulary.merges) // 3,
            ffi.from_buffer("uint8_t[]", phrases), len(vocabulary.phrases),
            LONGEST, out, error,
        )  # fmt: skip
        if status != lib.BITRL_OK:
            raise ValueError(message(error))
        self._handle = ffi.gc(out[0], lib.bitrl_tokenizer_close)
        self._lock = threading.Lock()
        self._lengths: list[int] = vocabulary.token_lengths.tolist()

    def bytes_of(self, ids: Sequence[int]) -> int:
        """How many bytes some tokens are."""
        return sum(self._lengths[number] for number in ids)

    def tokenize(self, texts: Sequence[bytes]) -> tuple[list[list[int]], list[list[int]]]:
        """Of each of n texts, UTF-8 of at most LONGEST bytes: its tokens' ids, and the byte after each token's last."""
        lengths = np.fromiter(map(len, texts), np.uint64, len(texts))
        ids, ends = np.empty((2, int(lengths.sum())), np.int32)  # no token is less than a byte
        counts = np.empty(len(texts), np.uint64)
        with self._lock:
            total = lib.bitrl_tokenize(
                self._handle, b"".join(texts), ffi.from_buffer("uint64_t[]", lengths), len(texts),
                ffi.from_buffer("int32_t[]", ids), ffi.from_buffer("uint32_t[]", ends),
                ffi.from_buffer("uint64_t[]", counts),
            )  # fmt: skip
        every, places, starts = ids[:total].tolist(), ends[:total].tolist(), [0, *np.cumsum(counts).tolist()]
        spans = [slice(start, end) for start, end in pairwise(map(int, starts))]
        return [every[span] for span in spans], [places[span] for span in spans]
