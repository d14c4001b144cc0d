"""Ternary matrices with more than one scale, as the engine finds them (bitrl_has_block_scales in csrc/pack.c)."""

from __future__ import annotations

import numpy as np

BLOCK = 128
"""Columns of a row that share a scale."""


def is_ternary_in_blocks(weights: np.ndarray, block: int = BLOCK) -> bool:
    """Whether each `block` columns of each row [R, K] are -1, 0, 1 times a scale of their own."""
    for at in range(0, weights.shape[1], block):
        part = weights[:, at : at + block]
        scales = np.abs(part).max(axis=1, keepdims=True)
        if not np.array_equal(part, np.sign(part) * scales):
            return False
    return True


def has_block_scales(weights: np.ndarray) -> bool:
    """Whether [R, K] are such, and not all scales are one."""
    largest = np.abs(weights).max()
    return not np.array_equal(weights, np.sign(weights) * largest) and is_ternary_in_blocks(weights)
