"""Policies of few bits: uniform quantisation of weight matrices (QuaRL, Krishnan et al. 2019, arXiv 1910.01055)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def quantise(weights: Tensor, bits: int) -> Tensor:
    """The nearest multiples of d = (|min W| + |max W|) / 2ⁿ, with n = `bits`; a matrix of zeros is unchanged."""
    step = (weights.min().abs() + weights.max().abs()) / 2**bits
    return weights if step == 0 else step * (weights / step).round()


@contextmanager
def low_bits(network: nn.Module, bits: int | None) -> Iterator[None]:
    """Within, the network's weight matrices are quantised (biases are not); None: they are not.

    Gradients taken within are those at the quantised weights; a step made outside applies them to the weights in full
    precision: straight-through estimation.
    """
    if bits is None:
        yield
        return
    matrices = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear)]
    full = [weights.detach().clone() for weights in matrices]
    with torch.no_grad():
        for weights in matrices:
            weights.copy_(quantise(weights, bits))
    try:
        yield
    finally:
        with torch.no_grad():
            for weights, before in zip(matrices, full, strict=True):
                weights.copy_(before)
