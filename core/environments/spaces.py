"""Gymnasium's spaces of several parts (Dict and Tuple), whose elements are records (acting/nested.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.spaces import Dict, Tuple

from bitrl.core.acting.contracts import is_unicode
from bitrl.core.acting.nested import MOST_NESTED, Path, place_in_tuple
from bitrl.core.environments.crashes import EnvironmentFault


def parts_of(space: gymnasium.Space[Any]) -> list[tuple[str, gymnasium.Space[Any]]] | None:
    """The parts of a Dict or Tuple space, with the names of their fields in records; None for other spaces."""
    if isinstance(space, Dict):
        return [*space.items()]
    if isinstance(space, Tuple):
        return [(place_in_tuple(index), part) for index, part in enumerate(space)]
    return None


def values_in(space: gymnasium.Space[Any], value: Any) -> list[Any]:
    """The parts of an element of a Dict or Tuple space, in the order of `parts_of`."""
    return [value[name] for name in space] if isinstance(space, Dict) else [*value]


def leaves_of(space: gymnasium.Space[Any], path: Path = ()) -> Iterator[tuple[Path, gymnasium.Space[Any]]]:
    """The parts of a space that have no parts, with the paths to them, in order; itself if it has none."""
    parts = parts_of(space)
    if parts is None:
        yield path, space
    for name, part in parts or ():
        yield from leaves_of(part, (*path, name))


def check_parts(space: gymnasium.Space[Any], place: str, depth: int = 0) -> None:
    """Refuse a Dict or Tuple space whose elements cannot be records.

    Args:
        space: any space.
        place: what it is called: `observation_space["arm"]`.
        depth: how many levels lie above it.

    Raises:
        EnvironmentFault: it is empty, nested too deeply, or has keys that are no strings.
    """
    parts = parts_of(space)
    if parts is None:
        return
    if depth >= MOST_NESTED:
        raise EnvironmentFault(f"its {place[:40]}… has parts in parts, {depth} levels deep: nest them less deeply")
    if not parts:
        raise EnvironmentFault(f"its {place} is an empty {type(space).__name__}: leave it out, or give it parts")
    for name, part in parts:
        if isinstance(space, Dict) and not (isinstance(name, str) and _is_key(name)):
            raise EnvironmentFault(f"its {place} has the key {name!r}: call its parts by other strings")
        check_parts(part, place_of(space, place, name), depth + 1)


def place_of(space: gymnasium.Space[Any], place: str, name: str) -> str:
    """What the part `name` of the Dict or Tuple space called `place` is called."""
    return f"{place}{name}" if isinstance(space, Tuple) else f"{place}[{name!r}]"


def _is_key(name: str) -> bool:
    return bool(name) and is_unicode(name) and not re.fullmatch(r"\[\d+\]", name)
