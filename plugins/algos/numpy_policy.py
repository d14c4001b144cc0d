"""Trained networks as numpy policies, for agents that act without torch (bitrl.core.acting.policies)."""

from __future__ import annotations

import math

from torch import nn

from bitrl.core.acting.policies import Network
from bitrl.core.errors import UsageError
from bitrl.plugins.algos.standardise import FEATURE_LIMIT, Standardisation


def numpy_network(network: nn.Sequential, standardise: Standardisation) -> Network:
    """`standardise` followed by `network`, in numpy.

    Raises:
        UsageError: the network (which may include a trainable backbone) has layers other than linear ones with tanh
            between them.
    """
    layers = [*network]
    linear = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer.bias is not None]
    tanh = [layer for layer in layers[1::2] if type(layer) is nn.Tanh]
    if len(linear) != len(tanh) + 1 or len(linear) + len(tanh) != len(network):
        names = ", ".join(type(layer).__name__ for layer in layers)
        raise UsageError(f"the policy cannot be exported: expected Linear layers with Tanh between them, got {names}")
    return Network(
        standardise.mean,
        standardise.std,
        FEATURE_LIMIT if standardise.active else math.inf,
        tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear),
    )
