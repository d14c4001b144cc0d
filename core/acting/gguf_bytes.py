"""GGUF files as bytes: keys, tensors, and the digests that show damage.

Knows the container (version 3). Does not know what keys and tensors mean. The digests are those of
bitrl.plugins.backbones.files.model_file, which reads them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import attrs
import numpy as np

ALIGNMENT = 32
TENSOR_KEY, HEADER_KEY = "bitrl.tensor_sha256", "bitrl.header_sha256"

_STRING, _ARRAY = 8, 9
_TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}


@attrs.frozen(eq=False)
class RawKey:
    """A key's value as it lies in a file: GGUF's type of it and of its elements, how many these are, and its bytes."""

    type: int
    element_type: int
    count: int
    value: bytes


@attrs.frozen(eq=False)
class RawTensor:
    """A tensor as it lies in a file: GGML's type, its shape with the fastest dimension first, and its bytes."""

    type: int
    shape: tuple[int, ...]
    data: bytes | memoryview


Value = str | np.ndarray | RawKey


def gguf_bytes(keys: Mapping[str, Value], tensors: Mapping[str, RawTensor | np.ndarray]) -> list[bytes | memoryview]:
    """A file of these keys and tensors in pieces, sealed with its digests. Arrays are float32 [n] as tensors, one-
    dimensional as keys.
    """
    zeros = "0" * 64
    whole = {**keys, TENSOR_KEY: zeros, HEADER_KEY: zeros}
    raw = {name: each if isinstance(each, RawTensor) else _of_array(each) for name, each in tensors.items()}
    header = [b"GGUF", struct.pack("<IQQ", 3, len(raw), len(whole))]
    header += [_string(name) + _value(value) for name, value in whole.items()]
    data: list[bytes | memoryview] = []
    at = 0
    for name, tensor in raw.items():
        dims = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        header.append(_string(name) + struct.pack("<I", len(tensor.shape)) + dims + struct.pack("<IQ", tensor.type, at))
        padding = -len(tensor.data) % ALIGNMENT
        data += [tensor.data, bytes(padding)]
        at += len(tensor.data) + padding
    text = b"".join(header)
    text += bytes(-len(text) % ALIGNMENT)
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    text = _with_digest(text, TENSOR_KEY, digest.hexdigest())
    return [_with_digest(text, HEADER_KEY, hashlib.sha256(text).hexdigest()), *data]


def _with_digest(header: bytes, name: str, digest: str) -> bytes:
    """The header with a digest in the place of its zeros."""
    place = header.index(_string(name)) + len(_string(name)) + 12
    return header[:place] + digest.encode() + header[place + 64 :]


def _of_array(array: np.ndarray) -> RawTensor:
    flat = np.ascontiguousarray(array, "<f4")
    return RawTensor(0, tuple(reversed(flat.shape)), flat.tobytes())


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        kind = _TYPES[value.dtype.str[1:]]
        little = value.astype(value.dtype.newbyteorder("<"))
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + little.tobytes()
    array = struct.pack("<IQ", value.element_type, value.count) if value.type == _ARRAY else b""
    return struct.pack("<I", value.type) + array + value.value
