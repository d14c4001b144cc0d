"""Trained networks as numpy policies, for agents that act without the engine's learner (bitrl.core.acting.policies)."""

from __future__ import annotations

import math

from bitrl.core.acting.policies import Network
from bitrl.plugins.algos.engine_learner import EngineNetwork
from bitrl.plugins.algos.standardise import FEATURE_LIMIT, Standardisation


def numpy_network(network: EngineNetwork, standardise: Standardisation) -> Network:
    """`standardise` followed by `network`, in numpy.

    Raises:
        UsageError: what is beneath the network (a plugin's trainable backbone) has layers other than linear ones with
            tanh after each.
    """
    beneath = [] if network.beneath is None else network.beneath.tanh_layers()
    return Network(
        standardise.mean,
        standardise.std,
        FEATURE_LIMIT if standardise.active else math.inf,
        tuple((weights.T.copy(), biases.copy()) for weights, biases in [*beneath, *network.layers]),
    )
