"""Small GGUF files for the loaders' tests: whole models of every kind, and the attacks known on other loaders.

Every file is built here, so that a reader sees what each one is; `python tests/helpers/hostile_files.py FOLDER` writes
them all (the seeds of the fuzzers).
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

sys.path.append(str(Path(__file__).parent))

from tiny_models import gguf_bytes, gguf_string, gguf_value, i2_s

Tensors = list[tuple[str, int, tuple[int, ...], bytes]]

TYPES = {name: gguf.GGMLQuantizationType[name].value for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")}
TYPES |= {name: gguf.GGMLQuantizationType[name].value for name in ("Q6_K", "TQ1_0", "TQ2_0")} | {"I2_S": 36}
BLOCKS = {  # types that the gguf package does not write: weights and bytes of a block, and where its scales stand
    "Q6_K": (256, 210, (208,)), "Q2_K": (256, 84, (80, 82)), "Q3_K": (256, 110, (108,)), "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)), "IQ4_NL": (32, 18, (0,)), "Q1_0": (128, 18, (0,)), "Q2_0": (64, 18, (0,)),
}  # fmt: skip
TYPES |= {"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "IQ4_NL": 20, "Q5_0": 6, "Q5_1": 7, "Q1_0": 41, "Q2_0": 42}
ARCHITECTURES = ("bitnet-b1.58", "bitnet-25", "bitnet", "llama", "qwen2", "gemma2", "phi3", "smollm3")
U8, I8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 5, 6, 7, 8, 9, 10
BIG = 2**63


def array(kind: int, count: int, data: bytes) -> bytes:
    """The type and value of a key, which says `count` elements whatever the data hold."""
    return struct.pack("<IIQ", ARRAY, kind, count) + data


def quantised(weights: np.ndarray, kind: str) -> bytes:
    """Ternary weights float32 [rows, columns] in one of TYPES."""
    if kind == "I2_S":
        return i2_s(np.sign(weights).astype(np.int8), float(np.abs(weights).max()))
    if kind in BLOCKS:  # any codes (of Q2_0: without a fourth one), one scale
        block, size, scales = BLOCKS[kind]
        codes = np.random.default_rng(1).integers(0, 256, (weights.size // block, size), np.uint8)
        codes = codes & ~(codes >> 1 & 0x55) if kind == "Q2_0" else codes
        for at in scales:
            codes[:, at : at + 2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
        return codes.tobytes()
    return gguf.quantize(weights, gguf.GGMLQuantizationType[kind]).tobytes()


def model(
    kind: str = "F16", architecture: str = "bitnet-b1.58", width: int = 2, ffn: int = 4, blocks: int = 1
) -> tuple[dict[str, Any], Tensors]:
    """The keys and tensors of a model in which every matrix that can be is of that type, the others F16."""
    rng = np.random.default_rng(0)
    a = architecture
    keys: dict[str, Any] = {
        "general.architecture": a,
        f"{a}.block_count": blocks,
        f"{a}.embedding_length": width,
        f"{a}.feed_forward_length": ffn,
        f"{a}.attention.head_count": 1,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.context_length": 16,
    }
    if a == "bitnet":
        keys[f"{a}.hidden_activation"] = "relu2"
    if a == "gemma2":
        keys |= {f"{a}.attn_logit_softcapping": 5.0, f"{a}.final_logit_softcapping": 3.0}
        keys[f"{a}.attention.sliding_window"] = 2
    if a == "llama":
        keys |= {f"{a}.rope.scaling.type": "yarn", f"{a}.rope.scaling.factor": 4.0}
        keys[f"{a}.rope.scaling.original_context_length"] = 8

    def tensor(name: str, rows: int, columns: int, wanted: str = kind) -> tuple[str, int, tuple[int, ...], bytes]:
        weights = (rng.integers(-1, 2, (rows, columns)) * 0.5).astype(np.float32)
        weights[0, 0] = 0.5
        block = 1 if wanted in ("F32", "F16", "BF16") else 256 if "_K" in wanted or "TQ" in wanted else 32
        block = BLOCKS[wanted][0] if wanted in BLOCKS else block
        fits = rows * columns % 128 == 0 if wanted == "I2_S" else columns % block == 0
        wanted = wanted if fits else "F16"
        return name, TYPES[wanted], (rows, columns), quantised(weights, wanted)

    tensors: Tensors = [tensor("token_embd.weight", 5, width, "F16")]
    for i in range(blocks):
        for name, n in {"attn_norm": width, "attn_sub_norm": width, "ffn_norm": width, "ffn_sub_norm": ffn}.items():
            if a.startswith("bitnet") or "sub" not in name:
                tensors.append((f"blk.{i}.{name}.weight", 0, (n,), np.ones(n, np.float32).tobytes()))
        for name in ("post_attention_norm", "post_ffw_norm") if a == "gemma2" else ():
            tensors.append((f"blk.{i}.{name}.weight", 0, (width,), np.ones(width, np.float32).tobytes()))
        for name in ("attn_q", "attn_k", "attn_v") if a == "qwen2" else ():
            tensors.append((f"blk.{i}.{name}.bias", 0, (width,), np.ones(width, np.float32).tobytes()))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.append(tensor(f"blk.{i}.{name}.weight", width, width))
        tensors.append(tensor(f"blk.{i}.ffn_gate.weight", ffn, width))
        tensors.append(tensor(f"blk.{i}.ffn_up.weight", ffn, width))
        tensors.append(tensor(f"blk.{i}.ffn_down.weight", width, ffn))
    return keys, tensors


def good() -> Iterator[tuple[str, bytes]]:
    """The smallest whole models of each type of weights and each architecture."""
    for kind in TYPES:
        ffn = 256 if "_K" in kind or "TQ" in kind or kind in ("Q1_0", "Q2_0") else 64 if kind == "I2_S" else 32
        yield kind.lower(), gguf_bytes(*model(kind, ffn=ffn))
    for architecture in ARCHITECTURES:
        yield architecture, gguf_bytes(*model("F32", architecture, blocks=2))


def bytes_of(name: str, tensors: Tensors, change: Any) -> Tensors:
    """The tensors with `change` applied to the bytes of one."""
    return [(n, kind, shape, change(raw) if n == name else raw) for n, kind, shape, raw in tensors]


def header(tensors: int, keys: int, rest: bytes, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + rest + bytes(64)


def key(rest: bytes, name: bytes = b"k") -> bytes:
    """A file of one metadata key."""
    return header(0, 1, gguf_string(name) + rest)


def tensor_file(shape: tuple[int, ...], kind: int = 0, data: bytes = bytes(64), offset: int = 0) -> bytes:
    """A file of one tensor; its shape slowest first."""
    entry = gguf_string("t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry
    return head + bytes(-len(head) % 32) + data


def attacks_on_the_container() -> Iterator[tuple[str, bytes]]:
    """Headers that lie about what follows."""
    one = ("t", 0, (4,), bytes(16))
    # 43 bytes: a key of one letter, whose array of arrays claims 2^64 - 1 elements (the rest is missing).
    hang = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<II", ARRAY, ARRAY)
    yield "43 bytes", (hang + b"\xff" * 8)[:43]
    yield "nothing", b""
    yield "another magic", header(0, 0, b"", magic=b"GGML")
    yield "big-endian magic", header(0, 0, b"", magic=b"FUGG")
    yield "version 0", header(0, 0, b"", version=0)
    yield "version 1", header(0, 0, b"", version=1)
    yield "version 4", header(0, 0, b"", version=4)
    yield "big-endian version", header(0, 0, b"", version=3 << 24)
    yield "keys 2^64-1", header(0, 2**64 - 1, b"")
    yield "keys 2^63", header(0, BIG, b"")
    yield "tensors 2^64-1", header(2**64 - 1, 0, b"")
    yield "tensors 2^32", header(2**32, 0, b"")
    for power in (31, 32, 61, 62, 63, 64):
        n = min(2**power, 2**64 - 1)
        yield f"name of 2^{power} bytes", header(0, 1, struct.pack("<Q", n))
        yield f"string of 2^{power} bytes", key(struct.pack("<IQ", STRING, n))
        yield f"array of 2^{power} strings", key(array(STRING, n, b""))
        yield f"array of 2^{power} u64", key(array(U64, n, b""))
        yield f"string of 2^{power} bytes in an array", key(array(STRING, 2, gguf_string("a") + struct.pack("<Q", n)))
    yield "string that ends where 2^64 wraps", key(struct.pack("<IQ", STRING, 2**64 - 40))
    yield "name of no bytes", key(struct.pack("<II", U32, 1), name=b"")
    yield "nested arrays", key(array(ARRAY, 1, array(U8, 1, b"\0")))
    yield "arrays nested 1000 times", key(struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 1000)
    yield "key of type 13", key(struct.pack("<IQ", 13, 0))
    yield "key of type 2^32-1", key(struct.pack("<IQ", 2**32 - 1, 0))
    yield "array of type 13", key(array(13, 0, b""))
    yield "a key twice", header(0, 2, (gguf_string("k") + gguf_value(1)) * 2)
    yield "a tensor twice", gguf_bytes({}, [one, one])
    yield "no dimensions", tensor_file(())
    yield "five dimensions", tensor_file((1, 1, 1, 1, 1))
    yield "2^32-1 dimensions", header(1, 0, gguf_string("t") + struct.pack("<I", 2**32 - 1))
    yield "no columns", tensor_file((4, 0))
    yield "no rows", tensor_file((0, 4))
    yield "product wraps to 0", tensor_file((2**32, 2**32))
    yield "product wraps to 4", tensor_file((2**62 + 1, 4))
    yield "product of (2^42+1) and 2^22 wraps to 2^22", tensor_file((2**42 + 1, 2**22))
    yield "(2^42+1) bytes wrap", tensor_file((2**42 + 1, 2**20))
    yield "bytes wrap", tensor_file((2**62,))
    yield "2^60 weights", tensor_file((2**20, 2**20, 2**20))
    yield "2^63 rows", tensor_file((BIG, 1))
    yield "I2_S of 2^63 weights", tensor_file((BIG,), TYPES["I2_S"])
    yield "Q8_0 of 33 columns", tensor_file((2, 33), TYPES["Q8_0"], bytes(128))
    yield "unknown type", tensor_file((4,), 1000)
    yield "an own type", tensor_file((128,), 1042, bytes(34))
    yield "removed type", tensor_file((4,), 4)
    yield "one byte short", tensor_file((16,), data=bytes(63))
    yield "beyond the end", tensor_file((16,), offset=64)
    yield "offset 2^64-32", tensor_file((16,), offset=2**64 - 32)
    yield "offset 2^63", tensor_file((16,), offset=BIG)
    yield "misaligned", tensor_file((4,), offset=1)
    for alignment in (0, 3, 2**17, 2**30, 2**31, 2**32 - 1):
        yield f"alignment {alignment}", gguf_bytes({"general.alignment": alignment}, [one])
    yield "alignment in words", gguf_bytes({"general.alignment": "32"}, [one])
    yield "alignment in 64 bits", gguf_bytes({"general.alignment": struct.pack("<IQ", U64, 32)}, [one])
    two = gguf_bytes({}, [("a", 0, (16,), bytes(64)), ("b", 0, (16,), bytes(64))])
    yield "the same data twice", two.replace(struct.pack("<QIQ", 16, 0, 64), struct.pack("<QIQ", 16, 0, 0))
    yield "overlapping data", two.replace(struct.pack("<QIQ", 16, 0, 64), struct.pack("<QIQ", 16, 0, 32))


def attacks_on_the_model() -> Iterator[tuple[str, bytes]]:
    """Whole files whose keys, shapes or weights cannot be."""
    keys, tensors = model()
    a = "bitnet-b1.58"
    yield "no keys", gguf_bytes({}, tensors)
    yield "no tensors", gguf_bytes(keys, [])
    yield "architecture of bytes", gguf_bytes(keys | {"general.architecture": array(U8, 12, a.encode())}, tensors)
    for name in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length"):
        huge = {"narrow": struct.pack("<IB", U8, 1), "array of bytes": array(U8, 1, b"\1"), "text": "1"}
        huge |= {"0": 0, "2^31": 2**31, "2^32-1": 2**32 - 1, "-1": struct.pack("<Ii", I32, -1)}
        huge |= {"2^63": struct.pack("<IQ", U64, BIG), "2^64-1": struct.pack("<IQ", U64, 2**64 - 1)}
        for what, value in huge.items():
            yield f"{name}: {what}", gguf_bytes(keys | {f"{a}.{name}": value}, tensors)
    yield "block_count: 4096", gguf_bytes(keys | {f"{a}.block_count": 4096}, tensors)
    yield "feed_forward_length: 2^20", gguf_bytes(keys | {f"{a}.feed_forward_length": 2**20}, tensors)
    yield "embedding_length: 2^16", gguf_bytes(keys | {f"{a}.embedding_length": 2**16}, tensors)
    others = {"rope.scaling.type": "ntk", "rope.dimension_count": 1, "attention.key_length": 1}
    for name, other in (others | {"hidden_activation": "gelu"}).items():
        yield f"{name}: {other}", gguf_bytes(keys | {f"{a}.{name}": other}, tensors)
    yield "head_count_kv: 2", gguf_bytes(keys | {f"{a}.attention.head_count_kv": 2}, tensors)
    for value in (float("nan"), float("inf"), -1.0, 0.0):
        yield f"epsilon: {value}", gguf_bytes(keys | {f"{a}.attention.layer_norm_rms_epsilon": value}, tensors)
        yield f"freq_base: {value}", gguf_bytes(keys | {f"{a}.rope.freq_base": value}, tensors)
    yield (
        "epsilon: array",
        gguf_bytes(keys | {f"{a}.attention.layer_norm_rms_epsilon": array(F32, 1, struct.pack("<f", 1))}, tensors),
    )
    yield "a vocabulary count that the embedding has not", gguf_bytes(keys | {f"{a}.vocab_size": 2**31 - 1}, tensors)
    yield "an escape sequence for a name", gguf_bytes(keys, [*tensors, ("\x1b[2J\r\n", 1000, (4,), bytes(16))])
    name, kind, _, raw = tensors[0]
    yield "an embedding that goes on into a norm", gguf_bytes(keys, [(name, kind, (9, 2), raw), *tensors[1:]])
    half = (name, TYPES["I2_S"], (32, 2), bytes(20))
    yield "an embedding of half a block", gguf_bytes(keys, [half, *tensors[1:]])
    lifted = [(name, kind, (1, 1, *shape) if "norm" in name else shape, raw) for name, kind, shape, raw in tensors]
    yield "a norm in three dimensions", gguf_bytes(keys, lifted)

    # Where the scales of a block stand: NaN, infinite, negative where it cannot be.
    places = {"F32": 0, "F16": 0, "BF16": 0, "Q8_0": 0, "Q4_0": 0, "Q4_1": 0, "Q6_K": 208, "TQ1_0": 52, "TQ2_0": 64}
    places |= {"Q2_K": 82, "Q3_K": 108, "Q4_K": 0, "Q5_K": 2, "IQ4_NL": 0, "Q5_0": 0, "Q5_1": 2, "Q1_0": 0, "Q2_0": 0}
    for scaled, at in places.items():
        scaled_keys, scaled_tensors = model(scaled, ffn=256)
        for value in (np.nan, np.inf, -np.inf):
            scale = np.float32(value).tobytes()[2:] if scaled == "BF16" else np.float16(value).tobytes()
            scale = np.float32(value).tobytes() if scaled == "F32" else scale

            def change(raw: bytes, scale: bytes = scale, at: int = at) -> bytes:
                return raw[:at] + scale + raw[at + len(scale) :]

            yield (
                f"{scaled} scale {value}",
                gguf_bytes(scaled_keys, bytes_of("blk.0.ffn_down.weight", scaled_tensors, change)),
            )
    i2s_keys, i2s_tensors = model("I2_S", ffn=64)
    for value in (np.nan, np.inf, -np.inf, -1.0):

        def change_last(raw: bytes, value: float = value) -> bytes:
            return raw[:-32] + np.float32(value).tobytes() + raw[-28:]

        yield f"I2_S scale {value}", gguf_bytes(i2s_keys, bytes_of("blk.0.ffn_down.weight", i2s_tensors, change_last))
    for name in ("blk.0.attn_norm.weight", "token_embd.weight"):
        not_finite = bytes_of(name, tensors, lambda raw: b"\xff" * len(raw))
        yield f"{name} of NaN", gguf_bytes(keys, not_finite)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in [*good(), *attacks_on_the_container(), *attacks_on_the_model()]:
        (folder / f"{''.join(c if c.isalnum() or c in '-.' else '_' for c in name)}.gguf").write_bytes(data)
