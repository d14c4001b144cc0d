"""GGUF files whose tensors hold several matrices, one under the other, as files with one matrix in each.

Phi-3's files have attn_qkv for attn_q, attn_k and attn_v, and ffn_up for ffn_gate and ffn_up. Rows of any type of
weights lie one after another, so the parts are stretches of the same bytes: nothing is copied.
"""

from __future__ import annotations

from typing import Any

from bitrl._engine import ffi, lib
from bitrl.plugins.backbones.files.gguf_handle import ModelFileError, key_of, message

_ERROR_BYTES = 256
_STEMS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_up": ("ffn_gate", "ffn_up")}


def unfused(handle: Any, path: str) -> Any:
    """A handle of the same file with a tensor for each matrix; None where nothing is fused.

    The handle given must outlive it. Raises ModelFileError when its tensors do not fit together.
    """
    architecture = key_of(handle, "general.architecture", path)
    if not isinstance(architecture, str) or architecture != "phi3":
        return None
    rows = _rows(handle, path)
    table, names = [], []
    tensors = [lib.bitrl_file_tensor(handle, i) for i in range(lib.bitrl_file_tensor_count(handle))]
    own_names = [bytes(ffi.buffer(tensor.name, tensor.name_bytes)).decode(errors="replace") for tensor in tensors]
    known = set(own_names)
    for tensor, name in zip(tensors, own_names, strict=True):
        stem = name.removesuffix(".weight").rpartition(".")[2]
        counts = rows.get(stem, ())
        apart = any(name.replace(f".{stem}.", f".{part}.") in known - {name} for part in _STEMS.get(stem, ()))
        fused = name.startswith("blk.") and tensor.dims == 2 and tensor.shape[1] == sum(counts) and not apart
        at = 0
        for part, count in zip(_STEMS[stem], counts, strict=True) if fused else ((None, 0),):
            names.append(ffi.new("char[]", name.replace(f".{stem}.", f".{part}.").encode()))
            item = ffi.new("bitrl_tensor *", tensor[0])
            if part is not None:
                item.name, item.name_bytes = names[-1], len(names[-1]) - 1
                item.shape[1], item.bytes = count, tensor.bytes // tensor.shape[1] * count
                item.offset = tensor.offset + tensor.bytes // tensor.shape[1] * at
                at += count
            table.append(item)
    keys = [lib.bitrl_file_key(handle, i)[0] for i in range(lib.bitrl_file_key_count(handle))]
    out, error = ffi.new("bitrl_file **"), ffi.new("char[]", _ERROR_BYTES)
    listed = ffi.new("bitrl_tensor[]", [each[0] for each in table])
    if lib.bitrl_file_assemble(ffi.new("bitrl_key[]", keys), len(keys), listed, len(table), False, out, error):
        raise ModelFileError(path, message(error))
    return ffi.gc(out[0], lib.bitrl_file_close)


def _rows(handle: Any, path: str) -> dict[str, tuple[int, ...]]:
    """How many rows each matrix has in a fused tensor; none where a key is missing, which the engine then finds."""

    def count(name: str, otherwise: Any = None) -> Any:
        found = key_of(handle, f"phi3.{name}", path)
        return found if isinstance(found, int) and 0 < found < 1 << 32 else otherwise

    heads, width, ffn = count("attention.head_count"), count("embedding_length"), count("feed_forward_length")
    if heads is None or width is None or ffn is None:
        return {}
    head_dim, kv_heads = count("attention.key_length", width // heads), count("attention.head_count_kv", heads)
    return {"attn_qkv": (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim), "ffn_up": (ffn, ffn)}
