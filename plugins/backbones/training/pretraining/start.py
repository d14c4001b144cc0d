"""How a model's weights start: so that numbers can be read, and distinguished by their names, before anything is
learned.

Knows initial values. Does not know losses or how training goes on. A network of random weights reads a text's numbers
from the mean of its features as well as one that has learned from two million tokens (R² 0.95 on HalfCheetah's 17),
provided that a number's token says its value in few directions, and that it attends to the name before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from bitrl.plugins.backbones.training.decoder import Block
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder

COMMON = 0.05
"""How much of a fixed vector of ±1 all embeddings share at the start: what a head looks at that looks at a place."""

LOOK_BACK = (1, 2)
"""How many tokens back the first heads of every block look: a number is two tokens, and its name stands before it."""

LOOK_BACK_RATES = 8
"""How many of the fastest rotations they tell distances by."""

LOOK_BACK_SIZE = 0.06
"""The size of their weights. Half of it for the other heads' keeps both apart from zero when they are made ternary."""

LATER_NORM = 0.15
"""What later blocks add at first, against the 0.5 of the first block: random features of random features are noise."""


@torch.no_grad()
def start(model: NumberDecoder) -> None:
    """Set the initial values of `model`, drawn from torch's generator."""
    common = torch.randint(0, 2, (model.shape.width,)) * 2.0 - 1.0
    there = model.of_words[:, 0] == 0
    if there.any():  # numbers' embeddings as large as the others
        said = model.number_features[there] @ model.number_embd
        model.number_embd.mul_(model.token_embd.std() / said.std())
        model.number_embd[-1] = COMMON * common  # the last feature is that it is a number
    model.token_embd.add_(COMMON * common)
    blocks = cast(Sequence[Block], model.blk)
    for block in blocks:
        look_back(block, common)
    for block in blocks[1:]:
        block.attn_sub_norm.fill_(LATER_NORM)
        block.ffn_sub_norm.fill_(LATER_NORM)


def look_back(block: Block, common: Tensor) -> None:
    """Let the first heads of a block, those of one key, start by looking LOOK_BACK tokens back whatever stands there.

    A number means what the word before it says. A head that finds the token before must align its rotations with a
    distance, for which a gradient that first sees the average of all tokens is a poor guide. Queries and keys of these
    heads read only what all embeddings have in `common` [width], ±1, and differ by a phase: the sum of
    cos(rate * (distance - offset)) over several rates is largest at the offset. The phases are rounded to eighths of a
    turn, so that ternary weights hold them.
    """
    shape = block.shape
    half = shape.head_dim // 2
    count = min(LOOK_BACK_RATES, half)
    rates = shape.theta ** (-torch.arange(half, dtype=torch.float64) / half)[:count]
    for matrix in (block.attn_q, block.attn_k):
        matrix.mul_(LOOK_BACK_SIZE / 2 / matrix.std())
    block.attn_k[: shape.head_dim] = 0.0
    block.attn_k[:count] = LOOK_BACK_SIZE * common
    for head, offset in enumerate(LOOK_BACK[: shape.heads // shape.kv_heads]):
        phase = (-offset * rates / (math.pi / 4)).round() * (math.pi / 4)
        rows = torch.zeros(shape.head_dim, shape.width)
        rows[:count] = LOOK_BACK_SIZE * phase.cos().round().float()[:, None] * common
        rows[half : half + count] = LOOK_BACK_SIZE * phase.sin().round().float()[:, None] * common
        block.attn_q[head * shape.head_dim : (head + 1) * shape.head_dim] = rows
