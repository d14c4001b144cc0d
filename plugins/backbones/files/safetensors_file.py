"""Safetensors files: their header, checked, and where their data lie; one file or several shards.

Knows the container (https://github.com/huggingface/safetensors): eight bytes of length, a JSON header, the data. Reads
it by itself, because what a header claims must be held against the file before it is used: a damaged or hostile file is
a ModelFileError within a second. Does not know what the tensors mean.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
import struct
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bitrl.plugins.backbones.files.foreign import cause
from bitrl.plugins.backbones.files.model_file import ModelFileError

MOST_HEADER = 100_000_000
"""The format's own limit of a header's bytes."""
MOST_TENSORS = 1 << 17
"""More than any model has. Bounds the time and the memory that JSON can take."""
MOST_SHARDS = 4096
WANTED = "safetensors"
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


T = TypeVar("T")


class OpenFile:
    """A regular file that is read a piece at a time, and closed when nothing refers to it any more.

    It is not mapped: reading a mapping of a file that another process truncates would kill this one (SIGBUS).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A descriptor above 2, whatever streams are closed: the engine takes it for a file's.
        self.descriptor, self.size = _opened(
            path, lambda descriptor, size: (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3), size)
        )
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from byte `start` on. Raises ModelFileError when the file has lost them."""
        try:
            found = os.pread(self.descriptor, size, start)
        except OSError as error:
            raise ModelFileError(self.path, f"cannot be read: {error.strerror}") from None
        if len(found) != size:
            raise ModelFileError(self.path, "cannot be read any more: it lost its end; start again")
        return found


class Stretch(NamedTuple):
    """Some bytes of a file, which stays open as long as it is known."""

    file: OpenFile
    start: int
    size: int

    def read(self) -> bytes:
        """Raises ModelFileError when the file has lost them."""
        return self.file.read(self.start, self.size)

    def part(self, start: int, size: int) -> Stretch:
        """`size` of these bytes, from the `start`-th on."""
        return Stretch(self.file, self.start + start, size)

    def equals(self, other: Stretch) -> bool:
        """Whether these bytes are those. Raises as `read`."""
        step = 1 << 24
        return self.size == other.size and all(
            self.part(at, min(step, self.size - at)).read() == other.part(at, min(step, self.size - at)).read()
            for at in range(0, self.size, step)
        )


class Stored(NamedTuple):
    """One tensor: its type as the format names it, shape (slowest first), and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    data: Stretch


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Every tensor of one file. Raises ModelFileError for a file that breaks a rule of the format."""
    file = OpenFile(path)
    if file.size < 8:
        raise ModelFileError(path, cause(path, WANTED) or f"is not a safetensors file ({file.size} bytes)")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > MOST_HEADER or length > file.size - 8:
        problem = cause(path, WANTED) or f"is not a safetensors file or damaged: it claims a header of {length} bytes"
        raise ModelFileError(path, problem)
    header = parse_json(file.read(8, length), path, "its header")
    header.pop("__metadata__", None)
    body, room = 8 + length, file.size - 8 - length
    tensors, places = {}, []
    for name, entry in header.items():
        dtype, shape, start, stop = _checked(path, name, entry, room)
        tensors[name] = Stored(dtype, shape, Stretch(file, body + start, stop - start))
        places.append((start, stop, name))
    at = 0
    for start, stop, name in sorted(places):
        if start != at:
            what = "overlaps another" if start < at else "leaves a hole before it"
            raise ModelFileError(path, f"is damaged: tensor {shown(name)} {what}")
        at = stop
    if at != room:
        raise ModelFileError(path, f"is damaged: {room - at} of its bytes belong to no tensor")
    return tensors


def read_shards(index: Path) -> tuple[dict[str, Stored], list[Path]]:
    """Every tensor that a model.safetensors.index.json lists, from the shards beside it; and the shards' paths.

    Raises ModelFileError when the index or a shard is damaged, or the two contradict each other.
    """
    places = parse_json(read_bytes(index, MOST_HEADER), index, "it").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelFileError(index, "is damaged: it has no weight_map")
    names = sorted({name if isinstance(name, str) else "" for name in places.values()})
    for name in names:
        if (
            not name.endswith(".safetensors")
            or name != os.path.basename(name)
            or "\\" in name
            or not name.isprintable()
        ):
            raise ModelFileError(index, f"names {shown(name)} as a shard, which is not a .safetensors file beside it")
    if len(names) > MOST_SHARDS:
        raise ModelFileError(index, f"is damaged: it names {len(names)} shards")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(index, f"names shards that are not beside it: {missing[0]}{more}; get them again")
    shards = {name: read_safetensors(index.parent / name) for name in names}
    for tensor, name in places.items():
        if tensor not in shards[name]:
            raise ModelFileError(index, f"says that tensor {shown(tensor)} is in {name}, which has none of that name")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}, [index.parent / name for name in names]


def parse_json(text: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object from bytes; duplicate keys, deep nesting and numbers that JSON does not have are refused."""
    if text.count(b"{") > MOST_TENSORS + 2 or text.count(b",") > 12 * MOST_TENSORS:
        raise ModelFileError(path, f"is damaged: {what} lists more than {MOST_TENSORS} tensors")
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ModelFileError(path, f"is damaged: {what} is nested too deeply") from None
    except ValueError as error:  # JSON, UTF-8, an endless number, or one of the two below
        named = cause(path, "JSON" if what == "it" else WANTED)
        raise ModelFileError(path, named or f"is damaged: {what} cannot be read ({shown(str(error), 80)})") from None
    if not isinstance(found, dict):
        raise ModelFileError(path, f"is damaged: {what} is not a JSON object")
    return found


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file of at most that many bytes. Raises ModelFileError when it is larger or cannot be read."""
    return _opened(path, lambda descriptor, size: _read(path, descriptor, size, most))


def shown(name: str, most: int = 60) -> str:
    """A name out of a file, for a message: one line, not too long."""
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name if name and name.isprintable() else ascii(name)


def _checked(path: Path, name: str, entry: Any, room: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and first and last byte of an entry of the header."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelFileError(path, f"is damaged: it has a tensor named {ascii(name)[:60]}") from None
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(path, f"is damaged: tensor {shown(name)} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ModelFileError(path, f"has tensor {shown(name)} of type {shown(str(dtype), 20)}, which is not known")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise ModelFileError(path, f"is damaged: tensor {shown(name)} has an impossible shape or place")
    start, stop = offsets
    if not start <= stop <= room:
        raise ModelFileError(path, f"is truncated or damaged: tensor {shown(name)} lies beyond its end")
    if math.prod(shape) * ITEM_BYTES[dtype] != stop - start:
        raise ModelFileError(
            path, f"is damaged: tensor {shown(name)} has {stop - start} bytes, not what its shape needs"
        )
    return dtype, tuple(shape), start, stop


def _counts(values: Any) -> bool:
    """Whether it is a list of integers that fit 64 bits; True is not one."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {shown(name)} twice")
        found[name] = value
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read(path: Path, descriptor: int, size: int, most: int) -> bytes:
    if size > most:
        raise ModelFileError(path, f"has {size} bytes; it cannot be what its name says")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(most)


def _opened(path: Path, use: Callable[[int, int], T]) -> T:
    """use(descriptor, size) of a regular file."""
    try:
        # Not blocking: a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(path, "is not a file")
            return use(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise ModelFileError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
