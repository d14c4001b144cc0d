"""The baseline without a language model: a small trainable network on the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import MLPOptions


class MLP:
    """Tanh layers from vectors [n, k] to features [n, d], trained by the algorithm together with its heads.

    Attributes:
        width: d, the width of the last layer (k if there is none).
    """

    def __init__(self, options: MLPOptions, width: int | None):
        if width is None:
            raise UsageError(
                "backbone mlp reads vectors of a known width: give one, for example load_backbone('mlp', width=4)"
            )
        self.widths = (width, *options.hidden)
        self.width = self.widths[-1]
        self.identity: Mapping[str, Any] = {"hidden": list(options.hidden)}

    def module(self) -> nn.Module:
        """A fresh network with orthogonal weights of gain √2, drawn from torch's current generator."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(self.widths):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.orthogonal_(linear.weight, math.sqrt(2))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return nn.Sequential(*layers)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k] → float32 [n, d] by an untrained network, the same for every call (seed 0)."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            features: np.ndarray = self.module()(torch.as_tensor(inputs, dtype=torch.float32)).numpy()
        return features
