"""Observations as plain data, and back to arrays: for deployed agents, without an environment or Gymnasium."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import COMMANDS, splits
from bitrl.core.acting.nested import is_tuple
from bitrl.core.errors import UsageError

_REPR = reprlib.Repr()
_REPR.maxlevel = _REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = 40
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


def as_plain(value: Any) -> Any:
    """One observation or action as an array has it (observations.py) → numbers, lists, strings, mappings; commands as a
    list.
    """
    if not isinstance(value, np.void):
        return str(value) if isinstance(value, str) else np.asarray(value).tolist()
    names = value.dtype.names or ()
    parts = {name: as_plain(value[name]) for name in names}
    if is_tuple(names):
        return [*parts.values()]
    return {**parts, COMMANDS: parts[COMMANDS].split("\n")} if splits(names) and COMMANDS in names else parts


def plain_action(action: Any) -> Any:
    """An action as an environment takes it → numbers, lists and mappings."""
    if isinstance(action, dict):
        return {name: plain_action(part) for name, part in action.items()}
    return [*map(plain_action, action)] if isinstance(action, tuple) else np.asarray(action).tolist()


def plain_answer(observation: Any, action: Any, commanded: bool) -> Any:
    """An action on an observation that is plain data, as plain data; the command itself where observations have
    commands (`commanded`).
    """
    if not commanded:
        return plain_action(action)
    commands = observation[COMMANDS]
    return (commands.split("\n") if isinstance(commands, str) else commands)[action]


def as_array(observation: Any, like: np.ndarray) -> np.ndarray:
    """One observation, as plain data or as an environment gives it → [1, ...], with the dtype and shape of `like`.

    Commands may be a list, or one string with a command per line.

    Raises:
        UsageError: its type or shape is wrong, or it contains NaN or infinity (as 1e999 and, in float32, 1e39 are).
    """
    if isinstance(observation, Mapping) and isinstance(observation.get(COMMANDS), (list, tuple)):
        commands = [" ".join(str(command).split()) for command in observation[COMMANDS]]
        if not commands:
            raise UsageError("commands: expected at least one command, got an empty list")
        observation = {**observation, COMMANDS: "\n".join(commands)}
    array = np.empty_like(like)
    array[0] = _parts(like.dtype, like.shape[1:], observation, "observation")
    return array


def _parts(dtype: np.dtype, shape: tuple[int, ...], value: Any, what: str) -> Any:
    """`value` as an element of an array of this dtype: a tuple of its parts, a string, or numbers of this shape."""
    if dtype.names and is_tuple(dtype.names):
        if not isinstance(value, (list, tuple)) or len(value) != len(dtype.names):
            raise UsageError(f"{what}: expected a list of its {len(dtype.names)} parts, got {_briefly(value)}")
        each = zip(dtype.names, value, strict=True)
        return tuple(_parts(dtype[name].base, dtype[name].shape, part, f"{what} {name}") for name, part in each)
    if dtype.names:
        missing = [name for name in dtype.names if not isinstance(value, Mapping) or name not in value]
        if missing:
            raise UsageError(f"{what}: expected the keys {' and '.join(dtype.names)}; missing: {', '.join(missing)}")
        return tuple(_parts(dtype[name].base, dtype[name].shape, value[name], f'"{name}"') for name in dtype.names)
    if dtype.kind == "U":
        return _text(dtype.itemsize // 4, value, what)
    return _numbers(dtype, shape, value, what)


def _text(longest: int, value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what}: expected a string, got {_briefly(value)}")
    if len(value) > longest:
        raise UsageError(f"{what}: expected at most {longest:,} characters, got {len(value):,}")
    return value


def _numbers(dtype: np.dtype, shape: tuple[int, ...], value: Any, what: str) -> np.ndarray:
    try:
        # A list of another length, perhaps of millions, need not be converted to be refused.
        given = np.asarray(value if not isinstance(value, list) or len(value) == (shape or (0,))[0] else None)
        if given.dtype.kind == "f" and dtype.kind in "iu":  # which rounds large integers
            given = np.asarray(value, object)
    except ValueError:  # rows of different lengths
        given = np.empty(0, object)
    if not _are_numbers(given) or given.shape != shape:
        kind = "a number" if shape == () else f"{' by '.join(map(str, shape))} numbers"
        raise UsageError(f"{what}: expected {kind}, got {_briefly(value)}")
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            numbers = given.astype(dtype)
    except (OverflowError, ValueError):  # of objects: beyond the type, or NaN
        numbers = None
    if dtype.kind == "f" and (numbers is None or not np.isfinite(numbers).all()):
        raise UsageError(f"{what}: expected finite numbers, no NaN or infinity, got {_briefly(value)}")
    if numbers is None or (dtype.kind != "f" and (numbers != given).any()):
        raise UsageError(f"{what}: expected integers that fit {dtype}, got {_briefly(value)}")
    return numbers


def _are_numbers(given: np.ndarray) -> bool:
    """Whether an array holds numbers, if only as objects: integers beyond 64 bits, as JavaScript writes 1e20, are."""
    if given.dtype != object:
        return given.dtype.kind in "biuf"
    return all(isinstance(each, (int, float, np.number, np.bool_)) for each in given.flat)


def _briefly(value: Any) -> str:
    text = _REPR.repr(value)  # never of all of millions
    return text if len(text) <= 80 else f"{text[:77]}…"
