"""Standardised features: mean 0 and standard deviation 1 by the first rollout, or by all so far. Shapes: n states, d
features.
"""

from __future__ import annotations

import numpy as np

FEATURE_LIMIT = 10.0
"""Standardised features are clipped at this many standard deviations: a state unlike any of the first rollout's must
not blow up the heads.
"""

AT_ONCE = 256
"""Features whose statistics are taken together: NumPy makes copies of what it is given."""


class Standardisation:
    """Standardises the features [..., d] that a head reads; the identity unless `active`.

    Attributes:
        mean, std: statistics of the features, float32 [d]; 0 and 1 before `fit`.
    """

    def __init__(self, width: int, active: bool = True):
        """`width` is d."""
        self.active = active
        self.mean, self.std = np.zeros(width, np.float32), np.ones(width, np.float32)

    def fit(self, features: np.ndarray) -> None:
        """Take mean and standard deviation from features [..., d]."""
        if self.active:
            flat = features.reshape(-1, features.shape[-1])
            columns = np.array_split(flat, max(1, -(-flat.shape[1] // AT_ONCE)), axis=1)
            self.mean = np.concatenate([each.mean(axis=0) for each in columns])
            self.std = np.concatenate([each.std(axis=0) for each in columns]) + np.float32(1e-6)

    def update(self, features: np.ndarray, before: int) -> None:
        """Update mean and standard deviation to those of `before` + 1 equally large arrays of features, of which [...,
        d] is the last (Chan et al. 1979).
        """
        flat, share = features.reshape(-1, features.shape[-1]), 1 / (before + 1)
        shift = flat.mean(axis=0) - self.mean
        self.mean = self.mean + share * shift
        self.std = np.sqrt((1 - share) * self.std**2 + share * flat.var(axis=0) + share * (1 - share) * shift**2)
        self.std = np.maximum(self.std, np.float32(1e-6))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [..., d] → standardised, float32 [..., d], in one piece as the engine takes it."""
        if not self.active:
            return np.ascontiguousarray(features)
        standard = np.ascontiguousarray(features - self.mean)
        standard /= self.std
        return np.clip(standard, -FEATURE_LIMIT, FEATURE_LIMIT, out=standard)

    def backward(self, by_standard: np.ndarray, features: np.ndarray) -> np.ndarray:
        """A loss's gradient by standardised features [..., d] → that by the features, which is 0 where they are
        clipped.
        """
        if not self.active:
            return by_standard
        within = abs((features - self.mean) / self.std) <= FEATURE_LIMIT
        return np.where(within, by_standard / self.std, np.float32(0))
