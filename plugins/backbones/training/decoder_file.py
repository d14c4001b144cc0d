"""A decoder in torch from any file the engine reads: GGUF, or a Hugging Face checkpoint.

Knows how keys and tensors of files become a decoder's shape and weights, as csrc/architecture.c and csrc/model.c do for
the engine, which has checked the file before anything is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.plugins.backbones.engine.engine import plan
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.files.ternary_blocks import has_block_scales
from bitrl.plugins.backbones.training.decoder import MATRICES, Decoder, DecoderShape
from bitrl.plugins.backbones.training.products import FrozenMatrix, is_ternary

SourceFile = ModelFile | HuggingFaceFile

_ACTIVATIONS = {"relu2": "relu2", "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu"}
_USUAL = {"llama": "silu", "qwen3": "silu", "gemma3": "gelu"}
LEARN = ("bitnet-b1.58", "bitnet-25", "bitnet", "llama", "qwen3", "gemma3")
"""The architectures that this decoder computes; the engine runs more."""
_LARGEST_GEMMA = 62
"""Blocks of Gemma 3 27B, whose queries are scaled by another width than their own; no key says so."""


def shape_of(
    file: SourceFile, format: str = "fp32", layers: int | None = None, activation: str | None = None
) -> DecoderShape:
    """The shape of a file's decoder, of its first `layers` blocks (None: all).

    Raises:
        ModelFileError: the engine could not run the file; it says why. Or it can, but this decoder does not compute it.
    """
    found = plan(file, activation=activation).shape
    metadata, names = file.metadata(), {tensor.name for tensor in file.tensors()}
    kind = str(metadata["general.architecture"])
    gemma = kind == "gemma3"
    if why := _cannot_learn(kind, metadata, names):
        raise ModelFileError(file.path, f"can be run, but not learn (backbone.lora_rank, grpo, ppo-lm): it {why}")

    def key(name: str, otherwise: Any) -> Any:
        return metadata.get(f"{kind}.{name}", otherwise)

    blocks = int(found.blocks)
    input_norms = "blk.0.attn_q_norm_in.weight" in names
    scaled = found.width // found.heads if gemma and blocks == _LARGEST_GEMMA else found.head_dim
    window, local = _window(key, blocks) if gemma else (0, frozenset())
    return DecoderShape(
        vocab=found.vocabulary, width=found.width, blocks=layers or blocks, heads=found.heads,
        kv_heads=found.kv_heads, ffn=found.ffn, theta=found.rope_theta, context=found.context, eps=found.eps,
        format="ternary" if format.startswith("ternary-1") else format, head_dim=found.head_dim,
        activation=_ACTIVATIONS[activation or key("hidden_activation", _USUAL.get(kind, "relu2"))],
        sub_norms=kind.startswith("bitnet") and not input_norms, input_norms=input_norms,
        head_norms=kind in ("qwen3", "gemma3"), post_norms=gemma,
        embedding_scale=float(np.float32(np.sqrt(found.width))) if gemma else 1.0,
        attention_scale=float(np.float32(key("attention.scale", 0))) or float(scaled) ** -0.5,
        window=window, local=local,
        turned=kind == "llama" and isinstance(file, ModelFile),
        local_theta=float(key("rope.freq_base_swa", key("rope.local_freq_base", 10000.0))),
    )  # fmt: skip


def _cannot_learn(kind: str, metadata: Mapping[str, Any], names: Container[str]) -> str | None:
    """What of a model that the engine runs is not computed here."""
    if kind not in LEARN:
        return f"is of architecture {kind}; those that learn are {', '.join(LEARN)}"
    scaled = metadata.get(f"{kind}.rope.scaling.type", "linear") != "none" and any(
        metadata.get(f"{kind}.{name}", 1) != 1 for name in ("rope.scaling.factor", "rope.scale_linear")
    )
    if scaled or "rope_freqs.weight" in names:
        return "scales its positions"
    if kind != "gemma3" and metadata.get(f"{kind}.attention.sliding_window"):
        return "has blocks that see a window alone (attention.sliding_window)"
    return None


def _window(key: Callable[[str, Any], Any], blocks: int) -> tuple[int, frozenset[int]]:
    """How many tokens Gemma's local blocks see, and which these are: as listed, or all but each n-th."""
    pattern, window = key("attention.sliding_window_pattern", None), key("attention.sliding_window", None)
    if window is None:
        return 0, frozenset()
    if isinstance(pattern, np.ndarray):
        return int(window), frozenset(np.flatnonzero(pattern).tolist())
    every = 6 if pattern is None else int(pattern)
    return int(window), frozenset(i for i in range(blocks) if (i + 1) % every != 0)


class Weights:
    """A file's tensors as a decoder has them: rows of heads in NeoX order, norms with their 1, scales multiplied in."""

    def __init__(self, file: SourceFile, shape: DecoderShape, i2s_packing: str = "x86"):
        self.file, self.shape, self.i2s_packing = file, shape, i2s_packing
        self.names = {tensor.name for tensor in file.tensors()}
        self.offset = np.float32(shape.post_norms and not isinstance(file, ModelFile))  # of gemma's norms

    def read(self, name: str) -> Tensor:
        """The tensor `name`.weight, float32.

        Raises:
            ModelFileError: it is missing or damaged.
        """
        if f"{name}.weight" not in self.names:
            raise ModelFileError(self.file.path, f"lacks the tensor {name}.weight")
        weights = self.file.weights(f"{name}.weight", self.i2s_packing)
        if (scale := self.scale(name)) != 1:
            weights = weights * scale
        if _turns(self.shape, name):
            weights = unturned(weights, self.shape.head_dim)
        return torch.from_numpy(weights + self.offset if _lacks_its_one(name, weights) else weights)

    def scale(self, name: str) -> np.float32:
        """The factor of a matrix that the file holds in a tensor of its own; 1 where it has none."""
        if f"{name}.scale" not in self.names:
            return np.float32(1)
        return np.float32(self.file.weights(f"{name}.scale", self.i2s_packing).item())


def from_file(decoder: Decoder, name: str, rows: np.ndarray) -> np.ndarray:
    """A file's rows of a block's matrix (or of what is added to it) in the decoder's order."""
    return unturned(rows, decoder.shape.head_dim) if _turns(decoder.shape, name) else rows


def as_in_file(decoder: Decoder, name: str, rows: np.ndarray) -> np.ndarray:
    """A decoder's rows of a block's matrix in the file's order, as the engine takes them."""
    return turned(rows, decoder.shape.head_dim) if _turns(decoder.shape, name) else rows


def weights_in_file(decoder: Decoder, name: str, weights: np.ndarray) -> np.ndarray:
    """All weights of a decoder's tensor as its file would hold them, which is how the engine's `replace` takes them."""
    if _lacks_its_one(name, weights):
        return weights - decoder.norm_offset
    scale = decoder.file_scales.get(name)
    return as_in_file(decoder, name, weights if scale is None else weights / scale)


def _lacks_its_one(name: str, weights: np.ndarray) -> bool:
    """Whether a norm is of those that Hugging Face's Gemma writes without their 1; others lack nothing."""
    return weights.ndim == 1 and not name.endswith("_norm_in")


def _turns(shape: DecoderShape, name: str) -> bool:
    """Whether the file has the rows of this matrix in another order than the decoder."""
    return shape.turned and name.endswith(("attn_q", "attn_k"))


def unturned(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k in NeoX order, from llama.cpp's, which puts the two coordinates of a rotation side by side."""
    return weights.reshape(-1, head_dim // 2, 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape).copy()


def turned(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k in llama.cpp's order, from NeoX's."""
    return weights.reshape(-1, 2, head_dim // 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape).copy()


def read_decoder(
    file: SourceFile, format: str = "fp32", layers: int | None = None, *, learns: bool = False,
    activation: str | None = None, i2s_packing: str = "x86",
) -> Decoder:  # fmt: skip
    """The decoder of a file, its residual stream in float64 as the engine's.

    With `learns`, all its weights are parameters; else none is: matrices are as `format` holds them, and take a byte a
    weight or less than the file's floats.

    Raises:
        ModelFileError: a tensor is missing, damaged or of another shape.
    """
    shape = shape_of(file, format, layers, activation)
    weights = Weights(file, shape, i2s_packing)

    def around(name: str) -> Tensor | None:
        if f"{name}.weight" not in weights.names:
            return None
        value = weights.read(name)
        halved = value.half()  # as most files have embeddings: half the memory, where nothing is lost
        return halved if not learns and torch.equal(halved.float(), value) else value

    with torch.device("meta"):  # whose blocks' weights take no memory until they are read
        decoder = Decoder(shape, torch.empty(0), torch.empty(0), precision=torch.float64)
    decoder.norm_offset = weights.offset
    norm = around("output_norm")
    _place(decoder, "token_embd", around("token_embd"), learns)
    _place(decoder, "output_norm", torch.ones(shape.width) if norm is None else norm.float(), learns)
    _place(decoder, "output", around("output"), learns)
    for index, block in enumerate(decoder.blk):
        for name in shape.norms():
            _place(block, name, weights.read(f"blk.{index}.{name}"), learns)
        for name in MATRICES:
            value = weights.read(f"blk.{index}.{name}")
            if shape.ternary and has_block_scales(value.numpy()):
                why = f"blk.{index}.{name} has a scale for each block of a row, with which nothing learns here"
                raise ModelFileError(file.path, f"can be run, but not learn: {why}")
            if (scale := weights.scale(f"blk.{index}.{name}")) != 1:
                decoder.file_scales[f"blk.{index}.{name}"] = scale
            if learns:
                _place(block, name, _master(value, shape), True)
            else:
                delattr(block, name)
                setattr(block, name, FrozenMatrix(value, shape.format))
    return decoder


def _place(module: nn.Module, name: str, value: Tensor | None, learns: bool) -> None:
    """Put a weight where another was: one that learns, or does not."""
    delattr(module, name)
    if learns and value is not None:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value, persistent=False)


def _master(weight: Tensor, shape: DecoderShape) -> Tensor:
    """Weights that learn. Of ternary ones |w| is enlarged until its mean is the file's scale, so that they are rounded
    to exactly what the file holds: -1, 0 and 1 times one scale would be rounded by another, smaller one. The largest
    takes up what float32 rounded off in the others.
    """
    if not (shape.ternary and is_ternary(weight)):
        return weight
    scale, master = weight.abs().amax().double(), weight / (weight != 0).float().mean()
    excess = master.double().abs().sum() - scale * weight.numel()
    first = master.abs().argmax()
    master.view(-1)[first] -= (excess * weight.view(-1)[first].sign()).float()
    return master
