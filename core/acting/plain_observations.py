"""Observations as plain data, and back to arrays: for agents at work where there is no environment and no Gymnasium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import COMMANDS, splits
from bitrl.core.errors import UsageError


def as_plain(value: Any) -> Any:
    """One observation as an array has it (observations.py) → numbers, lists, texts and mappings; commands as a list."""
    if not isinstance(value, np.void):
        return str(value) if isinstance(value, str) else np.asarray(value).tolist()
    names = value.dtype.names or ()
    parts = {name: as_plain(value[name]) for name in names}
    return {**parts, COMMANDS: parts[COMMANDS].split("\n")} if splits(names) and COMMANDS in names else parts


def as_array(observation: Any, like: np.ndarray) -> np.ndarray:
    """One observation, as plain data or as an environment gives it → [1, ...], with the dtype and shape of `like`.

    Commands may stand a line each, or be a list.

    Raises:
        UsageError: it is of another kind or shape, or has numbers that are none.
    """
    if isinstance(observation, Mapping) and isinstance(observation.get(COMMANDS), (list, tuple)):
        commands = [" ".join(str(command).split()) for command in observation[COMMANDS]]
        if not commands:
            raise UsageError("an observation's commands are none: there is nothing to choose from")
        observation = {**observation, COMMANDS: "\n".join(commands)}
    array = np.empty_like(like)
    array[0] = _parts(like.dtype, like.shape[1:], observation, "an observation")
    return array


def _parts(dtype: np.dtype, shape: tuple[int, ...], value: Any, what: str) -> Any:
    """`value` as what an array of this dtype holds: a tuple of its parts, a text, or numbers of this shape."""
    if dtype.names:
        missing = [name for name in dtype.names if not isinstance(value, Mapping) or name not in value]
        if missing:
            raise UsageError(
                f"{what} is to be a mapping of {' and '.join(dtype.names)}; there is no {' and no '.join(missing)}"
            )
        return tuple(_parts(dtype[name].base, dtype[name].shape, value[name], f'"{name}"') for name in dtype.names)
    if dtype.kind == "U":
        return _text(dtype.itemsize // 4, value, what)
    return _numbers(dtype, shape, value, what)


def _text(longest: int, value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is to be a text, not {_briefly(value)}")
    if len(value) > longest:
        raise UsageError(f"{what} is a text of {len(value):,} characters: at most {longest:,} are read")
    return value


def _numbers(dtype: np.dtype, shape: tuple[int, ...], value: Any, what: str) -> np.ndarray:
    try:
        given = np.asarray(value)
    except ValueError:  # rows of different lengths
        given = np.empty(0, object)
    if given.dtype.kind not in "biuf" or given.shape != shape:
        kind = "a number" if shape == () else f"{' by '.join(map(str, shape))} numbers"
        raise UsageError(f"{what} is to be {kind}, not {_briefly(value)}")
    if np.isnan(given).any():
        raise UsageError(f"{what} has a number that is none (NaN): {_briefly(value)}")
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = given.astype(dtype)
    if dtype.kind in "biu" and (numbers != given).any():
        raise UsageError(f"{what} is to be of whole numbers that fit {dtype}, not {_briefly(value)}")
    return numbers


def _briefly(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
