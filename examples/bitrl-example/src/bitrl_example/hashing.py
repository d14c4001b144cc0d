"""Texts as hashed words (the "hashing trick", Weinberger et al. 2009, arXiv 0902.2206)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bitrl_example import HashingOptions


class Hashing:
    """Every word adds +1 or -1 to one feature; which, and the sign, are read from its CRC-32.

    Attributes:
        width: d, the number of features.
        identity: what must be equal for the features to be equal.
    """

    def __init__(self, options: HashingOptions, width: int | None):
        self.width = options.width
        self.identity: Mapping[str, Any] = {"hash": "crc32", "width": options.width}

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """n texts → float32 [n, d]."""
        features = np.zeros((len(inputs), self.width), np.float32)
        for row, text in zip(features, inputs, strict=True):
            for word in text.split():
                code = zlib.crc32(word.encode())
                row[(code >> 1) % self.width] += 1.0 if code & 1 else -1.0
        return features
