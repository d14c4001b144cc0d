"""Writes a language model that has learned as a GGUF file: tokenizer and keys of the file it began as, other weights.

Knows what became of each tensor: weights that learned are written as they are, ternary ones as the codes that they are
rounded to, adapters merged into the matrices beside them. convert.py writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.wording import setting
from bitrl.plugins.backbones.tools.convert import Source, write

if TYPE_CHECKING:
    from bitrl.plugins.backbones.language_model import LanguageModel, LearningLanguageModel

FLOATS = ("bf16", "fp32")


def write_learned(model: LanguageModel, weights: Mapping[str, np.ndarray] | None, out: Path) -> list[str]:
    """Write a model with the weights that it learned (None: its adapters alone), whole or not at all: what others
    will miss in it.

    A backbone of the same format gives by the file, to the bit, what the policy gives; except of merged adapters, which
    are rounded together with the matrices, and where the scale of a ternary matrix was a tensor of its own already,
    whose product with the learned one is rounded to float32.

    Raises:
        UsageError: there are adapters beside rounded weights, which merging would round once more.
        RunFailed: the file cannot be written.
    """
    file = model.engine.file
    if weights is None:
        if model.engine.format not in FLOATS:
            raise UsageError(
                f"the adapters (backbone.lora_rank) of a model in {model.engine.format} cannot be merged into its "
                f"weights, which would round what they learned: train with {setting('backbone', 'fp32', 'bf16')}, or "
                "all weights, without backbone.lora_rank"
            )
        learned = _merged(cast("LearningLanguageModel", model), model.options.i2s_packing)
    else:
        learned = _with_scales(file, dict(weights))
    all_blocks = sum(tensor.name.endswith(".attn_q.weight") for tensor in file.tensors())
    return write(
        file, out, activation=model.activation, i2s_packing=model.options.i2s_packing, learned=learned,
        blocks=model.engine.blocks if model.engine.blocks < all_blocks else None,
    )  # fmt: skip


def _merged(model: LearningLanguageModel, i2s_packing: str) -> dict[str, np.ndarray]:
    """The matrices beside adapters, W + factor · up · down."""
    model.sync()
    file, adapters = model.engine.file, model.adapters
    names = {tensor.name for tensor in file.tensors()}
    merged = {}
    for name in adapters.names:
        down, up = (adapters.arrays[f"{name}.{part}"].astype(np.float64) for part in ("down", "up"))
        scale = file.weights(f"{name}.scale").item() if f"{name}.scale" in names else 1.0
        weights = file.weights(f"{name}.weight", i2s_packing)
        merged[f"{name}.weight"] = (weights + adapters.factor / scale * (up @ down)).astype(np.float32)
    return merged


def _with_scales(file: Source, learned: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of ternary matrices whose scale is a tensor of its own: codes, and that scale as it was learned."""
    for tensor in file.tensors():
        matrix = tensor.name.removesuffix(".scale") + ".weight"
        weights = learned.get(matrix)
        if not tensor.name.endswith(".scale") or weights is None:
            continue
        largest = np.abs(weights).max()
        if largest and np.array_equal(weights, np.sign(weights) * largest):
            learned |= {matrix: np.sign(weights), tensor.name: largest * file.weights(tensor.name)}
    return learned
