"""Safetensors files that break a rule, or are odd but keep them all: for tests, and as seeds of the fuzzer."""

import json
import struct
from collections.abc import Callable
from typing import Any


def file_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with that header (an object, or its bytes) and data; `length` is what it claims the header to be."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """A tensor of a header; two float32 unless told."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _one(**changes: Any) -> Callable[[], bytes]:
    return lambda: file_bytes({"t": entry(**changes)}, bytes(8))


def _raw(text: str, data: bytes = bytes(8)) -> Callable[[], bytes]:
    return lambda: file_bytes(text.encode(), data)


ATTACKS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "seven bytes": lambda: bytes(7),
    "header of 2^63": lambda: file_bytes({}, bytes(64), 1 << 63),
    "header of 2^64-1": lambda: file_bytes({}, bytes(64), (1 << 64) - 1),
    "header beyond the end": lambda: file_bytes({}, b"", 3),
    "header above the limit": lambda: file_bytes(b" " * 100_000_001),
    "no header": lambda: bytes(8),
    "header not UTF-8": lambda: file_bytes(b'{"\xff": 1}'),
    "header not an object": _raw("[]", b""),
    "header cut": _raw('{"t": {"dtype": "F32"', b""),
    "header twice": _raw("{}{}", b""),
    "nested 500000 deep": lambda: file_bytes(b'{"t": ' + b"[" * 500_000),
    "nested objects": lambda: file_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "millions of tensors": lambda: file_bytes(b"{" + b",".join(b'"%d":{}' % i for i in range(1_000_000)) + b"}"),
    "millions of dimensions": lambda: file_bytes(b'{"t":[' + b"1," * 20_000_000 + b"1]}"),
    "endless number": lambda: file_bytes(b'{"t": ' + b"9" * 1_000_000 + b"}"),
    "twice a tensor": _raw(f'{{"t":{json.dumps(entry())},"t":{json.dumps(entry())}}}'),
    "twice a field": _raw('{"t":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "NaN": _raw('{"t":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "infinity": _raw('{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}'),
    "1e999": _raw('{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}'),
    "lone surrogate": _raw(f'{{"\\ud800":{json.dumps(entry())}}}'),
    "unknown type": _one(dtype="F31"),
    "type a number": _one(dtype=0),
    "type a list": _one(dtype=["F32"]),
    "negative dimension": _one(shape=[-2]),
    "negative product": _one(shape=[-1, -2]),
    "dimension a truth": _one(shape=[True, 2]),
    "dimension a fraction": _one(shape=[2.0]),
    "dimension of 2^63": _one(shape=[1 << 63]),
    "dimension of 2^64": _one(shape=[1 << 64]),
    "product wraps to 2": _one(shape=[(1 << 42) + 1, 1 << 22, 2], offsets=[0, 8]),
    "bytes wrap": _one(shape=[1 << 62], offsets=[0, 0]),
    "shape a number": _one(shape=2),
    "shape too long": _one(shape=[1] * 65 + [2]),
    "offsets negative": _one(offsets=[-8, 0]),
    "offsets reversed": _one(offsets=[8, 0]),
    "offsets beyond the end": _one(offsets=[8, 16]),
    "offsets of 2^64": _one(offsets=[(1 << 64) - 8, 1 << 64]),
    "one offset": _one(offsets=[8]),
    "three offsets": _one(offsets=[0, 8, 8]),
    "bytes do not fit shape": _one(shape=[1]),
    "no shape": lambda: file_bytes({"t": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "another field": lambda: file_bytes({"t": entry() | {"x": 1}}, bytes(8)),
    "entry a text": lambda: file_bytes({"t": "F32"}, bytes(8)),
    "overlap": lambda: file_bytes({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "same place": lambda: file_bytes({"a": entry(), "b": entry()}, bytes(8)),
    "hole": lambda: file_bytes({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "hole before": lambda: file_bytes({"a": entry(offsets=[4, 12])}, bytes(12)),
    "bytes left over": lambda: file_bytes({"a": entry()}, bytes(9)),
    "cut": lambda: file_bytes({"a": entry()}, bytes(7)),
}

VALID: dict[str, tuple[bytes, int]] = {
    "nothing": (file_bytes({}), 0),
    "one": (file_bytes({"t": entry()}, bytes(8)), 1),
    "padded": (file_bytes(json.dumps({"t": entry()}).encode() + b" " * 7, bytes(8)), 1),
    "metadata": (file_bytes({"__metadata__": {"format": "pt"}, "t": entry()}, bytes(8)), 1),
    "scalar": (file_bytes({"t": entry(shape=[], offsets=[0, 4])}, bytes(4)), 1),
    "empty tensors": (
        file_bytes(
            {"a": entry(shape=[0, 3], offsets=[0, 0]), "b": entry(), "c": entry(shape=[0], offsets=[8, 8])}, bytes(8)
        ), 3,
    ),
    "backwards": (file_bytes({"b": entry(offsets=[8, 16]), "a": entry()}, bytes(16)), 2),
    "types": (
        file_bytes(
            {"a": entry("BF16", [2], [0, 4]), "b": entry("U8", [4], [4, 8]), "c": entry("F16", [1], [8, 10])}, bytes(10)
        ), 3,
    ),
}  # fmt: skip
