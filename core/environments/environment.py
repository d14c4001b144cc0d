"""What an environment looks like to the rest of bitrl: the fourth kind of component, beside those of interfaces.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium

from bitrl.core.environments.choice_wrappers import space_of_state
from bitrl.core.environments.observation_specs import spec_of_space
from bitrl.core.interfaces import ObservationSpec


class Environment(ABC):
    """A world. Made by `target(options, id)`, where `id` is the name it was asked for by."""

    def __init__(self, options: Any, id: str):
        self.options, self.id = options, id

    @abstractmethod
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment.

        Its observation space is Box, Discrete, Text (a prompt) or what its `observation_spec` says; its action space
        Discrete, Box or Text (a completion). Where not all actions are always admissible, see
        bitrl.core.acting.admissible.
        """

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment to evaluate in: `make`'s, unless what is learnt in and what is judged by are to be
        apart.
        """
        return self.make(render_mode)

    def observation_spec(self) -> ObservationSpec:
        """Names and bounds of the observation's numbers; by default read from the observation space."""
        env = self.make()
        try:
            return spec_of_space(space_of_state(env.observation_space), self.id)
        finally:
            env.close()

    def action_names(self) -> tuple[str, ...]:
        """What the actions of a Discrete space are called, in their order, for people to read; () if they have no
        names.
        """
        return ()
