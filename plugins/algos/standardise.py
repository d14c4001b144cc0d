"""Features on one scale: a mean and deviation taken out, the first rollout's or those of all so far. Shapes: n states,
d features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEATURE_LIMIT = 10.0
"""Standardised features are cut at this many deviations: a state unlike any seen at the start must not blow up the
heads.
"""


class Standardisation:
    """What a head does to the features [..., d] before it reads them; nothing unless `active`.

    Attributes:
        mean, std: taken out of the features, float32 [d]; 0 and 1 before `fit`.
    """

    def __init__(self, width: int, active: bool = True):
        """`width` is d."""
        self.active = active
        self.mean, self.std = np.zeros(width, np.float32), np.ones(width, np.float32)

    def fit(self, features: np.ndarray) -> None:
        """Take mean and deviation from features [..., d]."""
        if self.active:
            flat = features.reshape(-1, features.shape[-1])
            self.mean, self.std = flat.mean(axis=0), flat.std(axis=0) + 1e-6

    def update(self, features: np.ndarray, before: int) -> None:
        """Go on to mean and deviation of `before` + 1 equally large arrays of features, of which [..., d] is the last
        (Chan et al. 1979).
        """
        flat, share = features.reshape(-1, features.shape[-1]), 1 / (before + 1)
        shift = flat.mean(axis=0) - self.mean
        self.mean = self.mean + share * shift
        self.std = np.sqrt((1 - share) * self.std**2 + share * flat.var(axis=0) + share * (1 - share) * shift**2)
        self.std = np.maximum(self.std, np.float32(1e-6))

    def __call__(self, features: np.ndarray) -> Tensor:
        """Features [..., d] → the same on one scale, float32 [..., d]."""
        if not self.active:
            return torch.from_numpy(features)
        return torch.from_numpy(((features - self.mean) / self.std).clip(-FEATURE_LIMIT, FEATURE_LIMIT))

    def differentiable(self, features: Tensor) -> Tensor:
        """The same of a tensor [..., d], with its gradient."""
        if not self.active:
            return features
        mean, std = torch.from_numpy(self.mean), torch.from_numpy(self.std)
        return ((features - mean) / std).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
