"""Serializer and backbone as one: observations in, features out. Knows nothing of learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bitrl.core.acting.choices import ChoiceReader, states_of
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
        identity: what must be equal for the features to be equal.
        choices: observations [n, ...] → what can be done in them, None where that is always the same; it keeps the
            features of commands, which the same backbone reads.
    """

    def __init__(self, serializer: Serializer, backbone: Backbone):
        self.serializer, self.backbone = serializer, backbone
        self.trainable = hasattr(backbone, "module")
        self.width: int = backbone.width
        self.identity: Mapping[str, Any] = backbone.identity
        self.choices = ChoiceReader(backbone.encode)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → float32 features [n, d] (vectors [n, k] if `trainable`)."""
        return self.encode(self.write(observations))

    def write(self, observations: np.ndarray) -> Any:
        """Observations [n, ...] → what the serializer writes: a list of n texts, or vectors float32 [n, k]."""
        return self.serializer.batch(states_of(observations))

    def encode(self, inputs: Any) -> np.ndarray:
        """What `write` gave → float32 features [n, d] (the vectors themselves if `trainable`)."""
        return inputs if self.trainable else self.backbone.encode(inputs)

    def module(self) -> torch.nn.Module:
        """A module from what calling this object gives to features [n, d]: the identity if the backbone is frozen."""
        import torch

        return self.backbone.module() if self.trainable else torch.nn.Identity()  # type: ignore[attr-defined]
