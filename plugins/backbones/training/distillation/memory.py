"""Checks that a distillation fits into memory before it starts, rather than being killed in the middle."""

from __future__ import annotations

import math

import torch

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.tools.available_memory import available_memory
from bitrl.plugins.backbones.training.distillation.student import TeacherShape

_FLOAT = 4
_PER_WEIGHT = 6
"""Of the student's trained weights: itself, gradient, two moments, the ternary copy that the backward pass reads, and
room for what the checkpoint's bytes take beyond the gradient's and that copy's."""


def needed(shape: TeacherShape, tokens: int, longest: int, numbers: bool) -> int:
    """Bytes, roughly and rather too many: teacher, student, optimiser, and the activations of a step of `tokens`."""
    weights = shape.blocks * sum(math.prod(size) for size in shape.matrices().values())
    around = shape.vocab * shape.width * (2 if shape.is_whole else 1)  # perhaps a head of its own
    return _FLOAT * (weights * (1 + _PER_WEIGHT) + around) + activations(shape, tokens, longest, numbers)


def activations(shape: TeacherShape, tokens: int, longest: int, numbers: bool) -> int:
    """Bytes kept for the backward pass of a step of `tokens` in texts of `longest` at most."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    block = 6 * shape.width + 10 * q + 6 * kv + 6 * shape.ffn + shape.heads * longest
    teacher = shape.width + q + 2 * kv
    losses = 3 * shape.width + (2 * shape.width + 1000 if numbers else 0)  # a thousand: slots and views of numbers
    relations = 3 * 4 * shape.heads * longest
    head = 6 * shape.vocab if shape.is_whole else 0
    return _FLOAT * tokens * (shape.blocks * (block + teacher + losses) + relations + head)


def available(device: torch.device) -> int | None:
    """Bytes that can be had; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def check(shape: TeacherShape, tokens: int, longest: int, numbers: bool, device: torch.device) -> None:
    """Whether it fits.

    Raises:
        UsageError: it does not; the message says how much is missing and what to give less of.
    """
    wanted, there = needed(shape, tokens, longest, numbers), available(device)
    if there is not None and wanted > there:
        raise UsageError(
            f"distilling {shape.blocks} blocks takes about {wanted / 1e9:.1f} GB, but {there / 1e9:.1f} GB of memory "
            f"are available ({device.type}): keep fewer blocks (--layers) or fewer tokens per step (--batch)"
        )
