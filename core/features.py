"""Serializer and backbone as one: observations in, features out. Knows nothing of learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bitrl.core.interfaces import Backbone, Serializer

if TYPE_CHECKING:
    import numpy as np
    import torch


class FeatureExtractor:
    """Reads observations through a serializer and a backbone.

    Attributes:
        width: d, the number of features of a state.
        trainable: whether the backbone is a module that the algorithm trains. If so, calling this object gives the
            serializer's vectors, and `module()` gives what turns them into features.
    """

    def __init__(self, serializer: Serializer, backbone: Backbone):
        self.serializer, self.backbone = serializer, backbone
        self.trainable = hasattr(backbone, "module")
        self.width: int = backbone.width
        self.identity: Mapping[str, Any] = backbone.identity

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → float32 features [n, d] (vectors [n, k] if `trainable`)."""
        inputs = self.serializer.batch(observations)
        return inputs if self.trainable else self.backbone.encode(inputs)

    def module(self) -> torch.nn.Module:
        """A module from what calling this object gives to features [n, d]: the identity if the backbone is frozen."""
        import torch

        return self.backbone.module() if self.trainable else torch.nn.Identity()  # type: ignore[attr-defined]
