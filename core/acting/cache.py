"""Features of texts already seen, up to a number of bytes; the least recently asked for go first.

Knows texts, rows and their sizes. Does not know where features come from, nor what else decides them: a cache belongs
to one backbone.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

ENTRY_BYTES = 400
"""An entry's bytes beyond its text and its numbers, at the most: two objects' headers and the dictionary's share."""


class Cache:
    """Features float32 [d] of texts, in at most `budget` bytes of memory. A budget of 0 keeps nothing.

    Attributes:
        hits: texts whose features were there, or were computed for the same text in the same batch.
        misses: texts whose features were computed.
        entries: texts that are kept.
        bytes: what they take, counted at its most.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.hits, self.misses, self.bytes = budget, 0, 0, 0
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

    def rows(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """Features of n texts, float32 [n, d]: what `encode(texts)` gives, called only for texts that are not kept.

        `encode` must give a text the same features in any batch. What it raises is passed on, and nothing is kept.
        """
        if not self.budget:
            features = encode(texts)
            self._count(0, len(texts))
            return features
        with self._lock:
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
        if text in self._rows or size > self.budget:  # another thread may have been faster
            return
        while self.bytes + size > self.budget:
            self.bytes -= size_of(*self._rows.popitem(last=False))
        self._rows[text] = row.copy()  # not a view, which would keep the whole batch
        self.bytes += size


def size_of(text: str, row: np.ndarray) -> int:
    """Bytes of an entry, at the most: Python keeps other text than ASCII as up to 4 bytes a character, and as UTF-8."""
    return ENTRY_BYTES + row.nbytes + len(text) * (1 if text.isascii() else 8)
