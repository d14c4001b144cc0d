"""The interface of environments: the fourth kind of component, after those of interfaces.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import attrs
import gymnasium

from bitrl.core.environments.choice_wrappers import is_commanded, space_of_state
from bitrl.core.environments.crashes import close_quietly
from bitrl.core.environments.observation_specs import spec_of_space
from bitrl.core.interfaces import ObservationSpec


class Environment(ABC):
    """An environment. Made by `target(options, id)`, where `id` is the name it was requested by."""

    def __init__(self, options: Any, id: str):
        self.options, self.id = options, id

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be equal for a run to go on or be evaluated, beside the options, such as the hash of a file."""
        return {}

    @abstractmethod
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment.

        Its observation space is Box, Discrete, MultiDiscrete, MultiBinary, a Dict or Tuple of these and of Text, Text
        (a prompt), or as its `observation_spec` describes; its action space is of the same, a Text alone (a
        completion). Where not all actions are always admissible, see
        bitrl.core.acting.admissible.
        """

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment to evaluate in: by default the same as `make`; override it for separate training and
        evaluation tasks.
        """
        return self.make(render_mode)

    def observation_spec(self) -> ObservationSpec:
        """Names and bounds of the observation's numbers; by default read from the observation space."""
        env = self.make()
        try:
            spec = spec_of_space(space_of_state(env.observation_space), self.id)
            return attrs.evolve(spec, commands=is_commanded(env))
        finally:
            close_quietly(env)

    def action_names(self) -> tuple[str, ...]:
        """Readable names of the actions of a Discrete space, in order; () if they have none."""
        return ()
