"""Random features without a language model: the control for frozen ones. Shapes: n states, k numbers, d features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import RandomProjectionOptions


class RandomProjection:
    """tanh(W x + b) of the state vector, with W and b drawn once, and frozen (Rahimi and Recht 2007).

    Attributes:
        width: d.
    """

    def __init__(self, options: RandomProjectionOptions, width: int | None):
        if width is None:
            raise UsageError(
                "backbone random-projection reads vectors of a known width: give one, for example "
                "load_backbone('random-projection', width=4)"
            )
        self.width = options.width
        generator = np.random.default_rng(options.seed)
        self._weights = generator.normal(0, width**-0.5, (width, self.width)).astype(np.float32)
        self._biases = generator.uniform(-1, 1, self.width).astype(np.float32)
        self.identity: Mapping[str, Any] = {"inputs": width, "width": self.width, "seed": options.seed}

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k] → features float32 [n, d]. A vector's features do not depend on the others."""
        # Summed number by number: a matrix product may add in another order in another batch.
        total = np.tile(self._biases, (len(inputs), 1))
        for column, weights in zip(np.asarray(inputs, np.float32).T, self._weights, strict=True):
            total += column[:, None] * weights
        features: np.ndarray = np.tanh(total)
        return features
