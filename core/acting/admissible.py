"""The admissible actions of a state, where they differ from state to state: texts to choose from, or an action mask.

An environment that has them gives observations of two parts: {"observation": …, "commands": …}, a command a line, or
{"observation": …, "action_mask": …}. Being part of the observation, they are saved, restored and evaluated as any
observation is. environments/choice_wrappers.py makes it so. Shapes: n states, k actions at most, C commands, d
features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import RunFailed

OBSERVATION, COMMANDS, MASK = "observation", "commands", "action_mask"

Encode = Callable[[Sequence[str]], np.ndarray]
"""Commands → their features, float32 [C, d]."""


class CommandTable:
    """Different commands, and their features, computed when they are first asked for.

    Attributes:
        texts: C commands; the first, which stands where a state has fewer than others, is empty.
    """

    def __init__(self, texts: Sequence[str], encode: Encode):
        self.texts, self.encode = tuple(texts), encode

    @cached_property
    def features(self) -> np.ndarray:
        """Float32 [C, d]."""
        # An empty text has no features to speak of.
        return self.encode([text or "nothing" for text in self.texts])


@attrs.frozen(eq=False)
class AdmissibleActions:
    """The actions that can be taken in n states.

    Attributes:
        mask: bool [n, k]; true where an action can be taken.
        rows: where actions are texts, which of `commands` each is, int64 [n, k] (0 where there is none); else None.
        commands: the commands of all these states; None where actions are numbers.
    """

    mask: Any
    rows: Any = None
    commands: CommandTable | None = None

    def map(self, function: Callable[[Any], Any]) -> AdmissibleActions:
        """The same with `function` of both arrays: another kind of array, or some of the rows."""
        return AdmissibleActions(function(self.mask), None if self.rows is None else function(self.rows), self.commands)


def stack(steps: Sequence[AdmissibleActions | None]) -> AdmissibleActions | None:
    """Those of T steps → [T, n, k], k that of the step with the most."""
    there = [each for each in steps if each is not None]
    if not there:
        return None
    most = max(each.mask.shape[1] for each in there)

    def widen(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, most - array.shape[1])))

    mask = np.stack([widen(each.mask) for each in there])
    tables = [each.commands for each in there if each.commands is not None]
    if not tables:
        return AdmissibleActions(mask)
    places: dict[str, int] = {}
    for table in tables:
        for text in table.texts:
            places.setdefault(text, len(places))
    rows = [
        widen(np.array([places[text] for text in table.texts])[each.rows])
        for each, table in zip(there, tables, strict=True)
    ]
    return AdmissibleActions(mask, np.stack(rows), CommandTable([*places], tables[0].encode))


def states_of(observations: Any) -> Any:
    """Observations [n, ...] → the part that describes the state [n, ...]."""
    return observations[OBSERVATION] if splits(getattr(observations, "dtype", np.dtype(float)).names) else observations


def commands_of(observation: Any) -> list[str] | None:
    """The commands of one observation; None where actions are numbers."""
    names = tuple(observation) if isinstance(observation, dict) else observation.dtype.names
    return str(observation[COMMANDS]).split("\n") if splits(names) and COMMANDS in names else None


def splits(names: Sequence[str] | None) -> bool:
    """Whether an observation of these parts holds its admissible actions."""
    return names is not None and OBSERVATION in names and (COMMANDS in names or MASK in names)


def admissible_actions(observations: np.ndarray, encode: Encode) -> AdmissibleActions | None:
    """Observations [n, ...] → the actions that can be taken in them; None where all can, in every state.

    Raises:
        RunFailed: no action can be taken in one of them.
    """
    names = observations.dtype.names
    if names is None or not splits(names):
        return None
    if MASK in names:
        mask = observations[MASK].astype(bool)
        if not mask.any(axis=-1).all():
            raise RunFailed("the environment's action_mask forbids every action: mark at least one as possible")
        return AdmissibleActions(mask)
    lists = [str(text).split("\n") for text in observations[COMMANDS]]
    places: dict[str, int] = {"": 0}
    for commands in lists:
        for command in commands:
            places.setdefault(command, len(places))
    rows = np.zeros((len(lists), max(map(len, lists))), np.int64)
    mask = np.zeros(rows.shape, bool)
    for index, commands in enumerate(lists):
        rows[index, : len(commands)] = [places[command] for command in commands]
        mask[index, : len(commands)] = True
    return AdmissibleActions(mask, rows, CommandTable([*places], encode))
