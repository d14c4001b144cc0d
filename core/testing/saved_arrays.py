"""Checks of named arrays that a component hands out to be saved: `state()` and `learned()`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.acting.checkpoints import Checkpoint, as_bytes, read
from bitrl.testing.outcomes import ConformanceError, expect


def from_checkpoint(arrays: Mapping[str, np.ndarray], what: str) -> Mapping[str, np.ndarray]:
    """`arrays`, which `what` returned, as a checkpoint gives them back.

    Raises:
        ConformanceError: they cannot be saved.
    """
    expect(isinstance(arrays, Mapping), f"{what}: expected a dict of arrays, got {type(arrays).__name__}")
    for name, array in arrays.items():
        expect(isinstance(name, str), f"{what}: expected strings as names, got {name!r}")
        expect(isinstance(array, np.ndarray), f"{what}: {name}: expected a numpy array, got {type(array).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        try:
            path.write_bytes(as_bytes(Checkpoint(arrays, {})))
            return read(path).arrays
        except Exception as error:
            raise ConformanceError(f"{what} cannot be saved: arrays of numbers or strings only ({error})") from None


def different(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> str:
    """The names of the arrays that are not the same in both, bit for bit."""
    names = sorted(left.keys() | right.keys())
    return ", ".join(name for name in names if _bytes(left.get(name)) != _bytes(right.get(name)))


def expect_copies(get: Callable[[], Mapping[str, np.ndarray]], what: str) -> None:
    """Expect that changing the arrays which `get` returns, called `what`, changes nothing in the component."""
    arrays = get()
    kept = from_checkpoint(arrays, what)
    _spoil(arrays)
    changed = different(kept, get())
    expect(not changed, f"{what} returns the component's own array {changed}: return a copy")


def expect_loads_copies(
    load: Callable[[Mapping[str, np.ndarray]], None],
    get: Callable[[], Mapping[str, np.ndarray]],
    arrays: Mapping[str, np.ndarray],
    what: str,
) -> None:
    """Expect that `load`, called `what`, keeps copies of the arrays, which `get` returns then."""
    given = {name: np.array(array) for name, array in arrays.items()}
    load(given)
    lost = different(arrays, get())
    expect(not lost, f"{what} does not restore {lost}")
    _spoil(given)
    changed = different(arrays, get())
    expect(not changed, f"{what} keeps the array {changed} that it is given: copy it")


def _spoil(arrays: Mapping[str, np.ndarray]) -> None:
    for array in arrays.values():
        if array.flags.writeable and array.size:
            array[...] = np.zeros((), array.dtype) if np.any(array != np.zeros((), array.dtype)) else _other(array)


def _other(array: np.ndarray) -> Any:
    return "x" if array.dtype.kind == "U" else np.ones((), array.dtype)


def _bytes(array: np.ndarray | None) -> tuple[Any, ...] | None:
    return None if array is None else (array.dtype, array.shape, np.asarray(array, order="C").tobytes())
