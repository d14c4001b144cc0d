"""Writes a trained model as a GGUF file, and reads one back into torch.

Knows GGUF's names and the TQ2_0 format; a full-precision model's matrices become float16. Does not know how the model
was trained.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer
from torch import Tensor

from bitrl.plugins.backbones.files.gguf_writing import add_digests, gguf_writer, write_all
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
from bitrl.plugins.backbones.training.decoder import Decoder, DecoderShape
from bitrl.plugins.backbones.training.decoder_file import read_decoder
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder
from bitrl.plugins.backbones.training.pretraining.vocabulary import Vocabulary
from bitrl.plugins.backbones.training.products import ternarise

ARCHITECTURES = {"relu2": "bitnet-b1.58", "silu": "bitnet"}
"""Activation → what a file's architecture is called. llama.cpp knows the second."""


def pack_tq2_0(ternary: np.ndarray, scale: float) -> np.ndarray:
    """Values in {-1, 0, 1} [R, K] (K a multiple of 256) as TQ2_0: uint8 [R, K / 256 * 66].

    A block is 256 weights: 2 x 32 bytes, byte m of half h holding weights 128 h + 32 i + m in its bit pairs i = 0
    .. 3 as value + 1, then the scale in float16, the same in every block.
    """
    rows, columns = ternary.shape
    codes = (ternary + 1).astype(np.uint8).reshape(rows, columns // 256, 2, 4, 32)
    packed = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=3)
    blocks = packed.reshape(rows, columns // 256, 64)
    scales = np.broadcast_to(np.array([scale], np.float16).view(np.uint8), (*blocks.shape[:2], 2))
    return np.concatenate([blocks, scales], axis=2).reshape(rows, -1)


def write_gguf(path: Path, model: NumberDecoder, vocabulary: Vocabulary, facts: dict[str, str]) -> None:
    """Write `path` whole or not at all, sealed. `facts` are general.* metadata (name, license, description).

    Raises:
        RunFailed: the file cannot be written.
    """
    with gguf_writer(path, ARCHITECTURES[model.shape.activation]) as writer:
        _add_metadata(writer, model.shape, vocabulary, facts)
        for name, parameter in model.named_parameters():
            if name == "number_embd":  # a part of the embeddings
                continue
            value = model.embeddings() if name == "token_embd" else parameter
            _add_tensor(writer, name, value.detach(), model.shape.ternary)
        write_all(writer)


def _add_metadata(writer: gguf.GGUFWriter, shape: DecoderShape, vocabulary: Vocabulary, facts: dict[str, str]) -> None:
    for name, fact in facts.items():
        writer.add_string(f"general.{name}", fact)
    if ARCHITECTURES[shape.activation] == "bitnet":  # which alone does not say it
        writer.add_string("bitnet.hidden_activation", shape.activation)
    writer.add_block_count(shape.blocks)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_freq_base(shape.theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_context_length(shape.context)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_merges(vocabulary.merges)
    kinds = dict.fromkeys(vocabulary.phrases, gguf.TokenType.USER_DEFINED)
    if vocabulary.end is not None:
        kinds[vocabulary.end] = gguf.TokenType.CONTROL
        writer.add_eos_token_id(vocabulary.tokens.index(vocabulary.end))
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in vocabulary.tokens])
    writer.add_add_bos_token(False)
    add_digests(writer)


def _add_tensor(writer: gguf.GGUFWriter, name: str, value: Tensor, ternary: bool) -> None:
    if name == "token_embd" or (value.dim() == 2 and not ternary):
        writer.add_tensor(f"{name}.weight", value.half().numpy())
    elif value.dim() == 1:
        writer.add_tensor(f"{name}.weight", value.float().numpy())
    else:
        values, scale = ternarise(value)
        writer.add_tensor(
            f"{name}.weight", pack_tq2_0(values.numpy(), scale.item()), raw_dtype=gguf.GGMLQuantizationType.TQ2_0
        )


def read_gguf(path: Path) -> tuple[Decoder, Tokenizer]:
    """A model file of ours in torch, with its tokenizer: for measuring, and for comparing with the engine.

    Raises:
        ModelFileError: it is not a model file, or it is damaged.
    """
    file = ModelFile(path)
    file.verify()
    kinds = {tensor.name: tensor.type for tensor in file.tensors()}
    format = "ternary" if kinds.get("blk.0.attn_q.weight") == "TQ2_0" else "fp32"
    return read_decoder(file, format, learns=True), tokenizer_of(file)
