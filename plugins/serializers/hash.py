"""States as hashed features of their text: the baseline for texts without a language model.

The text that another serializer writes becomes counts of its words and of the character n-grams in them, each at a
place and with a sign that a hash decides (Weinberger et al. 2009, arXiv 0902.2206). Every word and number is read as
it is spelt: nothing is known of what it means.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import parse
from bitrl.core.records import SerializerRecord
from bitrl.core.registry import registry
from bitrl.core.wording import setting
from bitrl.plugins.serializers import HashOptions

_WORD = re.compile(r"[-+]?\d+(?:\.\d+)?|[^\W\d_]+|\S")


class Hash:
    """Text → vector of length 1, float32 [k]; the empty text is all zeros.

    Attributes:
        width: k, the length of the vectors.
        texts: the serializer whose texts are hashed.
    """

    def __init__(self, options: HashOptions, observation: ObservationSpec):
        self.width, self.ngrams = options.width, options.ngrams
        name = options.texts or ("grid" if observation.grid else "prompt" if observation.prompt else "compact")
        record: SerializerRecord = registry().find("serializer", name)
        if record.emits != "text" or record.learns:
            raise UsageError(
                f'serializer.texts: "{name}" does not write texts of a fixed form: choose one that does, for example '
                f"{setting('serializer.texts', 'compact')}"
            )
        self.texts: Any = record.load()(parse(record.options, {}, "serializer"), observation)
        # A state shares most words with others; what is computed is the same for every call.
        self._features = lru_cache(maxsize=65_536)(self._features_of)

    def __call__(self, observation: Any) -> np.ndarray:
        """One observation → float32 [k]."""
        vector: np.ndarray = self.commands([self.texts(observation)])[0]
        return vector

    def batch(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → float32 [n, k]."""
        return self.commands(self.texts.batch(observations))

    def commands(self, texts: Sequence[str]) -> np.ndarray:
        """n texts, such as admissible commands → float32 [n, k]."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            before = ""
            for word in _WORD.findall(text.lower()):
                # A number says little without the name before it.
                for place, sign in (*self._features(word), *self._features(f"{before} {word}")[:1]):
                    vector[place] += sign
                before = word if word[0].isalpha() else before
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        scaled: np.ndarray = vectors / np.maximum(norms, 1e-12)
        return scaled

    def _features_of(self, word: str) -> tuple[tuple[int, float], ...]:
        """Places and signs of a word and of its n-grams."""
        marked = f"<{word}>"
        grams = [marked[i : i + self.ngrams] for i in range(len(marked) - self.ngrams + 1)] if self.ngrams else []
        hashes = [zlib.crc32(each.encode()) for each in (f"word {word}", *grams)]
        return tuple((each % self.width, 1.0 if each >> 31 else -1.0) for each in hashes)
