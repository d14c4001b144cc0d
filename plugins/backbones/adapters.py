"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) of a language model as plain arrays, for the engine.

A projection W with an adapter computes W·q(x) + (alpha / rank) · up·(down·x). Knows which projections there are, what
an adapter may be, and how adapters are initialised. Does not know how they are trained: that is training/lora.py's,
which needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine

PROJECTIONS = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
    "down": "ffn_down",
}  # fmt: skip
"""What `lora_targets` may name → GGUF's name of the tensor in each block."""


class Adapters:
    """The adapters of a model's blocks: for each projection named, down float32 [rank, in] and up float32 [out, rank].

    `arrays` holds them as "blk.0.attn_q.down" and "blk.0.attn_q.up", rows in the order of the file's. Initialised as
    in LoRA: `down` uniform in ±1/√in (Kaiming), from a generator with a fixed seed, and `up` zero, so that the model is
    unchanged at first.

    Raises:
        UsageError: a projection is unknown, or named twice, or narrower than the rank.
    """

    def __init__(self, engine: Engine, rank: int, alpha: float, targets: Sequence[str]):
        self.rank, self.alpha, self.targets = rank, alpha, tuple(targets)
        shapes = {tensor.name: tensor.shape for tensor in engine.tensors}
        random = np.random.RandomState(0)  # its stream is the same in every version of numpy
        self.arrays: dict[str, np.ndarray] = {}
        for name in adapted(engine.blocks, targets):
            rows, columns = shapes[f"{name}.weight"]
            check_rank(rank, rows, columns, name)
            bound = columns**-0.5
            self.arrays[f"{name}.down"] = random.uniform(-bound, bound, (rank, columns)).astype(np.float32)
            self.arrays[f"{name}.up"] = np.zeros((rows, rank), np.float32)

    @property
    def names(self) -> list[str]:
        """The adapted projections: "blk.0.attn_q" …"""
        return [name.removesuffix(".down") for name in self.arrays if name.endswith(".down")]

    @property
    def factor(self) -> float:
        """The scale of an adapter's output: alpha / rank."""
        return self.alpha / self.rank

    def put(self, engine: Engine, arrays: Mapping[str, np.ndarray]) -> None:
        """Take these arrays, and let the engine run with them.

        Raises:
            UsageError: one is missing, has another shape or is not finite.
        """
        for name, own in self.arrays.items():
            shape = arrays[name].shape if name in arrays else None
            if shape != own.shape:
                found = "none" if shape is None else f"one of {list(shape)}"
                raise UsageError(f"learned weights: expected {name} of {list(own.shape)}, got {found}")
        self.arrays = {name: np.array(arrays[name], np.float32) for name in self.arrays}
        self.give(engine, self.arrays)

    def give(self, engine: Engine, arrays: Mapping[str, np.ndarray]) -> None:
        """Let an engine run with these arrays, which are of the right shapes."""
        for name in self.names:
            engine.adapt(f"{name}.weight", arrays[f"{name}.down"], arrays[f"{name}.up"] * np.float32(self.factor))


def adapted(blocks: int, targets: Sequence[str]) -> list[str]:
    """The names of the projections in `blocks` blocks: "blk.0.attn_q" …

    Raises:
        UsageError: one is unknown or named twice, or there is none.
    """
    for target in targets:
        if target not in PROJECTIONS:
            known = ", ".join(PROJECTIONS)
            raise UsageError(f'backbone.lora_targets: there is no projection "{target}": expected some of {known}')
    if not targets or len(set(targets)) < len(targets):
        raise UsageError(f"backbone.lora_targets: expected each projection once, got {', '.join(targets) or 'none'}")
    return [f"blk.{block}.{PROJECTIONS[target]}" for block in range(blocks) for target in targets]


def check_rank(rank: int, rows: int, columns: int, name: str) -> None:
    """Raises UsageError for a rank above the smaller side of a matrix [rows, columns]."""
    most = min(rows, columns)
    if not 1 <= rank <= most:
        raise UsageError(f"backbone.lora_rank: expected 1 to {most}, the smaller side of {name}, got {rank}")
