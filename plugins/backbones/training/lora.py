"""Low-rank adapters on a frozen decoder (LoRA, Hu et al. 2021, arXiv:2106.09685), as they learn.

y = W·q(x) + (alpha / rank) · up·(down·x), where x is the projection's float input: after its norm, before it is
quantised. W takes no gradient and no memory for one. adapters.py has the arrays of these weights, which need no torch.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.plugins.backbones.adapters import Adapters
from bitrl.plugins.backbones.training.decoder import Block, Decoder
from bitrl.plugins.backbones.training.decoder_file import as_in_file, from_file
from bitrl.plugins.backbones.training.products import product_as_in_engine


class Adapter(nn.Module):
    """factor · up·(down·x), in float32 with the bits of the engine's; down [rank, in], up [out, rank]."""

    def __init__(self, down: Tensor, up: Tensor, factor: float):
        super().__init__()
        self.down, self.up, self.factor = nn.Parameter(down), nn.Parameter(up), factor

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out], in the type of x."""
        rows = x.reshape(-1, x.shape[-1]).float()
        hidden = product_as_in_engine(rows, "fp32", self.down)
        y = product_as_in_engine(hidden, "fp32", self.up * self.factor)
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def add_adapters(decoder: Decoder, adapters: Adapters) -> None:
    """Put adapters beside the projections of a frozen decoder."""
    for name in adapters.names:
        block, projection = _block(decoder, name)
        down, up = adapters.arrays[f"{name}.down"], adapters.arrays[f"{name}.up"]
        up = from_file(decoder, name, up)
        block.adapters[projection] = Adapter(torch.tensor(down), torch.tensor(up), adapters.factor)


def learned_arrays(decoder: Decoder, adapters: Adapters) -> dict[str, np.ndarray]:
    """The weights of a decoder's adapters, as `Adapters.arrays` has them."""
    found: dict[str, np.ndarray] = {}
    for name in adapters.names:
        block, projection = _block(decoder, name)
        down, up = (weight.detach().cpu().numpy() for weight in block.adapters[projection].parameters())
        found |= {f"{name}.down": down.copy(), f"{name}.up": as_in_file(decoder, name, up).copy()}
    return found


@torch.no_grad()
def load_arrays(decoder: Decoder, adapters: Adapters) -> None:
    """Set a decoder's adapters to those of `adapters`."""
    for name in adapters.names:
        block, projection = _block(decoder, name)
        down, up = block.adapters[projection].parameters()
        down.copy_(torch.tensor(adapters.arrays[f"{name}.down"]))
        up.copy_(torch.tensor(from_file(decoder, name, adapters.arrays[f"{name}.up"])))


def _block(decoder: Decoder, name: str) -> tuple[Block, str]:
    """The block of "blk.0.attn_q", and "attn_q"."""
    _, index, projection = name.split(".")
    return cast(Block, decoder.blk[int(index)]), projection
