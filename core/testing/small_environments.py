"""Small environments that show how an algorithm deals with admissible actions, truncated episodes and prompts."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.nested import part_at
from bitrl.core.environments.action_spaces import factored_actions
from bitrl.core.environments.choice_wrappers import ActionMask, Commands, space_of_state
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observation_specs import spec_of_space
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import NoOptions

ACTIONS = 5
"""How many actions or commands there are in all."""


class Doors(gymnasium.Env):
    """A walk of 12 steps past doors, of which one to four are open at each step; an action is the door to take.

    Attributes:
        closed: how often an action was a door that is closed, in all episodes.
    """

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.closed = self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start before the first doors."""
        super().reset(seed=seed)
        self.time = 0
        return self._look()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a door; the reward is higher the further right it is."""
        if int(action) not in self.open:
            self.closed += 1
        self.time += 1
        observation, info = self._look()
        return observation, float(action), self.time >= 12, False, info

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        """The observation and the info; `open` is which doors are open."""
        count = int(self.np_random.integers(1, ACTIONS))
        self.open = sorted(int(each) for each in self.np_random.choice(ACTIONS, count, replace=False))
        mask = np.isin(np.arange(ACTIONS), self.open).astype(np.int8)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {"action_mask": mask}


class OpenDoors(Doors):
    """The same with commands: an action is an index into the open doors."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one of the open doors, by its index."""
        if int(action) >= len(self.open):
            self.closed += 1
            action = 0
        return super().step(self.open[int(action)])

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        observation, _ = super()._look()
        return observation, {"admissible_commands": [f"take door {each}" for each in self.open]}


class MaskedEnvironment(Environment):
    """Discrete actions with a mask."""

    def __init__(self) -> None:
        super().__init__(NoOptions(), "an environment with action masks")

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new one."""
        return ActionMask(Doors())


class Levers(gymnasium.Env):
    """A walk of 12 steps; before each, other values of every choice of an action are admissible.

    Attributes:
        closed: how often an action was not admissible, in all episodes.
    """

    def __init__(self, actions: gymnasium.Space[Any]):
        self.observation_space = gymnasium.spaces.Dict(
            {"levers": gymnasium.spaces.Box(-1, 1, (3,)), "lamp": gymnasium.spaces.Discrete(2)}
        )
        self.action_space, self.actions = actions, factored_actions(actions)
        self.closed = self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start before the first action."""
        super().reset(seed=seed)
        self.time = 0
        return self._look()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Set the levers; the reward is higher the larger the numbers of the first choices are."""
        taken = as_array(self.action_space, action)[None]
        self.closed += not self.actions.admitted(taken, self.mask[None])[0]
        factor, _ = next(self.actions.choices())
        reward = float(np.mean(part_at(taken, factor.path)))
        self.time += 1
        observation, info = self._look()
        return observation, reward, self.time >= 12, False, info

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The observation and the info; `mask` is that of all choices one after another."""
        masks = []
        for factor, _ in self.actions.choices():
            for size in factor.sizes:
                mask = self.np_random.integers(0, 2, size)
                mask[self.np_random.integers(size)] = 1
                masks.append(mask)
        self.mask = np.concatenate(masks).astype(np.int8)
        levers = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return {"levers": levers, "lamp": self.np_random.integers(2)}, {"action_mask": self.mask}


class FactoredEnvironment(Environment):
    """Actions of several factors with masks, of a kind of space called as in Gymnasium."""

    def __init__(self, kind: str) -> None:
        super().__init__(NoOptions(), f"an environment with masked {kind} actions")
        spaces = gymnasium.spaces
        self.actions: gymnasium.Space[Any] = {
            "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
            "MultiBinary": spaces.MultiBinary(3),
            "Dict": spaces.Dict(
                {"gear": spaces.Discrete(3, start=1), "push": spaces.Box(-1, 1, (2,)), "lamps": spaces.MultiBinary(2)}
            ),
            "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([3, 3], start=[5, 0]))),
        }[kind]

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new one."""
        return ActionMask(Levers(copy.deepcopy(self.actions)))


class CommandsEnvironment(Environment):
    """Text commands."""

    def __init__(self) -> None:
        super().__init__(NoOptions(), "an environment with text commands")

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new one."""
        return Commands(OpenDoors())

    def observation_spec(self) -> ObservationSpec:
        """That of the state, with commands."""
        env = self.make()
        spec = spec_of_space(space_of_state(env.observation_space), self.id)
        return ObservationSpec(spec.env, spec.fields, commands=True)


class Clock(gymnasium.Env):
    """Counts steps; whatever is done changes nothing.

    Args:
        actions: the action space.
        length: steps after which an episode is truncated.
        cut_off: the number observed in the state that it is truncated in.
        last_step: a step, counted from the very first over all episodes, after which another number is observed than
            usual.
    """

    def __init__(self, actions: gymnasium.Space[Any], length: int, cut_off: float, last_step: int):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = actions
        self.length, self.cut_off, self.last_step = length, cut_off, last_step
        self.time = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode."""
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step on."""
        self.time, self.steps = self.time + 1, self.steps + 1
        return self._observe(), 1.0 + 0.1 * self.time, False, self.time >= self.length, {}

    def _observe(self) -> np.ndarray:
        number = 0.2 + 0.05 * self.time  # never zero, so that all weights are learned
        if self.time >= self.length:
            number = self.cut_off
        elif self.steps == self.last_step:
            number = -0.75
        return np.array([self.time / self.length, number], np.float32)


class ClockEnvironment(Environment):
    """Makes clocks, with the arguments of `Clock`."""

    def __init__(self, *arguments: Any):
        super().__init__(NoOptions(), "an environment with truncated episodes")
        self.arguments = arguments

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new one."""
        return Clock(*self.arguments)


class PromptsEnvironment(PromptTask):
    """Prompts, whose completions any model can make better and worse: the reward is the share of even code points."""

    longest_prompt = 20

    def prompt(self, random: np.random.Generator) -> tuple[str, Any]:
        """A number to say."""
        return f"Say {random.integers(1000)}:", None

    def score(self, answer: Any, completion: str) -> float:
        """See the class; nothing earns nothing."""
        return float(np.mean([ord(sign) % 2 == 0 for sign in completion])) if completion else 0.0
