"""What can be done in a state, where that differs from state to state: texts to choose from, or a mask over numbers.

An environment that says so has observations of two parts: {"observation": …, "commands": …}, a command a line, or
{"observation": …, "action_mask": …}. Being part of the observation, it is saved, restored and evaluated as any
observation is. choice_wrappers.py makes it so. Shapes: n states, k actions at most, C commands met so far, d features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import RunFailed

OBSERVATION, COMMANDS, MASK = "observation", "commands", "action_mask"


@attrs.frozen
class Choices:
    """What can be done in n states. `possible` is bool [n, k]; where actions are texts, `commands` int64 [n, k] says
    which of the commands met so far each is (0 where there is none).
    """

    possible: Any
    commands: Any = None

    def map(self, function: Callable[[Any], Any]) -> Choices:
        """The same with `function` of both arrays: another kind of array, or some of the rows."""
        return Choices(function(self.possible), None if self.commands is None else function(self.commands))


def stack(steps: Sequence[Choices | None]) -> Choices | None:
    """Choices of T steps → [T, n, k], k that of the step with the most."""
    there = [each for each in steps if each is not None]
    if not there:
        return None
    most = max(each.possible.shape[1] for each in there)

    def widen(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, most - array.shape[1])))

    widened = [each.map(widen) for each in there]
    commands = None if there[0].commands is None else np.stack([each.commands for each in widened])
    return Choices(np.stack([each.possible for each in widened]), commands)


def states_of(observations: Any) -> Any:
    """Observations [n, ...] → what they say of the state [n, ...]."""
    return observations[OBSERVATION] if splits(getattr(observations, "dtype", np.dtype(float)).names) else observations


def commands_of(observation: Any) -> list[str] | None:
    """The commands of one observation; None where actions are numbers."""
    names = tuple(observation) if isinstance(observation, dict) else observation.dtype.names
    return str(observation[COMMANDS]).split("\n") if splits(names) and COMMANDS in names else None


def splits(names: Sequence[str] | None) -> bool:
    """Whether an observation of these parts says what can be done."""
    return names is not None and OBSERVATION in names and (COMMANDS in names or MASK in names)


class ChoiceReader:
    """Reads what can be done from observations, and keeps the features of every command met.

    Attributes:
        features: of the commands met so far, float32 [C, d], each computed once. The first is the empty command, which
            stands where nothing else can be done.
    """

    def __init__(self, encode: Callable[[list[str]], np.ndarray]):
        """`encode` gives the features of commands, float32 [n, d]."""
        self._encode = encode
        self._rows: dict[str, int] = {}
        self.features = np.zeros((0, 0), np.float32)

    def __call__(self, observations: np.ndarray) -> Choices | None:
        """Observations [n, ...] → what can be done in them; None where that is always the same.

        Raises:
            RunFailed: nothing can be done in one of them.
        """
        names = observations.dtype.names
        if names is None or not splits(names):
            return None
        if MASK in names:
            possible = observations[MASK].astype(bool)
            if not possible.any(axis=-1).all():
                raise RunFailed("the environment's action_mask forbids every action: mark at least one as possible")
            return Choices(possible)
        lists = [str(text).split("\n") for text in observations[COMMANDS]]
        self._learn(["", *(command for commands in lists for command in commands)])
        rows = np.zeros((len(lists), max(map(len, lists))), np.int64)
        possible = np.zeros(rows.shape, bool)
        for index, commands in enumerate(lists):
            rows[index, : len(commands)] = [self._rows[command] for command in commands]
            possible[index, : len(commands)] = True
        return Choices(possible, rows)

    def _learn(self, commands: list[str]) -> None:
        new = [command for command in dict.fromkeys(commands) if command not in self._rows]
        if new:
            self._rows.update({command: len(self._rows) + index for index, command in enumerate(new)})
            # An empty text has no features to speak of.
            features = self._encode([command or "nothing" for command in new])
            self.features = np.concatenate([self.features, features]) if len(self.features) else features
