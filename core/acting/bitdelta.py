"""Learned weights as one bit each beside what they were before training (BitDelta, Liu et al. 2024, arXiv 2402.10193).

Ŵ = W₀ + α·sign(W − W₀), where sign(0) = +1, with one scale α per matrix: first mean|W − W₀|, the nearest in squares,
and then tuned so that what is computed with Ŵ comes closest. W₀ is not stored: it must be known where Ŵ is restored, as
the initial adapters of a language model are. Of an adapter, `down` and `up` are a matrix each: their product would take
a bit for every weight of the projection, which is more than the adapter itself in all but small models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from bitrl.core.errors import UsageError

Arrays = Mapping[str, np.ndarray]
SIGNS, SCALE = ".signs", ".scale"
FACTORS = (1.5, 1.2, 1.05)
"""A scale is multiplied or divided by these in turn while it is tuned."""


def compress(base: Arrays, learned: Arrays) -> dict[str, np.ndarray]:
    """Learned arrays, of which `base` has the values before training, as signs and scales: for each NAME the signs of
    its change, "NAME.signs", eight in a byte, and "NAME.scale", float32.
    """
    packed: dict[str, np.ndarray] = {}
    for name, array in learned.items():
        change = array - base[name]
        packed[name + SIGNS] = np.packbits(change.ravel() >= 0)
        packed[name + SCALE] = np.array(np.abs(change).mean(dtype=np.float64), np.float32)
    return packed


def restore(base: Arrays, packed: Arrays) -> dict[str, np.ndarray]:
    """The arrays that `compress` was given, but for what it left out.

    Raises:
        UsageError: signs or a scale are missing, or are those of another array.
    """
    restored: dict[str, np.ndarray] = {}
    for name, before in base.items():
        signs, scale = packed.get(name + SIGNS), packed.get(name + SCALE)
        if signs is None or scale is None or signs.shape != (-(-before.size // 8),) or scale.shape != ():
            raise UsageError(f"learned weights: expected a sign for each weight of {name} and one scale")
        up = np.unpackbits(signs, count=before.size).reshape(before.shape).astype(bool)
        restored[name] = before + np.where(up, scale, -scale)
    return restored


def tune(base: Arrays, packed: Arrays, error: Callable[[Arrays], float]) -> dict[str, np.ndarray]:
    """The same signs with scales for which `error` of the restored arrays is smaller: each in turn is multiplied or
    divided as long as that helps. Never larger than with the given ones.
    """
    best, least = dict(packed), error(restore(base, packed))
    for factor in FACTORS:
        for name in (each for each in packed if each.endswith(SCALE)):
            for by in (factor, 1 / factor):
                while True:
                    tried = {**best, name: np.array(best[name] * by, np.float32)}
                    found = error(restore(base, tried))
                    if not found < least:
                        break
                    best, least = tried, found
    return best


def digest(base: Arrays) -> str:
    """A checksum of the arrays before training, so that none are restored from others."""
    total = hashlib.sha256()
    for name in sorted(base):
        total.update(f"{name} {base[name].dtype} {base[name].shape}".encode())
        total.update(np.ascontiguousarray(base[name]).tobytes())
    return total.hexdigest()
