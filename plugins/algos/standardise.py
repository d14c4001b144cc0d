"""Features on one scale: the first rollout's mean and deviation taken out. Shapes: n states, d features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEATURE_LIMIT = 10.0
"""Standardised features are cut at this many deviations: a state unlike any seen at the start must not blow up the
heads.
"""


class Standardisation:
    """What a head does to the features [..., d] before it reads them; nothing if their backbone is not frozen.

    Attributes:
        mean, std: taken out of the features, float32 [d]; 0 and 1 before `fit`.
    """

    def __init__(self, width: int, frozen: bool = True):
        """`width` is d."""
        self.frozen = frozen
        self.mean, self.std = np.zeros(width, np.float32), np.ones(width, np.float32)

    def fit(self, features: np.ndarray) -> None:
        """Take mean and deviation from features [..., d]."""
        if self.frozen:
            flat = features.reshape(-1, features.shape[-1])
            self.mean, self.std = flat.mean(axis=0), flat.std(axis=0) + 1e-6

    def __call__(self, features: np.ndarray) -> Tensor:
        """Features [..., d] → the same on one scale, float32 [..., d]."""
        if not self.frozen:
            return torch.from_numpy(features)
        return torch.from_numpy(((features - self.mean) / self.std).clip(-FEATURE_LIMIT, FEATURE_LIMIT))
