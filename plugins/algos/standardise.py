"""Features on one scale: the first rollout's mean and deviation taken out. Shapes: n states, d features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from bitrl.core.features import FeatureExtractor

FEATURE_LIMIT = 10.0
"""Standardised features are cut at this many deviations: a state unlike any seen at the start must not blow up the
heads.
"""


class Standardisation:
    """What a head does to the features before it reads them; to the inputs of a trainable backbone it does nothing.

    Attributes:
        mean, std: taken out of the features, float32 [d]; 0 and 1 before `fit`.
    """

    def __init__(self, features: FeatureExtractor, observations: np.ndarray):
        self.frozen = not features.trainable
        # A trainable backbone is given the serializer's vectors, whose width shows in them.
        width = features.width if self.frozen else features(observations[:1]).shape[1]
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
