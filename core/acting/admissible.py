"""The admissible actions of a state, where they differ from state to state: commands to choose from, or an action mask.

Such an environment's observations have two parts: {"observation": …, "commands": …}, a command per line, or
{"observation": …, "action_mask": …}. As part of the observation, they are saved, restored and evaluated like any
other. environments/choice_wrappers.py adds them. Shapes: n states, at most k actions, C commands, d features.
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
    """Distinct commands, and their features, computed on first use.

    Attributes:
        texts: C commands; the first is empty: padding for states with fewer commands than others.
    """

    def __init__(self, texts: Sequence[str], encode: Encode):
        self.texts, self.encode = tuple(texts), encode

    @cached_property
    def features(self) -> np.ndarray:
        """Float32 [C, d]."""
        # An empty text may have no features.
        return self.encode([text or "nothing" for text in self.texts])


@attrs.frozen(eq=False)
class AdmissibleActions:
    """The admissible actions of n states.

    Attributes:
        mask: bool [n, k]; true where an action is admissible. Of actions of several factors (factors.py), the values of
            all their choices one after another.
        rows: where actions are commands, the index of each in `commands`, int64 [n, k] (0 is padding); else None.
        commands: the commands of all these states; None where actions are integers.
    """

    mask: Any
    rows: Any = None
    commands: CommandTable | None = None

    def map(self, function: Callable[[Any], Any]) -> AdmissibleActions:
        """The same with `function` applied to both arrays: to convert them, or to select rows."""
        return AdmissibleActions(function(self.mask), None if self.rows is None else function(self.rows), self.commands)


def stack(steps: Sequence[AdmissibleActions | None]) -> AdmissibleActions | None:
    """The admissible actions of T steps → [T, n, k], where k is the largest of any step."""
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
    """The commands of one observation; None where actions are integers."""
    names = tuple(observation) if isinstance(observation, dict) else observation.dtype.names
    return str(observation[COMMANDS]).split("\n") if splits(names) and COMMANDS in names else None


def splits(names: Sequence[str] | None) -> bool:
    """Whether an observation with these parts includes its admissible actions."""
    return names is not None and OBSERVATION in names and (COMMANDS in names or MASK in names)


def admissible_actions(observations: np.ndarray, encode: Encode) -> AdmissibleActions | None:
    """Observations [n, ...] → their admissible actions; None where all actions always are.

    Raises:
        RunFailed: one of them has no admissible action.
    """
    names = observations.dtype.names
    if names is None or not splits(names):
        return None
    if MASK in names:
        mask = observations[MASK].astype(bool)
        if not mask.any(axis=-1).all():
            raise RunFailed("the environment's action_mask forbids every action: set at least one entry to 1")
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
