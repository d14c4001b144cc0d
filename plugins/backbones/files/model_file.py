"""Model files (GGUF): their header, and the seal that shows damage.

Knows the container, through the C reader, how to ask that for keys and tensors, and two checksums. Does not know what
the tensors mean.

The seal is two metadata strings of 64 lower-case hexadecimal digits:

* `bitrl.tensor_sha256`: SHA-256 of every byte from the start of the tensor data to the end of the file;
* `bitrl.header_sha256`: SHA-256 of every byte before that (padding included), with this key's own 64 digits
  replaced by "0". It covers the other digest, so it is computed last.

A writer puts 64 zeros in both and calls `seal`. A file with neither key (made by another tool) is not checked;
one with a single key is damaged.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError

TENSOR_KEY = "bitrl.tensor_sha256"
HEADER_KEY = "bitrl.header_sha256"
UNSEALED = "0" * 64

_ERROR_BYTES = 256
_MOST_CHARACTERS = 500
_STRING, _ARRAY = 8, 9
_DTYPES = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


class ModelFileError(UsageError):
    """A model file that cannot be used. The message names the file and what is wrong with it.

    It is one line of bounded length, whatever words of the file it repeats.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        problem = "".join(c if c.isprintable() else "?" for c in problem[:_MOST_CHARACTERS])
        super().__init__(f"{os.fspath(path)} {problem}")


class Tensor(NamedTuple):
    """One tensor as the file lists it; `shape` is slowest first, as numpy has it."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int


class Key(NamedTuple):
    """One key: GGUF's number of its type, and of its elements' if that is an array (9); `value` as in `metadata`."""

    name: str
    type: int
    element_type: int
    value: Any


class HasHandle(Protocol):
    """What has keys and tensors: a GGUF file, or a checkpoint under GGUF's names."""

    path: str
    handle: Any


class ModelFile:
    """A mapped GGUF file with a checked header.

    Raises ModelFileError when it cannot be opened, is not GGUF, or its header is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        handle, error = ffi.new("bitrl_file **"), ffi.new("char[]", _ERROR_BYTES)
        if b"\0" in os.fsencode(path):
            raise ModelFileError(path, "is not a path")
        if lib.bitrl_file_open(os.fsencode(path), handle, error) != lib.BITRL_OK:
            raise ModelFileError(path, message(error))
        self.handle = ffi.gc(handle[0], lib.bitrl_file_close)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return int(lib.bitrl_file_size(self.handle))

    @property
    def data_offset(self) -> int:
        """Where the tensor data begin."""
        return int(lib.bitrl_file_data_offset(self.handle))

    def metadata(self) -> dict[str, Any]:
        """Every key with its value: int, float, bool, str, list of str, or a numpy array of numbers."""
        return {key.name: key.value for key in keys(self)}

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the file's order."""
        return tensors(self)

    def weights(self, name: str, i2s_packing: str = "x86") -> np.ndarray:
        """A tensor's weights as float32, in its shape; `i2s_packing` as in Engine.

        Raises KeyError when there is no such tensor, ModelFileError when its weights or scales are not finite.
        """
        return weights(self, name, i2s_packing)

    def tokenizer_json(self) -> str | None:
        """The tokenizer as the `tokenizers` library writes it, if the file carries one in that form."""
        found = self.metadata().get("tokenizer.huggingface.json")
        return found if isinstance(found, str) else None

    def seal(self) -> str | None:
        """The sealed header's digest, which covers the weights; None for a file without a seal."""
        sealed = self.metadata().get(HEADER_KEY)
        return sealed if isinstance(sealed, str) else None

    def sha256(self) -> str:
        """The file's SHA-256, as sha256sum prints it."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def verify(self, largest: int | None = 256 << 20) -> str:
        """Checks the seal, or raises ModelFileError saying which part is damaged.

        The tensor data of files over `largest` bytes are not read (None: always read). Returns "sealed", "header"
        (only the header was checked) or "unsealed" (the file carries no seal).
        """
        metadata = self.metadata()
        tensor_digest, header_digest = metadata.get(TENSOR_KEY), metadata.get(HEADER_KEY)
        if tensor_digest is None and header_digest is None:
            return "unsealed"
        with open(self.path, "rb") as file:
            header = file.read(self.data_offset)
            place = _digits(header, HEADER_KEY)
            texts = isinstance(tensor_digest, str) and isinstance(header_digest, str)
            if not texts or place is None or _header_sha256(header, place) != header_digest:
                raise ModelFileError(self.path, "is damaged: its header does not match its checksum; get it again")
            if largest is not None and self.size > largest:
                return "header"
            if hashlib.file_digest(file, "sha256").hexdigest() != tensor_digest:
                raise ModelFileError(self.path, "is damaged: its weights do not match their checksum; get it again")
        return "sealed"


def keys(file: HasHandle) -> list[Key]:
    """Every key, in the file's order."""
    items = (lib.bitrl_file_key(file.handle, i) for i in range(lib.bitrl_file_key_count(file.handle)))
    return [
        Key(_text(file.path, item.name, item.name_bytes), item.type, item.element_type, _value(file.path, item))
        for item in items
    ]


def tensors(file: HasHandle) -> list[Tensor]:
    """Every tensor, in the file's order."""
    items = (lib.bitrl_file_tensor(file.handle, i) for i in range(lib.bitrl_file_tensor_count(file.handle)))
    return [
        Tensor(
            _text(file.path, item.name, item.name_bytes),
            ffi.string(lib.bitrl_type_name(item.type)).decode(),
            tuple(reversed([item.shape[d] for d in range(item.dims)])),
            item.bytes,
        )
        for item in items
    ]


def weights(file: HasHandle, name: str, i2s_packing: str = "x86") -> np.ndarray:
    """A tensor's weights as float32, in its shape. Raises as ModelFile.weights."""
    found = tensors(file)
    place = {tensor.name: i for i, tensor in enumerate(found)}[name]
    out, error = np.zeros(found[place].shape, np.float32), ffi.new("char[]", _ERROR_BYTES)
    into = ffi.from_buffer("float[]", out, require_writable=True)
    item = lib.bitrl_file_tensor(file.handle, place)
    if lib.bitrl_read_tensor(item, is_arm_packing(i2s_packing), into, error) != lib.BITRL_OK:
        raise ModelFileError(file.path, message(error))
    return out


def _text(path: str, pointer: Any, size: int) -> str:
    try:
        return bytes(ffi.buffer(pointer, size)).decode()
    except UnicodeDecodeError:
        raise ModelFileError(path, "is damaged: its metadata holds text that is not UTF-8") from None


def _value(path: str, key: Any) -> Any:
    raw = bytes(ffi.buffer(key.value, key.value_bytes))
    if key.element_type == _STRING:
        strings, at = [], 0
        try:
            for _ in range(key.count):
                (size,) = struct.unpack_from("<Q", raw, at)
                strings.append(raw[at + 8 : at + 8 + size].decode())
                at += 8 + size
        except UnicodeDecodeError:
            raise ModelFileError(path, "is damaged: its metadata holds text that is not UTF-8") from None
        return strings if key.type == _ARRAY else strings[0]
    values = np.frombuffer(raw, _DTYPES[key.element_type])
    return values if key.type == _ARRAY else values[0].item()


def is_arm_packing(name: str) -> bool:
    """Whether I2_S weights were packed on ARM ("arm") or not ("x86"). Raises UsageError for another name."""
    if name not in ("x86", "arm"):
        raise UsageError(f"unknown I2_S packing {name!r}; known: x86, arm")
    return name == "arm"


def message(error: Any) -> str:
    """The text in a C error buffer."""
    return str(ffi.string(error), errors="replace")


def seal(path: str | os.PathLike[str]) -> None:
    """Fills in the two digests of a file just written with 64 zeros in each.

    Raises ValueError when the file does not hold both keys once.
    """
    offset = ModelFile(path).data_offset
    with Path(path).open("r+b") as file:
        header = bytearray(file.read(offset))
        tensor_place, header_place = _digits(header, TENSOR_KEY), _digits(header, HEADER_KEY)
        if tensor_place is None or header_place is None:
            raise ValueError(f"{os.fspath(path)} needs {TENSOR_KEY} and {HEADER_KEY}, each a string of 64 zeros")
        header[tensor_place] = hashlib.file_digest(file, "sha256").hexdigest().encode()
        header[header_place] = _header_sha256(header, header_place).encode()
        file.seek(0)
        file.write(header)


def _digits(header: bytes | bytearray, key: str) -> slice | None:
    """Where the 64 digits of `key` stand in the header: after its name, the string type and their length."""
    before = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IQ", _STRING, 64)
    at = header.find(before)
    if at < 0 or header.find(before, at + 1) >= 0 or at + len(before) + 64 > len(header):
        return None
    return slice(at + len(before), at + len(before) + 64)


def _header_sha256(header: bytes | bytearray, place: slice) -> str:
    blank = bytearray(header)
    blank[place] = UNSEALED.encode()
    return hashlib.sha256(blank).hexdigest()
