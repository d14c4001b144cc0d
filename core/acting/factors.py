"""Actions of several factors: parts that are chosen independently of each other, given the state.

An action of a MultiDiscrete, MultiBinary, Dict or Tuple space is made of choices (each number of a Discrete,
MultiDiscrete or MultiBinary part) and of continuous parts (Box). Here are its bounds, how it is put together, and
which of its choices an action mask admits, in numpy alone. Shapes: n actions, S the values of all choices together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.nested import Path, is_tuple, leaves, part_at

KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
"""What a factor may be, called as in Gymnasium. `FactoredActions.kinds` are places in this."""


@attrs.frozen(eq=False, slots=False)
class Factor:
    """One part of an action.

    Attributes:
        path: where it is in the action; () where it is the whole.
        kind: one of `KINDS`.
        low, high: the smallest and the largest of each of its numbers, of its shape and dtype.
    """

    path: Path
    kind: str
    low: np.ndarray
    high: np.ndarray

    @property
    def outputs(self) -> int:
        """Of a policy network: one for each value of each choice, or for each number of a Box."""
        return sum(self.sizes) or self.low.size

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many values each of its choices has, in order; () of a Box, which has none."""
        if self.kind == "Box":
            return ()
        pairs = zip(self.low.ravel().tolist(), self.high.ravel().tolist(), strict=True)
        return tuple(int(high) - int(low) + 1 for low, high in pairs)

    def __str__(self) -> str:
        return "".join(each if each.startswith("[") else f"[{each!r}]" for each in self.path)


@attrs.frozen(eq=False, slots=False)
class FactoredActions:
    """An action space of several factors, as arrays.

    Attributes:
        low, high: the action with the smallest numbers and the one with the largest, [1, ...]: records where an action
            has several parts, else arrays of its shape and dtype.
        kinds: of each factor, in order, its place in `KINDS`: int8 [factors].
    """

    low: np.ndarray
    high: np.ndarray
    kinds: np.ndarray

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The factors, in order."""
        paths = [path for path, *_ in leaves(self.low.dtype)]
        return tuple(
            Factor(path, KINDS[kind], part_at(self.low, path)[0], part_at(self.high, path)[0])
            for path, kind in zip(paths, self.kinds.tolist(), strict=True)
        )

    @cached_property
    def values(self) -> int:
        """S, how many values all choices have together."""
        return sum(sum(factor.sizes) for factor in self.factors)

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The values [n, ...] of each factor → actions [n, ...], of the dtype of the bounds."""
        actions = np.empty((len(parts[0]), *self.low.shape[1:]), self.low.dtype)
        for factor, values in zip(self.factors, parts, strict=True):
            if factor.path:
                part_at(actions, factor.path)[...] = values
            else:
                actions[...] = values
        return actions

    def choices(self) -> Iterator[tuple[Factor, slice]]:
        """Every factor that consists of choices, and which of the S outputs are its own."""
        place = 0
        for factor in self.factors:
            if count := sum(factor.sizes):
                yield factor, slice(place, place + count)
                place += count

    def flat_mask(self, mask: Any) -> np.ndarray:
        """An action mask as an environment gives it → int8 [S]: 1 for each value that may be chosen.

        As Gymnasium's `sample` takes it: of several parts a mapping or a sequence of their masks, of which those that
        are left out or None admit all; of a Discrete part 0 or 1 for each value; of a MultiDiscrete one such a mask
        for each of its numbers; of a MultiBinary one an array of its shape, 0 and 1 for a number that must be that, 2
        for one that may be both. Or else, of a part or of the whole, the masks of all choices one after another.

        Raises:
            ValueError: it is none of these. The message is to follow the mask's name: "['gear']: expected …, got …".
        """
        whole = _numbers(mask)
        if whole is not None and whole.shape == (self.values,):
            return _zeros_and_ones("", whole, self.values)
        _refuse_others("", self.low.dtype, mask)
        parts = []
        for factor, _ in self.choices():
            given: Any = mask
            for name in factor.path:
                if given is None:
                    break
                place: Any = int(name[1:-1]) if name.startswith("[") else name
                if isinstance(given, Mapping):
                    given = given.get(place)
                elif isinstance(given, (tuple, list)) and isinstance(place, int):
                    if place >= len(given):
                        raise ValueError(f"{factor}: expected a mask for each part, got {len(given)}")
                    given = given[place]
                else:
                    raise ValueError(
                        f": expected the masks of its parts, or {self.values} of 0 or 1, got {_briefly(mask)}"
                    )
            parts.append(np.ones(sum(factor.sizes), np.int8) if given is None else _mask_of(factor, given))
        return np.concatenate(parts) if parts else np.zeros(0, np.int8)

    def contain(self, actions: np.ndarray) -> bool:
        """Whether all of the actions [n, ...] are within the bounds; NaN is not."""
        parts = [(factor, part_at(actions, factor.path)) for factor in self.factors]
        return all(bool(((factor.low <= part) & (part <= factor.high)).all()) for factor, part in parts)

    def first_forbidden(self, mask: np.ndarray) -> str | None:
        """The first choice all of whose values some row of a mask [n, S] forbids, in words; None if there is none."""
        for factor, used in self.choices():
            start = used.start
            for index, size in enumerate(factor.sizes):
                if not mask[:, start : start + size].any(axis=1).all():
                    number = [f"number {index}"] if len(factor.sizes) > 1 else []
                    return ", ".join([*([str(factor)] if factor.path else []), *number])
                start += size
        return None

    def admitted(self, actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Which of the actions [n, ...] a mask [n, S] admits, bool [n]."""
        found = np.ones(len(actions), bool)
        for factor, used in self.choices():
            values = (part_at(actions, factor.path).astype(np.int64) - factor.low).reshape(len(actions), -1)
            starts = used.start + np.cumsum([0, *factor.sizes[:-1]])
            found &= mask[np.arange(len(actions))[:, None], starts + values].astype(bool).all(axis=1)
        return found


def best_choices(factor: Factor, outputs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The values [n, ...] of a factor whose outputs [n, S] are the largest, of those that a mask [n, S] admits."""
    scores = outputs if mask is None else np.where(mask, outputs, -np.inf)
    ends = np.cumsum(factor.sizes)[:-1]
    best = np.stack([each.argmax(axis=1) for each in np.split(scores, ends, axis=1)], axis=1)
    return values_of(factor, best)


def values_of(factor: Factor, places: np.ndarray) -> np.ndarray:
    """Which value each choice takes, int64 [n, choices] counted from 0 → the factor's numbers [n, ...]."""
    values: np.ndarray = (places.reshape(-1, *factor.low.shape) + factor.low).astype(factor.low.dtype)
    return values


def _refuse_others(where: str, dtype: np.dtype, mask: Any) -> None:
    """Raises ValueError for a mask of parts that actions of this dtype do not have: what is left out admits all."""
    if dtype.names is None:
        return
    known: Sequence[Any] = range(len(dtype.names)) if is_tuple(dtype.names) else dtype.names
    if isinstance(mask, Mapping):
        if others := [name for name in mask if name not in known]:
            raise ValueError(f"{where}: expected masks of {', '.join(map(repr, known))}, got one of {others[0]!r}")
    elif isinstance(known, range) and isinstance(mask, (tuple, list)):
        if len(mask) > len(known):
            raise ValueError(f"{where}: expected a mask for each of {len(known)} parts, got {len(mask)}")
        mask = dict(enumerate(mask))
    else:
        return
    for place, inside in mask.items():
        name = dtype.names[place] if isinstance(known, range) else place
        _refuse_others(f"{where}[{place!r}]", dtype[name].base, inside)


def _mask_of(factor: Factor, given: Any) -> np.ndarray:
    """The mask of one factor → int8 [its values]."""
    sizes, found = factor.sizes, _numbers(given)
    if factor.kind == "Discrete" or (found is not None and found.shape == (sum(sizes),)):
        return _zeros_and_ones(str(factor), given, sum(sizes))
    if factor.kind == "MultiBinary":
        if found is not None and found.shape == factor.low.shape and np.isin(found, (0, 1, 2)).all():
            return np.stack([found != 1, found != 0], axis=-1).astype(np.int8).ravel()
        raise ValueError(
            f"{factor}: expected shape {factor.low.shape}, of 0, 1 and 2 (either), or {sum(sizes)} of 0 or 1, got "
            f"{_briefly(given)}"
        )
    masks = [*_flattened(given, factor.low.ndim)]
    if len(masks) != len(sizes):
        raise ValueError(f"{factor}: expected {' + '.join(map(str, sizes))} of 0 or 1, got {_briefly(given)}")
    each = enumerate(zip(masks, sizes, strict=True))
    return np.concatenate([_zeros_and_ones(f"{factor}[{index}]", mask, size) for index, (mask, size) in each])


def _flattened(masks: Any, depth: int) -> Iterator[Any]:
    """The masks in sequences nested so deep."""
    if depth == 0:
        yield masks
    elif isinstance(masks, (tuple, list, np.ndarray)):
        for each in masks:
            yield from _flattened(each, depth - 1)


def _zeros_and_ones(where: str, given: Any, size: int) -> np.ndarray:
    found = _numbers(given)
    if found is None or found.shape != (size,) or not ((found == 0) | (found == 1)).all():
        raise ValueError(f"{where}: expected 0 or 1 for each of {size} values, got {_briefly(given)}")
    return found.astype(np.int8)


def _numbers(value: Any) -> np.ndarray | None:
    """`value` as an array of numbers; None if it is none."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):  # sequences of different lengths
        return None
    return found if found.dtype.kind in "biuf" else None


def _briefly(value: Any) -> str:
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray) else value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"
