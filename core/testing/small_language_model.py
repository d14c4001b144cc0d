"""A language model small enough to try algorithms on, with random weights: any text is made of its 256 bytes."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from bitrl.core.interfaces import Backbone
from bitrl.core.options import parse
from bitrl.core.registry import registry
from bitrl.plugins.backbones.files.gguf_writing import add_digests, gguf_writer, write_all

WIDTH, FFN, HEADS, BLOCKS, CONTEXT = 32, 64, 2, 1, 256
_FOLDER = tempfile.TemporaryDirectory(prefix="bitrl-testing-", ignore_cleanup_errors=True)  # until the process ends


def generative(width: int) -> Backbone:
    """The model in full precision, as a backbone of texts that generates; its `width` is its own."""
    record = registry().find("backbone", "fp32", built_in_first=True)
    options = parse(record.options, {"model": str(small_language_model()), "threads": 1}, "backbone")
    backbone: Backbone = record.load()(options, None)
    return backbone


@cache
def small_language_model() -> Path:
    """The model's file (GGUF), which is there as long as this process."""
    path = Path(_FOLDER.name) / "small.gguf"
    random = np.random.default_rng(0)
    with gguf_writer(path, "llama") as writer:
        writer.add_block_count(BLOCKS)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(FFN)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_context_length(CONTEXT)
        tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens += [tokens[0] * 2, "<end>"]  # GGUF has no list of no merges
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_merges([f"{tokens[0]} {tokens[0]}"])
        writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
        writer.add_eos_token_id(len(tokens) - 1)
        writer.add_add_bos_token(False)
        add_digests(writer)
        shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
        for block in range(BLOCKS):
            inner: dict[str, tuple[int, ...]] = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
            inner |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH,) * 2)
            inner |= {"ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN)}
            shapes |= {f"blk.{block}.{name}": shape for name, shape in inner.items()}
        for name, shape in shapes.items():
            values = random.standard_normal(shape) * 0.2 if len(shape) == 2 else np.ones(shape)
            writer.add_tensor(f"{name}.weight", values.astype(np.float32))
        write_all(writer)
    return path
