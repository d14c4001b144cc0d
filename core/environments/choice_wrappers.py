"""Wrappers that move the admissible actions (core/acting/admissible.py) from `info` into the observation."""

from __future__ import annotations

import string
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.admissible import COMMANDS, MASK, OBSERVATION, splits
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.checked import briefly
from bitrl.core.environments.crashes import EnvironmentFault

LONGEST_COMMANDS = 6000
"""Limit for all commands of a state together, in characters."""


class Commands(gymnasium.Wrapper):
    """Makes an environment's `info["admissible_commands"]`, a list of strings, part of its observation.

    An action is an index into that list. The size of the Discrete action space limits their number; a list with too
    many commands or characters loses whole commands at its end.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        text = gymnasium.spaces.Text(LONGEST_COMMANDS, min_length=0, charset=string.printable)
        self.observation_space = gymnasium.spaces.Dict({OBSERVATION: env.observation_space, COMMANDS: text})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_commands(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Execute a command, by its index."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_commands(observation, info), reward, terminated, truncated, info

    def _with_commands(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(self.action_space, gymnasium.spaces.Discrete)
        kept: list[str] = []
        room = LONGEST_COMMANDS
        for command in info["admissible_commands"][: int(self.action_space.n)]:
            room -= len(command) + 1
            if room < 0:
                break
            kept.append(" ".join(command.split()))
        return {OBSERVATION: observation, COMMANDS: "\n".join(kept)}


class ActionMask(gymnasium.Wrapper):
    """Makes an environment's `info["action_mask"]`, 1 for each admissible action, part of its observation.

    Of actions of several factors (acting/factors.py) it may have any form that `FactoredActions.flat_mask` takes; what
    is observed are the masks of all choices one after another.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        actions = factored_actions(env.action_space)
        self._factored = actions if isinstance(env.action_space, FACTORED) else None
        mask = gymnasium.spaces.MultiBinary(actions.values)
        self.observation_space = gymnasium.spaces.Dict({OBSERVATION: env.observation_space, MASK: mask})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info, ended=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = bool(terminated or truncated)
        return self._with_mask(observation, info, ended), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any], ended: bool) -> dict[str, Any]:
        if info.get(MASK) is None:
            raise EnvironmentFault('expected info["action_mask"] in every step, as in the first reset, got none')
        if self._factored is not None:  # (that it leaves something to choose is checked with the whole observation)
            try:
                return {OBSERVATION: observation, MASK: self._factored.flat_mask(info[MASK])}
            except ValueError as error:
                raise EnvironmentFault(f'info["action_mask"]{error}') from error
        mask = np.asarray(info[MASK])
        if not ((mask == 0) | (mask == 1)).all():
            raise EnvironmentFault(f'info["action_mask"]: expected 0 or 1 for each action, got {briefly(mask)}')
        if not (ended or mask.any()):
            raise EnvironmentFault('info["action_mask"] forbids every action: set at least one entry to 1')
        return {OBSERVATION: observation, MASK: mask.astype(np.int8)}


def space_of_state(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The part of an observation space that describes the state."""
    if isinstance(space, gymnasium.spaces.Dict) and splits(tuple(space)):
        return space[OBSERVATION]
    return space


def is_commanded(env: gymnasium.Env) -> bool:
    """Whether an action is one of the commands that the observation lists."""
    space, spaces = env.observation_space, gymnasium.spaces
    if not (isinstance(space, spaces.Dict) and {*space} == {OBSERVATION, COMMANDS}):
        return False
    return isinstance(space[COMMANDS], spaces.Text) and isinstance(env.action_space, spaces.Discrete)
