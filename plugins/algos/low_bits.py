"""Policies of few bits: uniform quantisation of weight matrices (QuaRL, Krishnan et al. 2019, arXiv 1910.01055)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bitrl.plugins.algos.engine_learner import EngineNetwork


def quantise(weights: np.ndarray, bits: int) -> np.ndarray:
    """The nearest multiples of d = (|min W| + |max W|) / 2ⁿ, with n = `bits`; a matrix of zeros is unchanged."""
    step = (abs(weights.min()) + abs(weights.max())) / weights.dtype.type(2**bits)
    return weights if step == 0 else step * np.rint(weights / step)


@contextmanager
def low_bits(network: EngineNetwork, bits: int | None) -> Iterator[None]:
    """Within, the network's weight matrices are quantised (biases are not); None: they are not.

    Gradients taken within are those at the quantised weights; a step made outside applies them to the weights in full
    precision: straight-through estimation.
    """
    if bits is None:
        yield
        return
    matrices = network.matrices
    full = [weights.copy() for weights in matrices]
    for weights in matrices:
        weights[:] = quantise(weights, bits)
    try:
        yield
    finally:
        for weights, before in zip(matrices, full, strict=True):
            weights[:] = before
