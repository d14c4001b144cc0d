"""Teacher and student of a distillation: a decoder as a Llama model's file has it, and one that is ternary.

Knows how the one becomes the other. Does not know losses, texts or how files are written.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from bitrl.plugins.backbones.engine.engine import plan
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.tools.convert import TERNARY
from bitrl.plugins.backbones.training.decoder import After, Block, Decoder, DecoderShape, part_of
from bitrl.plugins.backbones.training.decoder_file import SourceFile, Weights, shape_of

ARCHITECTURE = "llama"
"""Of teachers. Qwen3's norms of heads have no place in the ternary architecture of files."""


@attrs.frozen
class TeacherShape(DecoderShape):
    """The shape of a decoder of which `blocks` are kept, of `whole` in the teacher."""

    whole: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether no block is left out, so that the output head can be used."""
        return self.blocks == self.whole


def states_after(decoder: Decoder, tokens: Tensor) -> list[After]:
    """tokens int64 [B, T], padded on the right, which changes nothing before it → what each block did, [B, T, ...]."""
    return [After(*(x.view(*tokens.shape, -1) for x in after)) for after in decoder.after_blocks(tokens)]


def student_of(teacher: Decoder) -> Decoder:
    """A ternary student that starts from the teacher's weights, with sub-norms of 1.

    The embedding and the output norm and head are the teacher's and not trained: they are shared, not copied.
    """
    shape = attrs.evolve(teacher.shape, format="ternary-f16", sub_norms=True)
    with torch.device("meta"):
        student = Decoder(shape, teacher.token_embd, teacher.output_norm, teacher.output)
    for theirs, ours in zip(teacher.blk, student.blk, strict=True):
        for name in shape.matrices():
            setattr(ours, name, nn.Parameter(getattr(theirs, name).detach().clone()))
        for name, length in shape.norms().items():
            norm = getattr(theirs, name, torch.ones(length, device=teacher.token_embd.device))
            setattr(ours, name, nn.Parameter(norm.detach().clone()))
    return student


@torch.no_grad()
def fit_sub_norms(student: Decoder, teacher: Decoder, tokens: Tensor) -> None:
    """Give each sub-norm the gain that takes back, on average over `tokens`, the scale that it removes.

    With u = x / rms(x), the g that brings g·u nearest to x in the mean square is the mean of rms(x) over the tokens.
    """
    x = teacher.embed(tokens.flatten())
    parts = [part_of(tokens, teacher.shape, x.dtype)]
    for theirs, ours in zip(teacher.blk, student.blk, strict=True):
        assert isinstance(theirs, Block)
        mixed, _ = theirs.attended(x, parts)
        h = x + theirs.products(mixed, "attn_sub_norm", "attn_output")
        hidden = theirs.gated(h)
        x = h + theirs.products(hidden, "ffn_sub_norm", "ffn_down")
        for name, states in (("attn_sub_norm", mixed), ("ffn_sub_norm", hidden)):
            ours.get_parameter(name).fill_(states.square().mean(dim=-1).sqrt().mean())


# ---- from a model file ----


def read_shape(file: SourceFile, layers: int | None) -> TeacherShape:
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
    whole = int(plan(file).shape.blocks)
    if layers is not None and layers > whole:
        raise ModelFileError(file.path, f"has {whole} blocks, fewer than the {layers} asked for: give --layers less")
    if any(tensor.name.endswith("_norm_in.weight") for tensor in file.tensors()):
        raise ModelFileError(file.path, "has norms before single projections, which a student cannot take over")
    return TeacherShape(**attrs.asdict(shape_of(file, "fp32", layers), recurse=False), whole=whole)


def read_teacher(file: SourceFile, shape: TeacherShape) -> Decoder:
    """The teacher's first blocks in float32, its embedding rounded as the student's file will hold it.

    Raises:
        ModelFileError: a tensor is missing or damaged.
    """
    weights, kinds = Weights(file, shape), {tensor.name: tensor.type for tensor in file.tensors()}

    def table(name: str) -> Tensor:
        values = weights.read(name)
        return values if keeps_bytes(kinds[f"{name}.weight"]) else values.half().float()

    head = table("output") if shape.is_whole and "output.weight" in kinds else None
    with torch.device("meta"):
        teacher = Decoder(shape, table("token_embd"), weights.read("output_norm"), head)
    for index, block in enumerate(teacher.blk):
        for name in (*shape.matrices(), *shape.norms()):
            setattr(block, name, nn.Parameter(weights.read(f"blk.{index}.{name}"), requires_grad=False))
    return teacher


def keeps_bytes(kind: str) -> bool:
    """Whether a teacher's embedding of this type goes into the student's file as it is; others become F16."""
    return kind in ("F16", "Q8_0")
