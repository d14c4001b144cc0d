"""Causal attention in torch, with the engine's bits where it is float64.

Knows queries, keys and values. Does not know models or their weights. Shapes: B texts of at most T tokens, which may go
on after the first of P others; K = P + T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitrl.plugins.backbones.engine import steps


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, unseen: Tensor, begins: Tensor, lengths: Tensor, window: int = 0
) -> Tensor:
    """Softmax attention of q [B, heads, T, head_dim] to k, v [B, kv_heads, K, head_dim] → [B, T, heads · head_dim].

    Args:
        q: queries, turned by their positions.
        k: keys, likewise.
        v: values.
        scale: of the scores.
        unseen: what is added to them, [T, K] or [B, T, K] (`unseen_from`).
        begins: how many of P each text follows, int64 [B].
        lengths: how many of T each text has, int64 [B]; what others attend to may be anything finite.
        window: tokens that each sees, itself included; 0: all.
    """
    if q.dtype == torch.float64 and q.device.type == "cpu" and q.shape[-1] % steps.COLUMNS == 0:
        y: Tensor = _EngineAttention.apply(q, k, v, scale, unseen, begins, lengths, window)  # type: ignore[no-untyped-call]
        return y
    batch, _, length, _ = q.shape
    mixed = attention_weights(q, k, scale, unseen) @ v
    return mixed.view(q.shape).transpose(1, 2).reshape(batch, length, -1)


def attention_weights(q: Tensor, k: Tensor, scale: float, unseen: Tensor) -> Tensor:
    """[B, kv_heads, heads / kv_heads · T, K]: of all queries of a key's heads, one head after another.

    For texts this short, plain products beat the fused kernel.
    """
    batch, heads, length, _ = q.shape
    scores = (by_key(q, k.shape[1]) @ k.transpose(-2, -1) * scale).view(batch, heads, length, -1)
    scores = scores + (unseen if unseen.dim() == 2 else unseen[:, None])
    return scores.softmax(dim=-1).view(batch, k.shape[1], -1, k.shape[2])


def by_key(q: Tensor, kv_heads: int) -> Tensor:
    """[B, heads, T, head_dim] → [B, kv_heads, heads / kv_heads · T, head_dim]."""
    return q.reshape(len(q), kv_heads, -1, q.shape[-1])


def unseen_from(queries: Tensor, keys: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    """What is added to scores: −∞ where a query's position [..., T] is before a key's [..., K], or `window` or more
    behind it (0: any distance is seen); else 0.
    """
    distance = queries[..., :, None] - keys[..., None, :]
    hidden = (distance < 0) | (distance >= window) if window else distance < 0
    return torch.zeros(hidden.shape, dtype=dtype, device=queries.device).masked_fill_(hidden, float("-inf"))


class _EngineAttention(torch.autograd.Function):
    """`attention` by the engine's own kernel. The gradient, for which the weights are computed again, is in float32, as
    those of the products around it are.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, unseen: Tensor, begins: Tensor, lengths: Tensor,
        window: int,
    ) -> Tensor:  # fmt: skip
        turned = q.detach().numpy(), k.detach().numpy(), v.detach().numpy()
        out = torch.from_numpy(
            steps.attended(*turned, begins.numpy(), lengths.numpy(), window, scale, torch.get_num_threads())
        )
        ctx.save_for_backward(q.float(), k.float(), v.float(), unseen.float(), out.float())
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, unseen, out = ctx.saved_tensors
        batch, heads, length, dim = q.shape
        of_out, out = (
            by_key(each.view(batch, length, heads, dim).transpose(1, 2), k.shape[1])
            for each in (gradients[0].float(), out)
        )
        weights = attention_weights(q, k, ctx.scale, unseen)
        for_v = weights.transpose(-2, -1) @ of_out
        along = torch.linalg.vecdot(of_out, out).unsqueeze_(-1)
        for_scores = (of_out @ v.transpose(-2, -1)).sub_(along).mul_(weights).mul_(ctx.scale)
        for_k = for_scores.transpose(-2, -1) @ by_key(q, k.shape[1])
        found = ((for_scores @ k).view(q.shape), for_k, for_v)
        return (*(each.double() for each in found), None, None, None, None, None)
