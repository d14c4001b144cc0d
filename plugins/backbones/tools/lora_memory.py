"""The memory that training adapters on a model takes, computed from its shape before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from bitrl.plugins.backbones.adapters import PROJECTIONS

TEXTS, TOKENS = 64, 32
"""A minibatch: so many texts of so many tokens."""
_DOUBLE, _FLOAT = 8, 4
_COPIES = 3
"""Of adapters: those that learn, the arrays that are saved, and the engine's."""


@attrs.frozen
class LoraMemory:
    """Bytes that training takes beside what acting does. `weights` are the frozen ones as torch has them; `activations`
    what the backward pass of a minibatch of TEXTS texts of TOKENS tokens keeps.
    """

    rank: int
    adapters: int
    gradients: int
    moments: int
    activations: int
    weights: int


def matrices(shape: Any) -> dict[str, tuple[int, int]]:
    """[rows, columns] of a block's projections, as `lora_targets` names them. `shape`: the engine's."""
    q, kv, width, ffn = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.width, shape.ffn
    sizes = ((q, width), (kv, width), (kv, width), (width, q), (ffn, width), (ffn, width), (width, ffn))
    return dict(zip(PROJECTIONS, sizes, strict=True))


def lora_memory(
    shape: Any, rank: int, targets: Sequence[str], weight_bytes: int, embedding_bytes: int, extra: Mapping[str, bool]
) -> LoraMemory | None:
    """What adapters of this rank would take; None where a projection is narrower than that.

    `shape`: the engine's. `weight_bytes`, `embedding_bytes`: that torch takes for each weight of the blocks, and of the
    embedding. `extra`: what the architecture has beyond Llama's (`activations`).
    """
    sizes = matrices(shape)
    if any(rank > min(sizes[target]) for target in targets):
        return None
    learned = shape.blocks * sum(rank * sum(sizes[target]) for target in targets)
    frozen = shape.blocks * sum(rows * columns for rows, columns in sizes.values())
    return LoraMemory(
        rank=rank,
        adapters=_COPIES * _FLOAT * learned,
        gradients=_FLOAT * learned,
        moments=2 * _FLOAT * learned,
        activations=activations(shape, rank, targets, TEXTS * TOKENS, extra),
        weights=weight_bytes * frozen + embedding_bytes * shape.vocabulary * shape.width,
    )


def activations(shape: Any, rank: int, targets: Sequence[str], tokens: int, extra: Mapping[str, bool]) -> int:
    """Bytes kept for the backward pass of `tokens`: roughly, and rather too many. What norms and gates read is kept in
    double precision; what attention and the gate of silu do in single. `extra` says which of sub_norms, head_norms,
    post_norms and input_norms there are, and whether the gate is silu.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    double = 2 * shape.width + 3 * shape.ffn * (not extra["silu"])
    double += (q + shape.ffn) * extra["sub_norms"] + (q + 2 * kv) * extra["head_norms"]
    double += 2 * shape.width * extra["post_norms"] + (2 * shape.width + q + shape.ffn) * extra["input_norms"]
    single = 2 * (q + kv) + 2 * shape.ffn * extra["silu"]
    single += sum(columns for name, (_, columns) in matrices(shape).items() if name in targets) + rank * len(targets)
    kept: int = shape.blocks * tokens * (_DOUBLE * double + _FLOAT * single)
    return kept
