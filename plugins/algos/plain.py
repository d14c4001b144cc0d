"""Trained networks as plain arrays, for agents that act without torch (bitrl.core.acting.policies)."""

from __future__ import annotations

import math

from torch import nn

from bitrl.core.acting.policies import Network
from bitrl.core.errors import UsageError
from bitrl.plugins.algos.standardise import FEATURE_LIMIT, Standardisation


def plain(network: nn.Sequential, standardise: Standardisation) -> Network:
    """What `standardise` and `network` make of features.

    Raises:
        UsageError: the network, which a trainable backbone may have its part in, has other layers than linear ones with
            tanh between them.
    """
    layers = [*network]
    linear = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer.bias is not None]
    tanh = [layer for layer in layers[1::2] if type(layer) is nn.Tanh]
    if len(linear) != len(tanh) + 1 or len(linear) + len(tanh) != len(network):
        names = ", ".join(type(layer).__name__ for layer in layers)
        raise UsageError(
            f"the policy cannot be exported: its network is {names}, and only Linear layers with Tanh between them can"
        )
    return Network(
        standardise.mean,
        standardise.std,
        FEATURE_LIMIT if standardise.active else math.inf,
        tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear),
    )
