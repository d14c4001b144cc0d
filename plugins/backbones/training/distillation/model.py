"""A Llama decoder in torch: as the teacher has it, or ternary with sub-norms as the student learns it.

Knows the architecture and how to read it from a model file. Does not know losses, texts or how files are written.
Products of the student are those of pretraining's BitNet: absmean ternary weights, absmax int8 activations,
straight-through gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.engine.engine import plan
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.tools.convert import TERNARY
from bitrl.plugins.backbones.training.pretraining.model import causal_attention, rotate, ternary_products

ARCHITECTURE = "llama"
"""Of teachers. Qwen3's norms of heads have no place in the ternary architecture of files."""


@attrs.frozen
class Shape:
    """The hyper-parameters of a decoder: `blocks` of them kept, of `whole` in the teacher."""

    vocab: int
    width: int
    blocks: int
    whole: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    theta: float
    eps: float
    context: int

    @property
    def is_whole(self) -> bool:
        """Whether no block is left out, so that the output head can be used."""
        return self.blocks == self.whole

    def matrices(self) -> dict[str, tuple[int, int]]:
        """[rows, columns] of a block's matrices, by GGUF's names."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        up = (self.ffn, self.width)
        return {
            "attn_q": (q, self.width), "attn_k": (kv, self.width), "attn_v": (kv, self.width),
            "attn_output": (self.width, q), "ffn_gate": up, "ffn_up": up, "ffn_down": (self.width, self.ffn),
        }  # fmt: skip


class After(NamedTuple):
    """What a block did: the residual stream behind it [B, T, width], and its queries, keys and values before
    rotation [B, T, heads · head_dim], keys and values with fewer heads.
    """

    residual: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor


class Block(nn.Module):
    """h = x + o(s(attention(norm(x)))); out = h + down(s(silu(gate(n)) · up(n))), n = norm(h).

    The student's s are norms of their own (the sub-norms), and its products ternary; the teacher's s do nothing.
    """

    attn_output: nn.Parameter
    ffn_down: nn.Parameter

    def __init__(self, shape: Shape, ternary: bool):
        super().__init__()
        self.shape, self.ternary = shape, ternary
        for name, size in shape.matrices().items():
            setattr(self, name, nn.Parameter(torch.empty(size)))
        self.attn_norm = nn.Parameter(torch.ones(shape.width))
        self.ffn_norm = nn.Parameter(torch.ones(shape.width))
        if ternary:
            self.attn_sub_norm = nn.Parameter(torch.ones(shape.heads * shape.head_dim))
            self.ffn_sub_norm = nn.Parameter(torch.ones(shape.ffn))

    def _products(self, x: Tensor, norm: str, *names: str) -> Tensor:
        """x [..., K] → its norm by the named matrices, side by side [..., sum of their rows]."""
        weights = [getattr(self, name) for name in names]
        if self.ternary:
            return ternary_products(x, getattr(self, norm), self.shape.eps, *weights)
        if not norm.endswith("sub_norm"):
            x = F.rms_norm(x, x.shape[-1:], getattr(self, norm), self.shape.eps)
        return torch.cat([x @ weight.t() for weight in weights], dim=-1)

    def attended(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, width] → what attention_output reads [B, T, heads · head_dim], and queries, keys and values."""
        shape, (batch, length, _) = self.shape, x.shape
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        qkv = self._products(x, "attn_norm", "attn_q", "attn_k", "attn_v")
        queries, keys, values = qkv.split([q_width, kv_width, kv_width], dim=-1)
        q, k, v = (t.view(batch, length, -1, shape.head_dim).transpose(1, 2) for t in (queries, keys, values))
        groups = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = causal_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return mixed.transpose(1, 2).reshape(batch, length, q_width), queries, keys, values

    def gated(self, h: Tensor) -> Tensor:
        """h [B, T, width] → what ffn_down reads [B, T, ffn]."""
        gate, up = self._products(h, "ffn_norm", "ffn_gate", "ffn_up").chunk(2, dim=-1)
        return F.silu(gate) * up

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> After:
        """x [B, T, width]."""
        mixed, queries, keys, values = self.attended(x, cos, sin)
        h = x + self._products(mixed, "attn_sub_norm", "attn_output")
        out = h + self._products(self.gated(h), "ffn_sub_norm", "ffn_down")
        return After(out, queries, keys, values)


class Decoder(nn.Module):
    """Blocks, and what is around them. Attribute names are GGUF's tensor names.

    The embedding and the output norm and head are the teacher's and not trained: they are shared, not copied.
    """

    def __init__(self, shape: Shape, ternary: bool, embedding: Tensor, output_norm: Tensor, output: Tensor | None):
        super().__init__()
        self.shape = shape
        self.token_embd, self.output_norm, self.output = embedding, output_norm, output
        self.blk = nn.ModuleList(Block(shape, ternary) for _ in range(shape.blocks))

    def forward(self, tokens: Tensor) -> list[After]:
        """tokens int64 [B, T], padded on the right, which changes nothing before it → what each block did."""
        cos, sin = rotary_table(self.shape, tokens.shape[1], tokens.device)
        x, found = F.embedding(tokens, self.token_embd), []
        for block in self.blk:
            after: After = block(x, cos, sin)
            found.append(after)
            x = after.residual
        return found

    def logits(self, residual: Tensor) -> Tensor:
        """The last residual [..., width] → next-token logits [..., vocab]. Of a whole model only."""
        head = self.token_embd if self.output is None else self.output
        return F.rms_norm(residual, (self.shape.width,), self.output_norm, self.shape.eps) @ head.t()

    def around_to(self, device: torch.device) -> None:
        """Move also what is not a parameter."""
        self.to(device)
        self.token_embd, self.output_norm = self.token_embd.to(device), self.output_norm.to(device)
        self.output = None if self.output is None else self.output.to(device)


def rotary_table(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim / 2] of the rotary embedding; angles in float64, as angles should be."""
    half = shape.head_dim // 2
    rates = shape.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return angles.cos().float().to(device), angles.sin().float().to(device)


def student_of(teacher: Decoder) -> Decoder:
    """A ternary student that starts from the teacher's weights, with sub-norms of 1."""
    student = Decoder(teacher.shape, True, teacher.token_embd, teacher.output_norm, teacher.output)
    student.to(teacher.token_embd.device)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("sub_norm") for name in missing)
    return student


@torch.no_grad()
def fit_sub_norms(student: Decoder, teacher: Decoder, tokens: Tensor) -> None:
    """Give each sub-norm the gain that takes back, on average over `tokens`, the scale that it removes.

    With u = x / rms(x), the g that brings g·u nearest to x in the mean square is the mean of rms(x) over the tokens.
    """
    x = F.embedding(tokens, teacher.token_embd)
    cos, sin = rotary_table(teacher.shape, tokens.shape[1], tokens.device)
    for theirs, ours in zip(teacher.blk, student.blk, strict=True):
        assert isinstance(theirs, Block)
        assert isinstance(ours, Block)
        mixed, *_ = theirs.attended(x, cos, sin)
        h = x + mixed @ theirs.attn_output.t()
        hidden = theirs.gated(h)
        x = h + hidden @ theirs.ffn_down.t()
        ours.attn_sub_norm.fill_(mixed.square().mean(dim=-1).sqrt().mean())
        ours.ffn_sub_norm.fill_(hidden.square().mean(dim=-1).sqrt().mean())


# ---- from a model file ----


def read_shape(file: ModelFile | HuggingFaceFile, layers: int | None) -> Shape:
    """The shape of a teacher whose first `layers` blocks are kept (None: all).

    Raises:
        ModelFileError: it is no full-precision Llama model, or has fewer blocks.
    """
    kind = file.metadata().get("general.architecture")
    if str(kind).startswith("bitnet") or any(tensor.type in TERNARY for tensor in file.tensors()):
        raise ModelFileError(file.path, "is ternary already: name a full-precision model with --teacher")
    if kind != ARCHITECTURE:
        raise ModelFileError(file.path, f"holds a model of architecture {kind}: a teacher must be of {ARCHITECTURE}")
    # The engine knows what else there is to check: keys that fit each other, and what neither of us computes.
    shape = plan(file).shape
    whole = shape.blocks
    if layers is not None and layers > whole:
        raise ModelFileError(file.path, f"has {whole} blocks, fewer than the {layers} asked for: give --layers less")
    if any(tensor.name.endswith("_norm_in.weight") for tensor in file.tensors()):
        raise ModelFileError(file.path, "has norms before single projections, which a student cannot take over")
    return Shape(
        vocab=shape.vocabulary, width=shape.width, blocks=layers or whole, whole=whole, heads=shape.heads,
        kv_heads=shape.kv_heads, head_dim=shape.head_dim, ffn=shape.ffn, theta=shape.rope_theta, eps=shape.eps,
        context=shape.context,
    )  # fmt: skip


def read_teacher(file: ModelFile | HuggingFaceFile, shape: Shape) -> Decoder:
    """The teacher's first blocks in float32, its embedding rounded as the student's file will hold it.

    Raises:
        ModelFileError: a tensor is missing, damaged or of another shape.
    """
    tensors = {tensor.name: tensor for tensor in file.tensors()}

    def read(name: str, *size: int) -> Tensor:
        if f"{name}.weight" not in tensors:
            raise ModelFileError(file.path, f"lacks the tensor {name}.weight")
        weights = file.weights(f"{name}.weight")
        if weights.shape != size:
            raise ModelFileError(file.path, f"has {name}.weight of shape {weights.shape}, not {size}")
        turned = isinstance(file, ModelFile) and name.endswith(("attn_q", "attn_k"))
        return torch.from_numpy(_unturned(weights, shape.head_dim) if turned else weights)

    def table(name: str) -> Tensor:
        weights = read(name, shape.vocab, shape.width)
        return weights if keeps_bytes(tensors[f"{name}.weight"].type) else weights.half().float()

    head = table("output") if shape.is_whole and "output.weight" in tensors else None
    teacher = Decoder(shape, False, table("token_embd"), read("output_norm", shape.width), head)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            parameter.copy_(read(name, *parameter.shape))
    return teacher.requires_grad_(False)


def keeps_bytes(kind: str) -> bool:
    """Whether a teacher's embedding of this type goes into the student's file as it is; others become F16."""
    return kind in ("F16", "Q8_0")


def _unturned(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k in NeoX order, from llama.cpp's, which puts the two coordinates of a rotation side by side."""
    return weights.reshape(-1, head_dim // 2, 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape).copy()
