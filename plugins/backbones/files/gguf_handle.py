"""The engine's handles of GGUF files: opening them, joining parts, and single keys.

Knows the C reader's calls and its errors. Does not know which files belong together, nor what keys mean.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.foreign import cause

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


def opened(path: str | os.PathLike[str]) -> Any:
    """The engine's handle of one GGUF file. Raises ModelFileError as ModelFile."""
    handle, error = ffi.new("bitrl_file **"), ffi.new("char[]", _ERROR_BYTES)
    if b"\0" in os.fsencode(path):
        raise ModelFileError(path, "is not a path")
    if lib.bitrl_file_open(os.fsencode(path), handle, error) != lib.BITRL_OK:
        raise ModelFileError(path, cause(path, "GGUF") or message(error))
    return ffi.gc(handle[0], lib.bitrl_file_close)


def joined(path: str, parts: Sequence[Any]) -> Any:
    """One handle of a split file's parts, in order. Raises ModelFileError when they do not fit together."""
    handle, error = ffi.new("bitrl_file **"), ffi.new("char[]", _ERROR_BYTES)
    if lib.bitrl_file_join(parts, len(parts), handle, error) != lib.BITRL_OK:
        raise ModelFileError(path, message(error))
    return ffi.gc(handle[0], lib.bitrl_file_close)


def key_of(handle: Any, name: str, path: str) -> Any:
    """One key's value by its name, None when it is not there; the others are not read. Raises as `value_of`."""
    wanted = name.encode()
    for i in range(lib.bitrl_file_key_count(handle)):
        item = lib.bitrl_file_key(handle, i)
        if item.name_bytes == len(wanted) and bytes(ffi.buffer(item.name, item.name_bytes)) == wanted:
            return value_of(path, item)
    return None


def text_of(path: str, pointer: Any, size: int) -> str:
    """Text of a header. Raises ModelFileError, naming `path`, when it is not UTF-8."""
    try:
        return bytes(ffi.buffer(pointer, size)).decode()
    except UnicodeDecodeError:
        raise ModelFileError(path, "is damaged: its metadata holds text that is not UTF-8") from None


def value_of(path: str, key: Any) -> Any:
    """A key's value, see ModelFile.metadata. Raises as `text_of`."""
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


def message(error: Any) -> str:
    """The text in a C error buffer."""
    return str(ffi.string(error), errors="replace")
