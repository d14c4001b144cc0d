"""Writes a student as a GGUF file that the engine runs and llama.cpp reads.

Knows GGUF's names and how ternary weights fit its types. Does not know how the student was trained.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from bitrl.plugins.backbones.files.gguf_writing import add_digests, gguf_writer, write_all
from bitrl.plugins.backbones.tools.convert import Source, file_keys, raw_bytes
from bitrl.plugins.backbones.training.decoder import Decoder
from bitrl.plugins.backbones.training.distillation.student import keeps_bytes
from bitrl.plugins.backbones.training.pretraining.export import pack_tq2_0
from bitrl.plugins.backbones.training.products import ternarise

ARCHITECTURE = "bitnet"
"""llama.cpp's name for it, which leaves the activation to a key."""


def pack_q4_0(ternary: np.ndarray, scale: float) -> np.ndarray:
    """Values in {-1, 0, 1} [R, K] (K a multiple of 32) as Q4_0: uint8 [R, K / 32 * 18].

    For rows that TQ2_0, in blocks of 256, cannot take. A block is the scale in float16 and 32 nibbles of value + 8,
    byte m holding weights m (low) and m + 16. Exact, unlike what a quantiser makes of the same weights: that takes
    the largest for -8 steps, and then 7 steps are not its opposite.
    """
    rows, columns = ternary.shape
    codes = (ternary + 8).astype(np.uint8).reshape(rows, columns // 32, 2, 16)
    nibbles = codes[:, :, 0] | codes[:, :, 1] << 4
    scales = np.broadcast_to(np.array([scale], np.float16).view(np.uint8), (*nibbles.shape[:2], 2))
    return np.concatenate([scales, nibbles], axis=2).reshape(rows, -1)


def matrix_type(columns: int) -> gguf.GGMLQuantizationType:
    """The smallest type that holds ternary rows of this length exactly, and that other programs know, too."""
    types = gguf.GGMLQuantizationType
    return types.TQ2_0 if columns % 256 == 0 else types.Q4_0 if columns % 32 == 0 else types.F16


def write_gguf(path: Path, student: Decoder, source: Source, facts: dict[str, str]) -> None:
    """Write `path` whole or not at all, sealed, with the tokenizer and embedding of the teacher's file `source`.

    `facts` are general.* metadata (name, license, description).

    Raises:
        RunFailed: the file cannot be written.
    """
    with gguf_writer(path, ARCHITECTURE) as writer:
        _add_metadata(writer, student, source, facts)
        _add_around(writer, student, source)
        for name, parameter in student.named_parameters():
            _add_tensor(writer, f"{name}.weight", parameter.detach().cpu())
        write_all(writer)


def _add_metadata(writer: gguf.GGUFWriter, student: Decoder, source: Source, facts: dict[str, str]) -> None:
    shape = student.shape
    for name, fact in facts.items():
        writer.add_string(f"general.{name}", fact)
    writer.add_block_count(shape.blocks)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_freq_base(shape.theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_context_length(shape.context)
    writer.add_vocab_size(shape.vocab)
    writer.add_string(f"{ARCHITECTURE}.hidden_activation", "silu")
    keys, _ = file_keys(source, None)
    for name, (value, *types) in keys.items():
        if name.startswith("tokenizer."):
            writer.add_key_value(name, value, *types)
    add_digests(writer)


def _add_around(writer: gguf.GGUFWriter, student: Decoder, source: Source) -> None:
    """The embedding and the output's norm and head, which are the teacher's."""
    writer.add_tensor("output_norm.weight", student.output_norm.cpu().numpy())
    kinds = {tensor.name: tensor.type for tensor in source.tensors()}
    for name, weights in (("token_embd.weight", student.token_embd), ("output.weight", student.output)):
        if weights is None:
            continue
        if keeps_bytes(kinds[name]):
            kind = gguf.GGMLQuantizationType[kinds[name]]
            data = raw_bytes(source, name).reshape(gguf.quant_shape_to_byte_shape(tuple(weights.shape), kind))
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, weights.half().cpu().numpy())


def _add_tensor(writer: gguf.GGUFWriter, name: str, value: Tensor) -> None:
    if value.dim() == 1:
        writer.add_tensor(name, value.float().numpy())
        return
    (ternary, scale), kind = ternarise(value), matrix_type(value.shape[1])
    if kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, (ternary * scale).half().numpy())
    else:
        pack = pack_tq2_0 if kind == gguf.GGMLQuantizationType.TQ2_0 else pack_q4_0
        writer.add_tensor(name, pack(ternary.numpy(), scale.item()), raw_dtype=kind)
