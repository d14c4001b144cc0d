"""The decoder in torch: BitNet b1.58, Llama, Qwen3 and Gemma 3, as the engine computes them (csrc/forward.c).

Knows the architectures, top to bottom. Does not know losses or texts; products.py has the formats' arithmetic, and
decoder_file.py reads a decoder from a model file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.engine import steps
from bitrl.plugins.backbones.training.attention import attention, unseen_from
from bitrl.plugins.backbones.training.products import (
    FrozenMatrix,
    as_in_engine,
    head_format,
    normed_products,
    product_as_in_engine,
    product_input,
    rms_norm,
    silu_gate,
)

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@attrs.frozen
class DecoderShape:
    """What there is to know of a decoder but its weights. By default, the starter model's: a BitNet b1.58.

    `format` is how matrices are multiplied (products.FORMATS). `window` is how many tokens the blocks in `local` see,
    which rotate by `local_theta`. `turned` says of the file that it has rows of q and k in llama.cpp's order.
    """

    vocab: int = 4096
    width: int = 256
    blocks: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 768
    theta: float = 10000.0
    context: int = 512
    eps: float = 1e-5
    format: str = "ternary-f16"
    head_dim: int = attrs.field(default=attrs.Factory(lambda self: self.width // self.heads, takes_self=True))
    activation: str = "relu2"
    sub_norms: bool = True
    input_norms: bool = False
    head_norms: bool = False
    post_norms: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = attrs.field(default=attrs.Factory(lambda self: self.head_dim**-0.5, takes_self=True))
    window: int = 0
    local: frozenset[int] = frozenset()
    local_theta: float = 10000.0
    turned: bool = False

    @property
    def ternary(self) -> bool:
        """Whether weights are -1, 0 and 1."""
        return self.format.startswith("ternary")

    def matrices(self) -> dict[str, tuple[int, int]]:
        """[rows, columns] of a block's matrices, by GGUF's names."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        up = (self.ffn, self.width)
        sizes = ((q, self.width), (kv, self.width), (kv, self.width), (self.width, q), up, up, (self.width, self.ffn))
        return dict(zip(MATRICES, sizes, strict=True))

    def norms(self) -> dict[str, int]:
        """The lengths of a block's norms, by GGUF's names."""
        q = self.heads * self.head_dim
        norms = {"attn_norm": self.width, "ffn_norm": self.width}
        if self.sub_norms:
            norms |= {"attn_sub_norm": q, "ffn_sub_norm": self.ffn}
        if self.head_norms:
            norms |= {"attn_q_norm": self.head_dim, "attn_k_norm": self.head_dim}
        if self.post_norms:
            norms |= {"post_attention_norm": self.width, "post_ffw_norm": self.width}
        if self.input_norms:
            norms |= {f"{name}_norm_in": columns for name, (_, columns) in self.matrices().items()}
        return norms


class _SquaredReluGate(torch.autograd.Function):
    """relu(gate)² · up as one function, to save passes over memory."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        gate, up = gate_up.chunk(2, dim=-1)
        positive = gate.relu()
        ctx.save_for_backward(positive, up)
        return positive.square().mul_(up)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
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


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """[..., 2F], gate beside up → activation(gate) · up [..., F]."""
    if activation == "relu2":
        return squared_relu_gate(gate_up)
    if activation == "silu":
        return silu_gate(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def rotary_table(
    theta: float, head_dim: int, length: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim / 2] of the rotary embedding; angles in float64, as angles should be, and of
    that type the engine's.
    """
    if dtype == torch.float64 and device.type == "cpu":
        cos, sin = map(torch.from_numpy, steps.angles(theta, length, head_dim))
        return cos, sin
    half = head_dim // 2
    rates = theta ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


class _Rotation(torch.autograd.Function):
    """The rotary embedding; its gradient is the gradient turned back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    (a, b), (first, second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).sub_(b * sin)
    torch.mul(b, cos, out=second).add_(a * sin)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in NeoX order: the two halves of a head are the pair's coordinates. x [..., T, head_dim]."""
    y: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


@attrs.frozen
class Part:
    """Texts [B, T] that are attended to together, with the rotary tables of their positions and what no token sees
    (`unseen`): of all blocks, and of local ones.

    Attributes:
        begins: how many tokens of the part before each text follows, int64 [B].
        lengths: how many tokens each has, int64 [B].
        places: where each of the part's tokens stands among B · T; None: there is one at each place.
        follows: which texts of the part before each text goes on with, int64 [B]; None: with none.
    """

    batch: int
    length: int
    rotation: tuple[Tensor, Tensor]
    local_rotation: tuple[Tensor, Tensor]
    unseen: Tensor
    local_unseen: Tensor
    begins: Tensor
    lengths: Tensor
    places: Tensor | None = None
    follows: Tensor | None = None

    @property
    def tokens(self) -> int:
        """How many there are, padding included unless they have places."""
        return self.batch * self.length if self.places is None else len(self.places)


def part_of(tokens: Tensor, shape: DecoderShape, dtype: torch.dtype) -> Part:
    """What attention needs to know of tokens [B, T], padded on the right."""
    batch, length = tokens.shape
    rotation = rotary_table(shape.theta, shape.head_dim, length, tokens.device, dtype)
    local = rotation
    if shape.local:
        local = rotary_table(shape.local_theta, shape.head_dim, length, tokens.device, dtype)
    positions = torch.arange(length, device=tokens.device)
    hidden, hidden_to_local = unseen_in(positions, positions, shape, dtype)
    begins = torch.zeros(batch, dtype=torch.int64, device=tokens.device)
    return Part(batch, length, rotation, local, hidden, hidden_to_local, begins, torch.full_like(begins, length))


def unseen_in(queries: Tensor, keys: Tensor, shape: DecoderShape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`unseen_from` of all blocks, and of local ones."""
    hidden = unseen_from(queries, keys, 0, dtype)
    return hidden, unseen_from(queries, keys, shape.window, dtype) if shape.local else hidden


def parts_after(
    prompts: Sequence[Tensor], texts: Sequence[Tensor], follows: Tensor, shape: DecoderShape, dtype: torch.dtype
) -> list[Part]:
    """A part of prompts, and one of the texts that follow them; of tokens one after another, without padding."""
    whole = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    lengths = torch.tensor([len(each) for each in prompts], device=follows.device)
    first = attrs.evolve(part_of(whole, shape, dtype), lengths=lengths, places=places_of(prompts))
    if not any(map(len, texts)):
        return [first]
    begins, lengths = lengths[follows], torch.tensor([len(each) for each in texts], device=follows.device)
    length = int(lengths.max())
    longest = part_of(torch.empty(1, first.length + length, device=follows.device), shape, dtype)
    own = begins[:, None] + torch.arange(length, device=follows.device)
    before = torch.arange(first.length, device=follows.device).expand(len(texts), -1)
    keys = torch.cat([before.where(before < begins[:, None], 1 << 40), own], dim=1)  # padding comes after everything
    rotation, local = (
        (cos[own][:, None], sin[own][:, None]) for cos, sin in (longest.rotation, longest.local_rotation)
    )
    hidden, hidden_to_local = unseen_in(own, keys, shape, dtype)
    places = places_of(texts)
    return [
        first, Part(len(texts), length, rotation, local, hidden, hidden_to_local, begins, lengths, places, follows)
    ]  # fmt: skip


def places_of(texts: Sequence[Tensor]) -> Tensor:
    """Where the tokens of texts stand, int64 [N], when these are padded on the right."""
    length = max(map(len, texts))
    return torch.cat([row * length + torch.arange(len(each), device=each.device) for row, each in enumerate(texts)])


class After(NamedTuple):
    """What a block did to N tokens: the residual stream behind it [N, width], and its queries, keys and values before
    rotation [N, heads · head_dim], keys and values with fewer heads.
    """

    residual: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor


class Block(nn.Module):
    """h = x + p(o(s(attention(norm(x))))); out = h + p(down(s(activation(gate(n)) · up(n)))), n = norm(h).

    s and p are the sub-norms and post-norms of the architectures that have them. Attributes are called as GGUF calls
    tensors: matrices are parameters that learn, or a FrozenMatrix, beside which an adapter may learn (lora.py).
    """

    adapters: nn.ModuleDict
    attn_q: nn.Parameter
    attn_k: nn.Parameter
    attn_q_norm: Tensor
    attn_k_norm: Tensor
    attn_sub_norm: Tensor
    ffn_sub_norm: Tensor

    def __init__(self, shape: DecoderShape, index: int = 0):
        super().__init__()
        self.shape, self.local = shape, index in shape.local
        self.adapters = nn.ModuleDict()
        for name, size in shape.matrices().items():
            # Only the ratios within a matrix matter to its ternary values; the size sets how fast Adam can flip them.
            weights = torch.empty(size)
            if not weights.is_meta:  # where weights that are read come next, and normal_ would import torch's compiler
                weights.normal_().mul_(0.02)
            setattr(self, name, nn.Parameter(weights))
        for name, length in shape.norms().items():
            setattr(self, name, nn.Parameter(torch.ones(length)))

    def products(self, x: Tensor, norm: str, *names: str) -> Tensor:
        """x [..., K] → its norm (where there is one) by the named matrices, side by side [..., sum of their rows]."""
        shape, weights = self.shape, [getattr(self, name) for name in names]
        weight = getattr(self, norm, None)
        if not shape.input_norms and all(isinstance(each, nn.Parameter) for each in weights):
            return normed_products(x, weight, shape.eps, shape.format, *weights)
        x = x if weight is None else rms_norm(x, weight, shape.eps)
        found = [self._product(x, name) for name in names]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def _product(self, x: Tensor, name: str) -> Tensor:
        """x [..., K], normed for all of its products → after the matrix's own norm, by the matrix and its adapter."""
        shape, matrix = self.shape, getattr(self, name)
        if shape.input_norms:
            x = rms_norm(x, getattr(self, f"{name}_norm_in"), shape.eps)
        if isinstance(matrix, FrozenMatrix):
            y: Tensor = matrix(x)
        else:
            y = normed_products(x, None, shape.eps, shape.format, matrix)
        return y + self.adapters[name](x) if name in self.adapters else y

    def attended(self, x: Tensor, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
        """x [N, width] → what attn_output reads [N, heads · head_dim], and queries, keys and values side by side."""
        qkv = self.products(x, "attn_norm", "attn_q", "attn_k", "attn_v")
        mixed, before = [], None
        for each, part in zip(qkv.split([part.tokens for part in parts]), parts, strict=True):
            found, before = self.attend(each, part, before)
            mixed.append(found)
        return torch.cat(mixed), qkv

    def attend(
        self, qkv: Tensor, part: Part, before: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Queries, keys and values of one part [tokens, ...] → what they attend to [tokens, heads · head_dim], and the
        part's keys and values [B, kv_heads, T, head_dim]. `before` has those of the part that it follows.
        """
        shape = self.shape
        if part.places is not None:
            qkv = qkv.new_zeros(part.batch * part.length, qkv.shape[1]).index_copy(0, part.places, qkv)
        heads = qkv.view(part.batch, part.length, -1, shape.head_dim).transpose(1, 2)
        qk, v = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        if shape.head_norms:
            q, k = qk.split([shape.heads, shape.kv_heads], dim=1)
            qk = torch.cat([rms_norm(q, self.attn_q_norm, shape.eps), rms_norm(k, self.attn_k_norm, shape.eps)], dim=1)
        rotation = part.local_rotation if self.local else part.rotation
        q, k = rotate(qk, *rotation).split([shape.heads, shape.kv_heads], dim=1)
        own = k, v
        if part.follows is not None:
            assert before is not None
            k, v = (
                torch.cat([old.index_select(0, part.follows), new], dim=2) for old, new in zip(before, own, strict=True)
            )
        unseen, window = (part.local_unseen, shape.window) if self.local else (part.unseen, 0)
        mixed = attention(q, k, v, shape.attention_scale, unseen, part.begins, part.lengths, window).flatten(0, 1)
        return mixed if part.places is None else mixed.index_select(0, part.places), own

    def gated(self, h: Tensor) -> Tensor:
        """h [..., width] → what ffn_down reads [..., ffn]."""
        return gated(self.products(h, "ffn_norm", "ffn_gate", "ffn_up"), self.shape.activation)

    def added(self, x: Tensor, by: Tensor, norm: str) -> Tensor:
        """x and what a product adds to it, after the architecture's post-norm."""
        return x + (rms_norm(by, getattr(self, norm), self.shape.eps) if self.shape.post_norms else by)

    def forward(self, x: Tensor, parts: Sequence[Part]) -> After:
        """x [N, width], the tokens of all parts one after another. Only attention sees the parts."""
        shape = self.shape
        mixed, qkv = self.attended(x, parts)
        h = self.added(x, self.products(mixed, "attn_sub_norm", "attn_output"), "post_attention_norm")
        out = self.added(h, self.products(self.gated(h), "ffn_sub_norm", "ffn_down"), "post_ffw_norm")
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        return After(out, *qkv.split([q_width, kv_width, kv_width], dim=-1))


class Decoder(nn.Module):
    """Blocks, and what is around them. Attributes are called as GGUF calls tensors.

    `token_embd` [vocab, width], `output_norm` [width] and `output` [vocab, width] (None: it is the embedding) learn
    where they are parameters. `precision` is the type of the residual stream and all between products (None: that of
    the embedding); the engine's is float64, since an activation that rounds to a neighbouring 8-bit code moves its
    token by about 1e-3.
    """

    token_embd: Tensor
    output_norm: Tensor
    output: Tensor | None

    def __init__(
        self, shape: DecoderShape, token_embd: Tensor, output_norm: Tensor, output: Tensor | None = None,
        precision: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        self.shape, self.precision = shape, precision
        for name, value in (("token_embd", token_embd), ("output_norm", output_norm), ("output", output)):
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value, persistent=False)
        self.norm_offset, self.file_scales = np.float32(0), dict[str, np.float32]()  # see decoder_file.weights_in_file
        self.head: FrozenMatrix | None = None  # of a model that does not learn, made when logits are first asked for
        self.blk = nn.ModuleList(Block(shape, index) for index in range(shape.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens [N] → the residual stream before the first block [N, width]."""
        x = F.embedding(tokens, self.token_embd)
        x = x if self.precision is None else x.to(self.precision)
        return x if self.shape.embedding_scale == 1 else x * self.shape.embedding_scale

    def after_blocks(self, *parts: Tensor) -> Iterator[After]:
        """Parts, each tokens int64 [B, T], texts of a similar length → what each block did, in turn, to the tokens of
        all parts one after another [N, ...].

        Texts are padded on the right; attention is causal, so padding changes nothing before it. Everything but
        attention is done for all parts at once.
        """
        x = self.embed(torch.cat([each.flatten() for each in parts]))
        return self.through_blocks(x, [part_of(each, self.shape, x.dtype) for each in parts])

    def through_blocks(self, x: Tensor, layout: Sequence[Part]) -> Iterator[After]:
        """The residual stream before the first block [N, width] → what each block did to it, in turn."""
        for block in self.blk:
            after: After = block(x, layout)
            yield after
            x = after.residual

    def residuals(self, *parts: Tensor) -> Iterator[list[Tensor]]:
        """Of `after_blocks`, the residual stream alone: a tensor [B, T, width] for each part."""
        for after in self.after_blocks(*parts):
            split = after.residual.split([each.numel() for each in parts])
            yield [x.view(*part.shape, -1) for x, part in zip(split, parts, strict=True)]

    def logits(self, residual: Tensor) -> Tensor:
        """The last residual [..., width] → next-token logits [..., vocab]."""
        shape, head = self.shape, self.token_embd if self.output is None else self.output
        format = head_format(shape.format)
        if format == "int8" and not isinstance(head, nn.Parameter):
            self.head = self.head or FrozenMatrix(head.float(), format)
            y: Tensor = self.head(rms_norm(residual, self.output_norm, shape.eps))
            return y
        if format != "int8" and as_in_engine(residual):  # float32 as they are: there are many
            rows = product_input(residual.flatten(0, -2), self.output_norm, shape.eps).float()
            return product_as_in_engine(rows, format, head).view(*residual.shape[:-1], -1)
        return normed_products(residual, self.output_norm, shape.eps, format, head.float())

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, T], padded on the right → logits [B, T, vocab]."""
        *_, (residual,) = self.residuals(tokens)
        return self.logits(residual)

    def completions(
        self, prompts: Sequence[Tensor], texts: Sequence[Tensor], follows: Tensor, hidden: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [N, vocab] that the N tokens of some texts are chosen by, one text after another; see
        interfaces.LanguagePolicy.module.

        A prompt is computed once, whatever follows it, and there is no padding outside of attention.
        """
        begun = [each[:-1] for each in texts]  # nothing is chosen after the last token
        x = self.embed(torch.cat([*prompts, *begun]))
        for after in self.through_blocks(x, parts_after(prompts, begun, follows, self.shape, x.dtype)):
            x = after.residual
        ends = torch.tensor([len(each) for each in prompts]).cumsum(0)
        at, places = int(ends[-1]), []
        for text, end in zip(begun, ends[follows.cpu()].tolist(), strict=True):
            places += [end - 1, *range(at, at + len(text))]
            at += len(text)
        x = x.index_select(0, torch.tensor(places, device=x.device))
        logits = self.logits(x)
        return (logits, rms_norm(x, self.output_norm, self.shape.eps)) if hidden else logits
