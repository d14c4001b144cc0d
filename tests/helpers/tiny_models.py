"""Random models as GGUF files, and the plain float64 forward pass they are compared with."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import torch
from tokenizers import pre_tokenizers

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass
class TinyModel:
    """Shape and weights of one random model; `ternary[name]` is ([rows, columns] of -1, 0, 1; scale).

    With `weights`, a type of the gguf package, matrices are not ternary: `dense[name]` is (the file's bytes; their
    values, float32 [rows, columns]).
    Architectures are bitnet-b1.58, llama, qwen2, qwen3, gemma2, gemma3, phi3 and smollm3; `forward` does not know llama
    and smollm3, whose rows lie in another order. `input_norms` puts a norm before each projection, as BitNet's
    embedding models have it. Of gemma2 and gemma3, all blocks but each `every`-th see `window` tokens. `caps` are
    gemma2's, of scores and of logits.
    `adapters[name]` is (down [rank, columns], up [rows, rank]), which `forward` adds to that matrix's product.
    """

    width: int = 256
    ffn: int = 512
    blocks: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 300
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5
    architecture: str = "bitnet-b1.58"
    head_dim: int = 0  # 0: width // heads
    input_norms: bool = False
    window: int = 0
    every: int = 6
    caps: tuple[float, float] = (3.0, 5.0)
    seed: int = 0
    weights: str | None = None
    dense: dict[str, tuple[bytes, np.ndarray]] = field(default_factory=dict)
    ternary: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray = field(default_factory=lambda: np.zeros(0))
    adapters: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.head_dim = self.head_dim or self.width // self.heads
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        rows = dict(zip(MATRICES, (q, kv, kv, self.width, self.ffn, self.ffn, self.width), strict=True))
        inputs = dict.fromkeys(MATRICES, self.width) | {"attn_output": q, "ffn_down": self.ffn}
        norms = {"attn_norm": self.width, "ffn_norm": self.width}
        if self.architecture == "bitnet-b1.58":
            norms |= {"attn_sub_norm": q, "ffn_sub_norm": self.ffn}
        if self.architecture in ("qwen3", "gemma3"):
            norms |= {"attn_q_norm": self.head_dim, "attn_k_norm": self.head_dim}
        if self.architecture in ("gemma2", "gemma3"):
            norms |= {"post_attention_norm": self.width, "post_ffw_norm": self.width}
        if self.input_norms:
            norms |= {f"{name}_norm_in": n for name, n in inputs.items()}
        self.embedding = rng.normal(size=(self.vocabulary, self.width)).astype(np.float16)
        for i in range(self.blocks):
            for name in MATRICES:
                columns = inputs[name]
                scale = float(np.float16(rng.uniform(0.5, 2) / np.sqrt(columns)))
                codes = rng.integers(-1, 2, size=(rows[name], columns)).astype(np.int8)
                self.ternary[f"blk.{i}.{name}.weight"] = (codes, scale)
                if self.weights:
                    kind = gguf.GGMLQuantizationType[self.weights]
                    raw = gguf.quantize((rng.normal(size=codes.shape) * scale).astype(np.float32), kind)
                    self.dense[f"blk.{i}.{name}.weight"] = (raw.tobytes(), gguf.dequantize(raw, kind))
            for name, n in norms.items():
                self.vectors[f"blk.{i}.{name}.weight"] = rng.uniform(0.5, 1.5, n).astype(np.float32)
            for name in ("attn_q", "attn_k", "attn_v") if self.architecture == "qwen2" else ():
                self.vectors[f"blk.{i}.{name}.bias"] = rng.normal(size=rows[name]).astype(np.float32)
        self.vectors["output_norm.weight"] = np.ones(self.width, np.float32)

    def keys(self) -> dict[str, Any]:
        """The metadata, tokenizer included: 256 byte tokens, then merges of two."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        extra = [a + b for a in alphabet[40:60] for b in alphabet[40:60]][: self.vocabulary - len(alphabet)]
        own = {
            "block_count": self.blocks,
            "embedding_length": self.width,
            "feed_forward_length": self.ffn,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_rms_epsilon": self.eps,
            "rope.freq_base": self.theta,
            "rope.dimension_count": self.head_dim,
            "context_length": self.context,
            "vocab_size": self.vocabulary,
        }
        if self.head_dim != self.width // self.heads:
            own |= {"attention.key_length": self.head_dim, "attention.value_length": self.head_dim}
        if self.window:
            own |= {"attention.sliding_window": self.window, "attention.sliding_window_pattern": self.every}
        if self.architecture == "gemma2":
            own |= {"attn_logit_softcapping": self.caps[0], "final_logit_softcapping": self.caps[1]}
        return {
            "general.architecture": self.architecture,
            **{f"{self.architecture}.{name}": value for name, value in own.items()},
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "bitrl-2",
            "tokenizer.ggml.tokens": alphabet + extra,
            "tokenizer.ggml.merges": [f"{token[0]} {token[1]}" for token in extra],
            "tokenizer.ggml.add_bos_token": False,
        }

    def write(
        self,
        path: Path,
        kind: str = "I2_S",
        seal: bool = False,
        changes: Mapping[str, Any] | None = None,
        patch: Callable[[str, bytes], bytes] = lambda name, data: data,
        embedding: tuple[int, bytes] | None = None,
    ) -> Path:
        """Writes the file with matrices in I2_S (128 n weights), "I2_S on ARM" (64 n), or a type of the gguf package.

        `changes` replaces metadata (None removes a key), `patch` replaces a tensor's bytes,
        `embedding` is another (GGML type, bytes) for the embedding. `seal` adds unsealed digests.
        """
        keys = self.keys() | dict(changes or {})
        keys = {name: value for name, value in keys.items() if value is not None}
        if seal:
            keys |= {"bitrl.tensor_sha256": "0" * 64, "bitrl.header_sha256": "0" * 64}
        kind_number, data = embedding or (1, self.embedding.tobytes())
        tensors: list[tuple[str, int, tuple[int, ...], bytes]] = [
            ("token_embd.weight", kind_number, self.embedding.shape, data)
        ]
        tensors += [(name, 0, v.shape, v.tobytes()) for name, v in self.vectors.items()]
        for name, (codes, scale) in self.ternary.items():
            if name in self.dense:
                number = gguf.GGMLQuantizationType[self.weights or "F32"]
                tensors.append((name, number.value, codes.shape, self.dense[name][0]))
            elif kind.startswith("I2_S"):
                tensors.append((name, 36, codes.shape, i2_s(codes, scale, 16 if kind == "I2_S on ARM" else 32)))
            else:
                number = gguf.GGMLQuantizationType[kind]
                data = gguf.quantize(codes * np.float32(scale), number).tobytes()
                tensors.append((name, number.value, codes.shape, data))
        tensors = [(name, kind_, shape, patch(name, data)) for name, kind_, shape, data in tensors]
        path.write_bytes(gguf_bytes(keys, tensors))
        return path

    def forward(self, tokens: list[int], format: str = "ternary") -> list[np.ndarray]:
        """The residual stream after the embedding and after each block, float64 [length, width] each."""
        x = torch.from_numpy(self.embedding[tokens].astype(np.float64))
        if self.architecture in ("gemma2", "gemma3"):
            x = x * float(np.float32(self.width**0.5))
        states = [x.numpy()]
        for i in range(self.blocks):
            x = self.block(i, x, format)
            states.append(x.numpy())
        return states

    def matrix(self, name: str, format: str) -> torch.Tensor:
        """A matrix as that format has it, float64 [rows, columns]."""
        codes, scale = self.ternary[name]
        w = torch.from_numpy(self.dense[name][1] if name in self.dense else codes * np.float32(scale)).double()
        if format == "bf16":
            return w.bfloat16().double()
        if format.startswith("ternary") and name in self.dense:
            mean = w.abs().mean().clamp(min=1e-5)
            return (w / mean).round().clamp(-1, 1) * mean
        if format == "int8":
            step = w.abs().amax(1, keepdim=True) / 127
            return (w / step.where(step != 0, 1)).round() * step
        if format == "fp8":
            step = w.abs().amax(1, keepdim=True) / 448
            return fp8(w / step.where(step != 0, 1)) * step
        if format == "int4":  # a step for each 32 columns, itself an integer times the row's
            blocks = torch.nn.functional.pad(w, (0, -w.shape[1] % 32)).view(len(w), -1, 32)
            largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
            row_step = w.abs().amax(1).view(-1, 1, 1) / 119
            tries = []
            for end in (7, -8):  # how many steps the block's largest weight is
                step = row_step * (largest / (end * row_step.where(row_step != 0, 1))).round()
                codes = (blocks / step.where(step != 0, 1)).round().clamp(-abs(end), 7)
                tries.append(codes * step)
            errors = [((tried - blocks) ** 2).sum(2, keepdim=True) for tried in tries]
            return tries[1].where(errors[1] < errors[0], tries[0]).flatten(1)[:, : w.shape[1]]
        return w

    def block(self, i: int, x: torch.Tensor, format: str = "ternary") -> torch.Tensor:
        """One block on float64 [length, width]."""
        length, head_dim = len(x), self.head_dim
        local = self.window and (i + 1) % self.every != 0
        theta = 10000.0 if local and self.architecture == "gemma3" else self.theta

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            if f"blk.{i}.{name}.weight" not in self.vectors:  # this architecture has no such norm
                return x
            weight = torch.from_numpy(self.vectors[f"blk.{i}.{name}.weight"].astype(np.float64))
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * weight

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            x = norm(x, f"{name}_norm_in")
            w = self.matrix(f"blk.{i}.{name}.weight", format)
            if format in ("bf16", "fp32"):
                y = (x.bfloat16() if format == "bf16" else x.float()).double() @ w.T
            elif format == "fp8":
                s = 448 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
                y = fp8(x * s) @ w.T / s
            else:
                s = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
                y = (x * s).round().clamp(-128, 127) @ w.T / s
            if f"blk.{i}.{name}.weight" in self.adapters:
                down, up = (torch.from_numpy(part).double() for part in self.adapters[f"blk.{i}.{name}.weight"])
                y = y + x @ down.T @ up.T
            bias = self.vectors.get(f"blk.{i}.{name}.bias")
            return y if bias is None else y + torch.from_numpy(bias).double()

        def rotate(x: torch.Tensor) -> torch.Tensor:
            half = head_dim // 2
            frequency = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / head_dim)
            angle = torch.arange(length, dtype=torch.float64)[:, None, None] * frequency
            a, b = x[..., :half], x[..., half:]
            return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

        n = norm(x, "attn_norm")
        q = rotate(norm(linear(n, "attn_q").view(length, self.heads, head_dim), "attn_q_norm"))
        k = rotate(norm(linear(n, "attn_k").view(length, self.kv_heads, head_dim), "attn_k_norm"))
        v = linear(n, "attn_v").view(length, self.kv_heads, head_dim)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / head_dim**0.5
        if self.architecture == "gemma2":
            scores = self.caps[0] * (scores / self.caps[0]).tanh()
        seen = torch.ones(length, length).tril().bool()
        if local:
            seen &= torch.ones(length, length).triu(1 - self.window).bool()
        scores = scores.masked_fill(~seen, -torch.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, -1)
        x = x + norm(linear(norm(attended, "attn_sub_norm"), "attn_output"), "post_attention_norm")
        n = norm(x, "ffn_norm")
        gate = linear(n, "ffn_gate")
        if self.architecture == "bitnet-b1.58":
            gate = gate.relu() ** 2
        elif self.architecture in ("gemma2", "gemma3"):
            gate = torch.nn.functional.gelu(gate, approximate="tanh")
        else:
            gate = torch.nn.functional.silu(gate)
        hidden = gate * linear(n, "ffn_up")
        return x + norm(linear(norm(hidden, "ffn_sub_norm"), "ffn_down"), "post_ffw_norm")


def fp8(values: torch.Tensor) -> torch.Tensor:
    """float64 → the nearest of E4M3, by way of float32; still float64."""
    return torch.from_numpy(values.numpy().astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64))


def i2_s(codes: np.ndarray, scale: float, stride: int = 32) -> bytes:
    """[rows, columns] of -1, 0, 1 in bitnet.cpp's packing for x86, or for ARM with a stride of 16."""
    q = (codes.reshape(-1, 4, stride) + 1).astype(np.uint8)
    packed = q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]
    return packed.tobytes() + struct.pack("<f", scale) + bytes(28)


def gguf_string(text: str | bytes) -> bytes:
    """Length and bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    """Type and value: bool, u32, f32, string, or an array of strings, of bools, of i32 or of f32 (numpy's); bytes as
    they are.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, np.ndarray):
        number = {"int32": 5, "float32": 6}[value.dtype.name]
        return struct.pack("<IIQ", 9, number, len(value)) + value.tobytes()
    if isinstance(value, list) and all(isinstance(each, bool) for each in value):
        return struct.pack("<IIQ", 9, 7, len(value)) + bytes(value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))


def gguf_bytes(
    keys: dict[str, Any], tensors: list[tuple[str, int, tuple[int, ...], bytes]], alignment: int = 32
) -> bytes:
    """A whole file; shapes slowest first. Written here byte by byte, so that tests can also write wrong ones."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, value in keys.items():
        header += gguf_string(name) + gguf_value(value)
    data = b""
    for name, kind, shape, raw in tensors:
        header += gguf_string(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return header + bytes(-len(header) % alignment) + data
