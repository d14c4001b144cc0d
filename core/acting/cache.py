"""A cache of the features of texts, limited in bytes; the least recently used go first.

Knows texts, rows and their sizes. Does not know where features come from, nor what else decides them: a cache belongs
to one backbone. `cached` gives one to a backbone that has none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Backbone, CachingBackbone, LearningBackbone

ENTRY_BYTES = 400
"""Upper bound on an entry's bytes beyond its text and numbers: two objects' headers and the dictionary's share."""


class Cache:
    """Features float32 [d] of texts, in at most `budget` bytes of memory. A budget of 0 keeps nothing.

    Attributes:
        hits: texts whose features were there, or were computed for the same text in the same batch.
        misses: texts whose features were computed.
        entries: texts that are kept.
        bytes: their size, an upper bound.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.hits, self.misses, self.bytes = budget, 0, 0, 0
        self.generation = 0  # counts `clear`: what was computed before one is not kept after it
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # of the dictionary and the counts; never held while features are computed

    @property
    def entries(self) -> int:
        """How many texts are kept."""
        return len(self._rows)

    def statistics(self) -> dict[str, int]:
        """hits, misses, entries and bytes."""
        with self._lock:
            return {"hits": self.hits, "misses": self.misses, "entries": self.entries, "bytes": self.bytes}

    def limit(self, budget: int) -> None:
        """Keep at most `budget` bytes from now on; what was used last stays."""
        with self._lock:
            self.budget = budget
            while self.bytes > budget:
                self.bytes -= size_of(*self._rows.popitem(last=False))

    def clear(self) -> None:
        """Drop everything computed so far: it is out of date. The counts continue."""
        with self._lock:
            self._rows.clear()
            self.bytes, self.generation = 0, self.generation + 1

    def rows(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """Features of n texts, float32 [n, d]: what `encode(texts)` gives, called only for texts that are not kept.

        `encode` must give a text the same features in any batch. What it raises is passed on, and nothing is kept.
        """
        if not self.budget:
            features = encode(texts)
            self._count(0, len(texts))
            return features
        with self._lock:
            generation = self.generation
            kept = {text: self._rows[text] for text in texts if text in self._rows}
            for text in kept:
                self._rows.move_to_end(text)
        missing = list(dict.fromkeys(text for text in texts if text not in kept))
        if not missing and texts:
            self._count(len(texts), 0)
            return np.stack([kept[text] for text in texts])
        features = encode(missing)
        self._count(len(texts) - len(missing), len(missing))
        with self._lock:
            for text, row in zip(missing, features, strict=True):
                if generation == self.generation:
                    self._keep(text, row)
        if len(missing) == len(texts):
            return features
        kept.update(zip(missing, features, strict=True))
        return np.stack([kept[text] for text in texts])

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self.hits += hits
            self.misses += misses

    def _keep(self, text: str, row: np.ndarray) -> None:
        size = size_of(text, row)
        if text in self._rows or size > self.budget:  # another thread may have kept it already
            return
        while self.bytes + size > self.budget:
            self.bytes -= size_of(*self._rows.popitem(last=False))
        self._rows[text] = row.copy()  # not a view, which would keep the whole batch
        self.bytes += size


def size_of(text: str, row: np.ndarray) -> int:
    """Bytes of an entry, at the most: Python keeps other text than ASCII as up to 4 bytes a character, and as UTF-8."""
    return ENTRY_BYTES + row.nbytes + len(text) * (1 if text.isascii() else 8)


def cached(backbone: Backbone, mebibytes: float = 16.0) -> Any:
    """`backbone`, which reads texts, with a feature cache of `mebibytes` MiB.

    The result has all members of the backbone, and also provides "cache" (interfaces.CachingBackbone). A text
    must have the same features in any batch. `sync` and `load_learned` of a backbone that learns empty the cache.

    Raises:
        UsageError: the size is not above 0, or the backbone already has a cache.
    """
    if mebibytes <= 0:
        raise UsageError(f"cached: expected mebibytes above 0, got {mebibytes:g}")
    if isinstance(backbone, CachingBackbone):
        raise UsageError(f"cached: {type(backbone).__name__} already has a cache of features")
    kind = _CachedLearning if isinstance(backbone, LearningBackbone) else _Cached
    return kind(backbone, Cache(int(mebibytes * 2**20)))


class _Cached:
    """A text backbone behind a cache; everything else is the backbone's."""

    def __init__(self, backbone: Any, cache: Cache) -> None:
        self.backbone, self.cache = backbone, cache

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """n texts → float32 [n, d], computed for those that are not kept."""
        return self.cache.rows(inputs, self.backbone.encode)

    def __getattr__(self, name: str) -> Any:
        if name == "backbone":  # asked for before __init__, by copy and pickle
            raise AttributeError(name)
        return getattr(self.backbone, name)


class _CachedLearning(_Cached):
    """For a backbone that learns: features of an older version are out of date."""

    def sync(self) -> None:
        """Use the module's current parameters."""
        self.backbone.sync()
        self.cache.clear()

    def load_learned(self, arrays: Any) -> None:
        """Use the weights of a `learned()`."""
        self.backbone.load_learned(arrays)
        self.cache.clear()
