"""The baseline without a language model: a small trainable network on the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.installing import needing
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.backbones import MLPOptions

if TYPE_CHECKING:
    from torch import nn


class MLP:
    """Tanh layers from vectors [n, k] to features [n, d], trained by the algorithm together with its heads.

    Attributes:
        width: d, the width of the last layer (k if there is none).
        tanh_layers: the widths of the layers.
    """

    def __init__(self, options: MLPOptions, width: int | None):
        if width is None:
            raise UsageError(
                "backbone mlp reads vectors of a known width: give one, for example load_backbone('mlp', width=4)"
            )
        self.tanh_layers = tuple(options.hidden)
        self.widths = (width, *self.tanh_layers)
        self.width = self.widths[-1]
        self.identity: Mapping[str, Any] = {"hidden": list(options.hidden)}

    def module(self) -> nn.Module:
        """A fresh network in torch with orthogonal weights of gain √2, drawn from torch's current generator."""
        with needing("torch", "the mlp backbone's module()"):
            from torch import nn

        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(self.widths):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.orthogonal_(linear.weight, math.sqrt(2))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return nn.Sequential(*layers)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k] → float32 [n, d] by an untrained network, the same for every call."""
        vectors = np.ascontiguousarray(inputs, np.float32)
        if not self.tanh_layers:
            return vectors.copy()
        network = EngineNetwork(EngineLearner(), self.widths, batch=256)
        network.initialise(math.sqrt(2), seed=0)
        features: np.ndarray = np.tanh(network.outputs(vectors))
        return features
