"""Observations and actions of several parts as records: arrays with a field for each part, which may be nested.

A dict becomes a record with its keys as fields, a tuple one whose fields are called "[0]", "[1]" and so on. Knows
neither spaces nor what the parts mean. Shapes: n records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Path = tuple[str, ...]
"""The fields that lead to a part: ("arm", "[1]") to the second of a tuple called "arm"; () to the whole."""


MOST_NESTED = 100
"""Levels of parts in parts: what reads them goes into each, and Python's own limit is no message."""


def place_in_tuple(index: int) -> str:
    """What the field of a tuple's part is called."""
    return f"[{index}]"


def is_tuple(names: Sequence[str]) -> bool:
    """Whether a record with these fields stands for a tuple."""
    return bool(names) and all(name == place_in_tuple(index) for index, name in enumerate(names))


def leaves(dtype: np.dtype, shape: tuple[int, ...] = ()) -> Iterator[tuple[Path, np.dtype, tuple[int, ...]]]:
    """The parts of a record that have no parts: path, dtype and shape of each, in order."""
    if dtype.names is None:
        yield (), dtype, shape
        return
    for name in dtype.names:
        for path, kind, inner in leaves(dtype[name].base, dtype[name].shape):
            yield (name, *path), kind, inner


def part_at(value: Any, path: Path) -> Any:
    """The part at `path` of records [n] or of one, of nested mappings and of sequences."""
    for name in path:
        value = value[int(name[1:-1])] if isinstance(value, (tuple, list)) else value[name]
    return value


def taken_apart(records: Any) -> Any:
    """Records [n], or one → dicts and tuples of their parts, as an environment takes them; any other array as it is."""
    names = records.dtype.names
    if names is None:
        return records
    parts = {name: taken_apart(records[name]) for name in names}
    return tuple(parts.values()) if is_tuple(names) else parts


def name_of(path: Path) -> str:
    """What a part is called in words: ("arm", "[1]") is arm.1. Names have no spaces, and begin with no digit."""
    name = re.sub(r"\s+", "_", ".".join(re.sub(r"^\[(\d+)\]$", r"\1", each) for each in path))
    return f"x{name}" if name[:1].isdigit() else name


def flat(observations: Any, parts: Sequence[Path]) -> Any:
    """Observations of several parts as serializers read them: the numbers of the parts at these paths side by side,
    float64 [n, k]; where some are texts, records of these, by `name_of`, and of "numbers".

    Args:
        observations: records [n].
        parts: the paths of leaves.
    """
    found = [(path, part_at(observations, path)) for path in parts]
    texts = [(name_of(path), part) for path, part in found if part.dtype.kind == "U"]
    rows = [np.reshape(part, (len(part), -1)).astype(np.float64) for _, part in found if part.dtype.kind != "U"]
    numbers = np.concatenate(rows, axis=1) if rows else None
    if not texts:
        return numbers
    columns = [*texts, *([] if numbers is None else [("numbers", numbers)])]
    records = np.empty(len(observations), [(name, part.dtype, part.shape[1:]) for name, part in columns])
    for name, part in columns:
        records[name] = part
    return records


def flat_one(observation: Any, parts: Sequence[Path]) -> Any:
    """The same of one observation, which may also be dicts and tuples: float64 [k], or a dict."""
    found = [(path, part_at(observation, path)) for path in parts]
    texts = {name_of(path): str(part) for path, part in found if isinstance(part, str)}
    rows = [np.ravel(np.asarray(part, np.float64)) for _, part in found if not isinstance(part, str)]
    if not texts:
        return np.concatenate(rows)
    return texts | ({"numbers": np.concatenate(rows)} if rows else {})


class FlatObservations:
    """A serializer of observations of several parts, which writes them with one that reads flat ones.

    It has the members of that one: `width`, `commands`, `state` and `load_state`, as far as that has them.
    """

    def __init__(self, serializer: Any, parts: Sequence[Path]):
        self.serializer, self.parts = serializer, parts
        for name in ("width", "commands", "state", "load_state"):
            if hasattr(serializer, name):
                setattr(self, name, getattr(serializer, name))

    def __call__(self, observation: Any) -> Any:
        """One observation → what the serializer writes."""
        return self.serializer(flat_one(observation, self.parts))

    def batch(self, observations: np.ndarray) -> Any:
        """Observations [n] → what the serializer writes."""
        return self.serializer.batch(flat(observations, self.parts))
