"""The BitNet b1.58 model in torch, as it is trained: quantised forward pass, float32 master weights; and its
full-precision twin, the same model without the quantisation.

Knows the architecture and its arithmetic, with straight-through gradients. Does not know texts, losses or files.
Activations are float32 on purpose. Ternary products are integers, and exact; gradients, and all products of the twin,
are of bfloat16 where `torch.set_float32_matmul_precision("medium")` allows it, with sums in float32 that are rounded at
the end. Measured on one thread of an AMD EPYC with AVX-512 VNNI and BF16, [4096, 256] by [256, 1536]: 90 GFLOP/s in
float32, 205 in bfloat16, 400 in int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@attrs.frozen
class Shape:
    """The hyper-parameters of a model. Row lengths (width, ffn) are multiples of 256: the TQ2_0 format asks for it."""

    vocab: int = 4096
    width: int = 256
    blocks: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 768
    theta: float = 10000.0
    context: int = 512
    eps: float = 1e-5
    ternary: bool = True

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """BitNet b1.58's absmean quantisation: t in {-1, 0, 1} (float32) and the scale w, so that weight ≈ t * w.

    The scale is rounded to float16 first, as it is stored in a file, so that training and the file agree exactly.
    """
    scale = weight.abs().mean().clamp(min=1e-5).half().float()
    return (weight / scale).round_().clamp_(-1, 1), scale


class _NormedProducts(torch.autograd.Function):
    """RMSNorm, int8 quantisation with one absmax scale per row, and the product with ternary matrices, in one step.

    One function rather than three because training is bound by memory traffic, not arithmetic: only x and the integers
    are kept. The gradient is that of the same product with the quantisers taken as identities (straight-through):
    rounding has no useful gradient of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, *weights: Tensor) -> Tensor:
        inverse_rms = (x * x).mean(dim=1, keepdim=True).add_(eps).rsqrt_()
        normed = (x * inverse_rms).mul_(norm)
        step = normed.abs().amax(dim=1, keepdim=True).clamp_(min=1e-5).div_(127.0)
        q = normed.mul_(1 / step).round_().to(torch.int8)  # within ±127 by construction
        parts = [ternarise(weight) for weight in weights]
        ternary = torch.cat([t for t, _ in parts]).to(torch.int8)
        row_scale = torch.cat([w.expand(len(t)) for t, w in parts])
        y = integer_product(q, ternary.t()).to(x.dtype).mul_(row_scale).mul_(step)
        ctx.save_for_backward(x, norm, inverse_rms, q, step, ternary.mul(row_scale[:, None]))
        ctx.rows = [len(weight) for weight in weights]
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, inverse_rms, q, step, weight = ctx.saved_tensors
        gradient = multiplied(gradients[0])
        for_weights = product(gradient.t(), q * step)
        for_normed = product(gradient, weight)
        unit = x * inverse_rms
        along = for_normed * unit
        for_norm = along.sum(dim=0)
        along = (along @ norm).div_(x.shape[1]).unsqueeze_(1)
        for_x = for_normed.mul_(norm).sub_(unit.mul_(along)).mul_(inverse_rms)
        return (for_x, for_norm, None, *for_weights.split(ctx.rows))


class _Product(torch.autograd.Function):
    """x · weightᵀ, all three products of it by `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = multiplied(gradients[0])
        return product(gradient, weight), product(gradient.t(), x)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 [M, K] by int8 [K, N] → [M, N], exact for sums below 2^24: int32, or elsewhere than on a CPU float32."""
    if a.device.type == "cpu":
        return torch._int_mm(a, b)
    return a.float() @ b.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] by [K, N] → [M, N], all of one type, float32 or float64."""
    return (multiplied(a) @ multiplied(b)).to(b.dtype)


def multiplied(x: Tensor) -> Tensor:
    """As what it is multiplied: bfloat16 where float32 may be ("medium"). PyTorch itself does so on few CPUs."""
    allowed = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"
    return x.bfloat16() if allowed and x.dtype == torch.float32 else x


def normed_products(x: Tensor, norm: Tensor, shape: Shape, *weights: Tensor) -> Tensor:
    """RMSNorm(x) [..., K] by weights [R_i, K] → [..., sum of R_i]: quantised as BitNet b1.58 does, or as they are."""
    if not shape.ternary:
        normed = F.rms_norm(x.reshape(-1, x.shape[-1]), norm.shape, norm, shape.eps)
        y: Tensor = _Product.apply(normed, torch.cat(weights))  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)
    return ternary_products(x, norm, shape.eps, *weights)


def ternary_products(x: Tensor, norm: Tensor, eps: float, *weights: Tensor) -> Tensor:
    """`normed_products` of a quantised model."""
    y: Tensor = _NormedProducts.apply(x.reshape(-1, x.shape[-1]), norm, eps, *weights)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class _SquaredReluGate(torch.autograd.Function):
    """relu(gate)² · up as one function, to save passes over memory."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        positive = gate.relu()
        ctx.save_for_backward(positive, up)
        return positive.square().mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        positive, up = ctx.saved_tensors
        (gradient,) = gradients
        result = gradient.new_empty(*gradient.shape[:-1], 2 * gradient.shape[-1])
        for_gate, for_up = result.chunk(2, dim=-1)
        torch.mul(gradient, positive, out=for_up)
        torch.mul(for_up, up, out=for_gate).mul_(2.0)
        for_up.mul_(positive)
        return result


def squared_relu_gate(gate_up: Tensor) -> Tensor:
    """[..., 2F], gate beside up → relu(gate)² · up [..., F]."""
    y: Tensor = _SquaredReluGate.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


def rotary_table(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim / 2] of the rotary embedding; angles in float64, as angles should be."""
    half = shape.head_dim // 2
    rates = shape.theta ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * rates
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in NeoX order: the two halves of a head are the pair's coordinates. x [..., T, head_dim]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, [B, heads, T, head_dim] each. For texts this short, plain products beat the fused kernel."""
    length = q.shape[-2]
    future = torch.full((length, length), float("-inf"), device=q.device).triu_(1)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + future
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed


@attrs.frozen
class Part:
    """Texts [batch, length] that are attended to together, with the rotary table of that length."""

    batch: int
    length: int
    cos: Tensor
    sin: Tensor

    @property
    def tokens(self) -> int:
        """How many there are, padding included."""
        return self.batch * self.length


class Block(nn.Module):
    """h = x + o(norm(attention(norm(x)))); out = h + down(norm(relu(gate(n))² · up(n))), n = norm(h)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim

        def matrix(rows: int, columns: int) -> nn.Parameter:
            # Only the ratios within a matrix matter to its ternary values; the size sets how fast Adam can flip them.
            return nn.Parameter(torch.randn(rows, columns) * 0.02)

        self.attn_q = matrix(shape.width, shape.width)
        self.attn_k = matrix(kv_width, shape.width)
        self.attn_v = matrix(kv_width, shape.width)
        self.attn_output = matrix(shape.width, shape.width)
        self.ffn_gate = matrix(shape.ffn, shape.width)
        self.ffn_up = matrix(shape.ffn, shape.width)
        self.ffn_down = matrix(shape.width, shape.ffn)
        self.attn_norm = nn.Parameter(torch.ones(shape.width))
        self.attn_sub_norm = nn.Parameter(torch.full((shape.width,), 0.5))
        self.ffn_norm = nn.Parameter(torch.ones(shape.width))
        self.ffn_sub_norm = nn.Parameter(torch.full((shape.ffn,), 0.5))

    def forward(self, x: Tensor, parts: Sequence[Part]) -> Tensor:
        """x [N, width], the tokens of all parts one after another → [N, width]. Only attention sees the parts."""
        shape = self.shape
        qkv = normed_products(x, self.attn_norm, shape, self.attn_q, self.attn_k, self.attn_v)
        attended = torch.cat(
            [self.attend(each, part) for each, part in zip(qkv.split([p.tokens for p in parts]), parts, strict=True)]
        )
        h = x + normed_products(attended, self.attn_sub_norm, shape, self.attn_output)
        gate_up = normed_products(h, self.ffn_norm, shape, self.ffn_gate, self.ffn_up)
        hidden = squared_relu_gate(gate_up)
        return h + normed_products(hidden, self.ffn_sub_norm, shape, self.ffn_down)

    def attend(self, qkv: Tensor, part: Part) -> Tensor:
        """Queries, keys and values of one part [B * T, ...] → what they attend to [B * T, width]."""
        shape = self.shape
        heads = qkv.view(part.batch, part.length, -1, shape.head_dim).transpose(1, 2)
        qk, v = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        q, k = rotate(qk, part.cos, part.sin).split([shape.heads, shape.kv_heads], dim=1)
        groups = shape.heads // shape.kv_heads
        attended = causal_attention(q, k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1))
        return attended.transpose(1, 2).reshape(part.tokens, shape.width)


class BitNet(nn.Module):
    """The whole model. Attribute names are GGUF's tensor names, so exporting is a walk over the parameters.

    The embeddings of tokens with `number_features` [vocab, k] (a zero row: none) are a learned projection of those,
    [k, width], and nothing else. Learned one by one, each number would get its own noise, which a linear reading of
    many numbers cannot tell from what they say.
    """

    number_features: Tensor
    of_words: Tensor

    def __init__(self, shape: Shape, number_features: Tensor | None = None):
        super().__init__()
        self.shape = shape
        features = torch.zeros(shape.vocab, 1) if number_features is None else number_features
        self.register_buffer("number_features", features, persistent=False)
        self.register_buffer("of_words", (features == 0).all(dim=1, keepdim=True).float(), persistent=False)
        self.number_embd = nn.Parameter(torch.randn(features.shape[1], shape.width) * 0.1)
        # As large as what a block adds at first: with the usual 0.02, the first attention would drown which digit
        # it is. The output norm makes up for it in the tied logits.
        self.token_embd = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.1)
        self.output_norm = nn.Parameter(torch.full((shape.width,), 0.2))
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.blocks))

    def embeddings(self) -> Tensor:
        """Of all tokens [vocab, width]."""
        return torch.addmm(self.token_embd * self.of_words, self.number_features, self.number_embd)

    def residuals(self, *parts: Tensor) -> Iterator[list[Tensor]]:
        """Parts, each tokens int64 [B, T], texts of a similar length → the residual stream after each block in turn, a
        tensor [B, T, width] for each part.

        Texts are padded on the right; attention is causal, so padding changes nothing before it. Everything but
        attention is done for all parts at once.
        """
        layout = [
            Part(len(each), each.shape[1], *rotary_table(self.shape, each.shape[1], each.device)) for each in parts
        ]
        tokens = torch.cat([each.flatten() for each in parts])
        # As in `embeddings`, without making all of them.
        words = F.embedding(tokens, self.token_embd) * self.of_words[tokens]
        x = torch.addmm(words, self.number_features[tokens], self.number_embd)
        for block in self.blk:
            x = block(x, layout)
            yield [
                each.view(part.batch, part.length, -1)
                for each, part in zip(x.split([p.tokens for p in layout]), layout, strict=True)
            ]

    def logits(self, residual: Tensor) -> Tensor:
        """The last residual [..., width] → next-token logits [..., vocab] (tied embedding)."""
        return F.rms_norm(residual, (self.shape.width,), self.output_norm, self.shape.eps) @ self.embeddings().t()
