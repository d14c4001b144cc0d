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
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.fused_file import unfused
from bitrl.plugins.backbones.files.gguf_handle import ModelFileError as ModelFileError
from bitrl.plugins.backbones.files.gguf_handle import joined, opened, text_of, value_of
from bitrl.plugins.backbones.files.gguf_handle import message as message
from bitrl.plugins.backbones.files.split_file import parts_of

TENSOR_KEY = "bitrl.tensor_sha256"
HEADER_KEY = "bitrl.header_sha256"
UNSEALED = "0" * 64

_ERROR_BYTES = 256
_STRING = 8


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
    """A GGUF file with a checked header; of a split one, all its parts, whichever of them `path` names.

    `paths` are the files, in order. Raises ModelFileError when one cannot be opened, is not GGUF, its header is
    damaged, or a part is missing.
    """

    own_format: str | None = None
    """A GGUF file asks for no format but by its types."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.handle, self.paths = opened(path), [self.path]
        if parts := parts_of(self.handle, self.path):
            self.paths = list(parts)
            self._parts = list(parts.values())  # must outlive what is joined of them
            self.handle = joined(self.path, self._parts)
        self._container = self.handle  # must outlive what is made of it, too
        self.handle = unfused(self._container, self.path) or self._container
        self.sizes = Sizes(self.paths)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return int(lib.bitrl_file_size(self._container))

    @property
    def data_offset(self) -> int:
        """Where the tensor data begin."""
        return int(lib.bitrl_file_data_offset(self._container))

    def metadata(self) -> dict[str, Any]:
        """Every key with its value: int, float, bool, str, list of str, or a numpy array of numbers."""
        return {key.name: key.value for key in keys(self)}

    def value(self, name: str) -> Any:
        """That of one key, without reading the others' (a vocabulary's are many); None where there is no such key."""
        for i in range(lib.bitrl_file_key_count(self.handle)):
            item = lib.bitrl_file_key(self.handle, i)
            if text_of(self.path, item.name, item.name_bytes) == name:
                return value_of(self.path, item)
        return None

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the file's order."""
        return tensors(self)

    def weights(self, name: str, i2s_packing: str = "x86") -> np.ndarray:
        """A tensor's weights as float32, in its shape; `i2s_packing` as in Engine.

        Raises KeyError when there is no such tensor, ModelFileError when its weights or scales are not finite.
        """
        self.sizes.check()
        found = weights(self, name, i2s_packing)
        self.sizes.check()  # what it read of a file that was changed meanwhile may be anything
        return found

    def tokenizer_json(self) -> str | None:
        """The tokenizer as the `tokenizers` library writes it, if the file carries one in that form."""
        found = self.value("tokenizer.huggingface.json")
        return found if isinstance(found, str) else None

    def seal(self) -> str | None:
        """The sealed header's digest, which covers the weights; None for a file without a seal, and for a split one."""
        sealed = self.value(HEADER_KEY)
        return sealed if isinstance(sealed, str) and len(self.paths) == 1 else None

    def sha256(self) -> str:
        """The file's SHA-256, as sha256sum prints it; of a split one, of its parts' digests one after another."""
        digests = [_file_sha256(path) for path in self.paths]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def verify(self, largest: int | None = 256 << 20) -> str:
        """Checks the seal, or raises ModelFileError saying which part is damaged.

        The tensor data of files over `largest` bytes are not read (None: always read). Returns "sealed", "header"
        (only the header was checked) or "unsealed" (the file carries no seal).
        """
        tensor_digest, header_digest = self.value(TENSOR_KEY), self.value(HEADER_KEY)
        if (tensor_digest is None and header_digest is None) or len(self.paths) > 1:  # it was split after it was sealed
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


class Sizes:
    """The sizes of files that are read bit by bit: one of another size is no longer what was checked."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._files = [(path, *_descriptor_and_size(path)) for path in paths]
        weakref.finalize(self, _close, [descriptor for _, descriptor, _ in self._files])

    def check(self) -> None:
        """Raises ModelFileError when a file is shorter or longer than it was when it was opened."""
        for path, descriptor, size in self._files:
            now = os.fstat(descriptor).st_size
            if now != size:
                raise ModelFileError(
                    path, f"changed while it was in use: it had {size} bytes and has {now}; start again"
                )


def _descriptor_and_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:  # it was there a moment ago
        raise ModelFileError(path, f"cannot be opened: {error.strerror}") from None
    return descriptor, os.fstat(descriptor).st_size


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _file_sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keys(file: HasHandle) -> list[Key]:
    """Every key, in the file's order."""
    items = (lib.bitrl_file_key(file.handle, i) for i in range(lib.bitrl_file_key_count(file.handle)))
    return [
        Key(text_of(file.path, item.name, item.name_bytes), item.type, item.element_type, value_of(file.path, item))
        for item in items
    ]


def tensors(file: HasHandle) -> list[Tensor]:
    """Every tensor, in the file's order."""
    items = (lib.bitrl_file_tensor(file.handle, i) for i in range(lib.bitrl_file_tensor_count(file.handle)))
    return [
        Tensor(
            text_of(file.path, item.name, item.name_bytes),
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


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names a Hugging Face checkpoint (hugging_face_file.py): a directory, or a safetensors file or its
    index.
    """
    return os.fspath(path).endswith((".safetensors", ".safetensors.index.json")) or os.path.isdir(path)


def is_arm_packing(name: str) -> bool:
    """Whether I2_S weights were packed on ARM ("arm") or not ("x86"). Raises UsageError for another name."""
    if name not in ("x86", "arm"):
        raise UsageError(f"unknown I2_S packing {name!r}; known: x86, arm")
    return name == "arm"


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
