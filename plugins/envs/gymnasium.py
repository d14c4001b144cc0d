"""Environments by their Gymnasium id."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.acting.admissible import MASK, OBSERVATION, splits
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.choice_wrappers import ActionMask
from bitrl.core.environments.crashes import close_quietly
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observation_specs import spec_of_known
from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.errors import UsageError, cause
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.registry import registry
from bitrl.plugins.envs import babyai, box2d, mujoco
from bitrl.plugins.envs.actions import ACTIONS, MINIGRID
from bitrl.plugins.envs.modules import import_module_of
from bitrl.plugins.envs.one_of_vector import OneOfVector
from bitrl.plugins.envs.seeded_episodes import SeededEpisodes


def task_of(id: str) -> PromptTask | None:
    """The task for language models that `module:Class` names, of a module that is imported; None for any other id."""
    module, _, name = id.partition(":")
    named = getattr(sys.modules.get(module), name, None) if name else None
    return named(id=id) if isinstance(named, type) and issubclass(named, PromptTask) else None


ACTION_SPACES = (Discrete, Box, MultiDiscrete, MultiBinary, Dict, Tuple, Text)


class GymnasiumEnvironment(Environment):
    """An environment made by `gymnasium.make`, or, where it is a vector environment alone, one of one by `make_vec`; an
    action mask in its `info` becomes part of its observations.
    """

    _masked: bool | None = None

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment.

        Raises:
            UsageError: Gymnasium cannot make it (unknown id, or a package that it needs is missing), or its actions are
                of none of `ACTION_SPACES`.
        """
        import_module_of(self.id)
        if self._task is not None:
            return self._task.make(render_mode)
        if babyai.is_minigrid(self.id):
            return babyai.make(self.id, render_mode)
        env = self._made({"render_mode": render_mode} if render_mode else {})
        for name, kinds in (("observation_space", gymnasium.Space), ("action_space", ACTION_SPACES)):
            space: Any = getattr(env, name, None)
            if not isinstance(space, kinds):
                close_quietly(env)
                names = [each.__name__ for each in ACTION_SPACES]
                known = f"a {', '.join(names[:-1])} or {names[-1]} action space"
                kind = "an observation space" if kinds is gymnasium.Space else known
                raise UsageError(f"environment {self.id}: expected {kind}, got {type(space).__name__}")
        return ActionMask(env) if self._masks(env) else env

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment; of a task for language models (`module:Class`), with held-out prompts."""
        import_module_of(self.id)
        return self.make(render_mode) if self._task is None else self._task.make_for_evaluation(render_mode)

    @cached_property
    def _task(self) -> PromptTask | None:
        """One for all environments, whose scores one process computes; wanted once the module is imported."""
        return task_of(self.id)

    def _made(self, arguments: dict[str, Any]) -> gymnasium.Env:
        try:
            with mujoco.quiet(self.id):
                # bitrl checks every step itself (core/environments/checked.py), and says which environment it was.
                if _is_vector_only(self.id):
                    return OneOfVector(gymnasium.make_vec(self.id, num_envs=1, **arguments))
                env = gymnasium.make(self.id, disable_env_checker=True, **arguments)
                return box2d.NewWorlds(env) if box2d.keeps_its_world(env) else env
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an environment's own construction raises, sys.exit() too
            hint = mujoco.hint(self.id, error)
            why = " ".join(str(error).split()) if isinstance(error, gymnasium.error.Error) else cause(error)
            more = " (BITRL_DEBUG=1 shows where)" if why == type(error).__name__ else ""
            raise UsageError(f"environment {self.id} cannot be made: {why}{hint}{more}") from error

    def _masks(self, env: gymnasium.Env) -> bool:
        """Whether the environment gives an action mask for its numbered actions, or for those of several factors."""
        actions: Any = env.action_space
        if not isinstance(actions, (Discrete, *FACTORED)) or spec_of_known(self.id) is not None:
            return False
        if not factored_actions(actions).values:
            return False
        if self._masked is None:
            self._masked = self._gives_mask(env)
        return self._masked

    def _gives_mask(self, env: gymnasium.Env) -> bool:
        """Whether a first reset's `info` has an action mask that can be read."""
        actions: Any = env.action_space
        parts = env.observation_space
        if isinstance(parts, Dict) and MASK in parts.spaces and not splits(tuple(parts)):
            registry().report(
                f'warning: environment {self.id}: observation["{MASK}"] is read as numbers of the state, and every '
                f'action counts as admissible: give it as info["{MASK}"], or put the rest under "{OBSERVATION}" beside '
                "it"
            )
        mask = self._first_mask(env)
        if mask is None:
            if env.has_wrapper_attr("action_masks") and not (isinstance(parts, Dict) and splits(tuple(parts))):
                registry().report(
                    f"warning: environment {self.id}: its action_masks() is not called, and every action counts as "
                    f'admissible: give what it returns as info["{MASK}"], in reset() and step()'
                )
            return False
        try:
            shape = f"shape {np.shape(mask)}"
        except ValueError:
            shape = "sequences of different lengths"
        if isinstance(actions, Discrete) and shape != f"shape {(int(actions.n),)}":
            registry().report(
                f'warning: environment {self.id}: info["{MASK}"] is left out, and every action counts as admissible: '
                f"expected 0 or 1 for each of {actions.n} actions, got {shape}"
            )
            return False
        return True

    def _first_mask(self, env: gymnasium.Env) -> Any:
        """The action mask of a first reset, if there is one: of another environment; of `env` itself where there can be
        none beside it (a port, a licence for one), or that one fails.
        """
        try:
            other = self._made({})
            try:
                return other.reset(seed=0)[1].get(MASK)
            finally:
                close_quietly(other)
        except KeyboardInterrupt:
            raise
        except BaseException:
            pass
        try:
            return env.reset(seed=0)[1].get(MASK)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the run's own first reset says what is wrong
            return None

    def observation_spec(self) -> ObservationSpec:
        """From the table of known environments, else from the observation space."""
        if babyai.is_minigrid(self.id):
            return babyai.spec(self.id)
        spec: Any = spec_of_known(self.id)
        return spec if spec is not None else super().observation_spec()

    def action_names(self) -> tuple[str, ...]:
        """Those of the known environments."""
        return MINIGRID if babyai.is_minigrid(self.id) else ACTIONS.get(self.id, ())


class AnyGymnasiumEnvironment(GymnasiumEnvironment):
    """One that bitrl has no record of, with the options of those."""

    def _made(self, arguments: dict[str, Any]) -> gymnasium.Env:
        env = super()._made(arguments)
        return SeededEpisodes(env) if self.options.seed_episodes else env


def _is_vector_only(id: str) -> bool:
    """Whether Gymnasium knows the id as that of a vector environment alone."""
    try:
        spec = gymnasium.spec(id.rpartition(":")[2])
    except gymnasium.error.Error:
        return False
    return spec.entry_point is None and spec.vector_entry_point is not None
