"""Checkpoints: named arrays and some JSON in one safetensors file, written atomically, verified when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.lib.format import dtype_to_descr
from safetensors import SafetensorError
from safetensors.numpy import load

from bitrl.core.acting.nested import MOST_NESTED
from bitrl.core.files import cannot_write, sync_directory, write_atomically

_DTYPES = ("BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "C64", "F64", "I64", "U64")
"""As safetensors orders arrays: the last come first, so that all are aligned."""

KEEP = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""


@attrs.frozen
class Checkpoint:
    """Arrays by name, and plain data about them. Arrays of texts or records (observations.py) are one-dimensional."""

    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]
    path: Path | None = None
    """The file that it was read from."""
    sha256: str = ""
    """Of that file as it was read, which may be another one by now."""


class DamagedCheckpoint(Exception):
    """A checkpoint file that is not what was written; the message says how."""


def write(directory: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` as the newest in `directory` and drop those beyond `KEEP`; return its path."""
    path = directory / f"{step:012d}.safetensors"
    try:
        if not directory.is_dir():
            directory.mkdir()
            sync_directory(directory.parent)
    except OSError as error:  # the run's directory was removed or moved meanwhile
        raise cannot_write(directory, error) from None
    write_atomically(path, pieces(checkpoint))
    drop_old(directory)
    return path


def as_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes of a file: equal checkpoints give equal bytes."""
    return b"".join(pieces(checkpoint))


def pieces(checkpoint: Checkpoint) -> list[bytes | memoryview]:
    """The same in pieces, of which those of arrays are views: safetensors' own `save` holds the file twice.

    Raises:
        TypeError: an array has a dtype that safetensors has not.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    dtypes = {name: dtype_to_descr(array.dtype) for name, array in arrays.items() if array.dtype.kind in "UV"}
    arrays |= {name: arrays[name].reshape(-1).view(np.uint8).reshape(len(arrays[name]), -1) for name in dtypes}
    meta = json.dumps([checkpoint.meta, dtypes])
    arrays = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-_DTYPES.index(_dtype_name(arrays[name].dtype)), name))
    header: dict[str, Any] = {"__metadata__": {"bitrl": json.dumps([meta, _digest(arrays, meta)])}}
    at = 0
    for name in order:
        end = at + arrays[name].nbytes
        dtype, shape = _dtype_name(arrays[name].dtype), list(arrays[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(_view(arrays[name]) for name in order)]


def _dtype_name(dtype: np.dtype) -> str:
    """As safetensors writes it."""
    name = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
    if name not in _DTYPES:
        raise TypeError(f"arrays of {dtype} cannot be saved")
    return name


def why_not_saved(array: np.ndarray) -> str | None:
    """Why a checkpoint cannot hold an array; None if it can."""
    if array.dtype.kind in "UV" and not array.dtype.hasobject:
        return None if array.ndim == 1 and array.size else f"an array of texts or records of shape {array.shape}"
    try:
        _dtype_name(array.dtype)
    except TypeError:
        return f"an array of {array.dtype}"
    return None


def _view(array: np.ndarray) -> memoryview:
    """The bytes of an array in one piece."""
    return array.reshape(-1).view(np.uint8).data


def drop_old(directory: Path) -> None:
    """Remove the checkpoints beyond `KEEP`; one that cannot be removed is in nobody's way."""
    for old in paths(directory)[KEEP:]:
        with contextlib.suppress(OSError):
            old.unlink()


def paths(directory: Path) -> list[Path]:
    """The checkpoint files in `directory`, newest first. A file by another name than `write` gives is none."""
    named = (path for path in directory.glob("*.safetensors") if re.fullmatch("[0-9]{12,}", path.stem))
    return sorted((path for path in named if path.is_file()), key=lambda path: int(path.stem), reverse=True)


def read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedCheckpoint: truncated, bit-flipped or not a checkpoint.
    """
    try:
        data = path.read_bytes()
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta, digest = json.loads(header["__metadata__"]["bitrl"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"not readable ({error})") from None
    if not isinstance(meta, str) or digest != _digest(arrays, meta):
        raise DamagedCheckpoint("its checksum does not match")
    try:
        plain, dtypes = json.loads(meta)
        for name, description in dtypes.items():
            arrays[name] = arrays[name].reshape(-1).view(_dtype(description))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SyntaxError) as error:  # of a dtype, too
        raise DamagedCheckpoint(f"its arrays do not match its description ({error})") from None
    return Checkpoint(arrays, plain, path, hashlib.sha256(data).hexdigest())


def with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, which is removed."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def newest_first(directory: Path) -> Iterator[tuple[Path, Checkpoint | DamagedCheckpoint]]:
    """Every checkpoint in `directory`, newest first; damaged ones as the error that says why. If training goes on and
    has dropped one before it was read, those that are there by then.
    """
    for path in paths(directory):
        try:
            found = read(path)
            step = found.meta["step"]
            if isinstance(step, bool) or not isinstance(step, int) or step != int(path.stem):
                raise DamagedCheckpoint(f"it is of step {str(step)[:40]}, not of the one in its name")
            yield path, found
        except (KeyError, TypeError):
            yield path, DamagedCheckpoint("it does not say its step")
        except DamagedCheckpoint as error:
            if not path.exists():
                yield from newest_first(directory)
                return
            yield path, error


def _dtype(description: str | list[list[Any]], depth: int = 0) -> np.dtype:
    """The dtype that `dtype_to_descr` described, read back from JSON, which has no tuples."""
    if isinstance(description, str):
        return np.dtype(description)
    if depth > MOST_NESTED:
        raise ValueError("nested too deeply")
    return np.dtype([(name, _dtype(part, depth + 1), *map(tuple, shape)) for name, part, *shape in description])


def _digest(arrays: Mapping[str, np.ndarray], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(_view(np.asarray(arrays[name], order="C")))
    return digest.hexdigest()
