"""Finds out by random play whether an environment's episodes follow `np_random`, or its seeds alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import attrs
import gymnasium
import numpy as np
from gymnasium.spaces import Text

from bitrl.core.config import Config
from bitrl.core.environments import crashes
from bitrl.core.environments.checked import checked
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.loading import build_environment
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.random_play import RANDOM_PLAY, random_policy
from bitrl.core.environments.replay import same
from bitrl.plugins.envs import babyai
from bitrl.plugins.envs.gymnasium import task_of
from bitrl.plugins.envs.modules import import_module_of

EPISODES, STEPS = 3, 16
"""Of random play: how many episodes are begun, and how far each is played."""


def choose(config: Config, part: str) -> tuple[Any, str] | None:
    """The options of a configuration's environment, with `seed_episodes` if its episodes follow seeds alone, and a line
    if they do not follow `np_random`; None where they do, or that option is set.

    Raises:
        UsageError: the module of the environment's name cannot be imported.
    """
    options, id = config.env_options, config.run.env
    if options.seed_episodes is not None:
        return None
    follows: Literal["np_random", "seeds"] | None = "np_random"
    if not _draws_from_np_random(id):
        with contextlib.suppress(Exception):  # an environment that fails here fails the run, which says more of it
            follows = _follows(build_environment(config.environment, options, id))
    # Unset where it would do nothing: runs are then of one task, whether or not they were played for this.
    if follows == "np_random":
        return None
    if follows == "seeds":
        told = f"episodes of {id} are each reset with a seed: without one they do not follow np_random"
        return attrs.evolve(options, seed_episodes=True), told
    return options, f"episodes of {id} follow neither np_random nor seeds: no run can be repeated or resumed exactly"


def _draws_from_np_random(id: str) -> bool:
    """Whether all randomness of the environment is known to come from `np_random`: Gymnasium's own and MiniGrid's."""
    import_module_of(id)
    if task_of(id) is not None or babyai.is_minigrid(id):
        return True
    try:
        entry: Any = gymnasium.spec(id.rpartition(":")[2]).entry_point
    except gymnasium.error.Error:
        return False
    return isinstance(entry, str) and entry.startswith("gymnasium.envs.")


def _follows(environment: Environment) -> Literal["np_random", "seeds"] | None:
    """What repeats episodes."""
    env = crashes.reporting(lambda: checked(environment.make()), environment.id, RANDOM_PLAY)()
    try:
        if isinstance(env.action_space, Text):  # whose answers may be judged at a price
            return "np_random"
        env.reset(seed=0)
        state = env.unwrapped.np_random.bit_generator.state

        def unseeded(episode: int) -> Any:
            if episode == 0:
                generator = np.random.default_rng()
                generator.bit_generator.state = state
                env.unwrapped.np_random = generator
            return env.reset()[0]

        def seeded(episode: int) -> Any:
            return env.reset(seed=episode)[0]

        if _alike(env, unseeded, unseeded):
            return "np_random"
        # A seed may also lead back to the first of a row of tasks, of which the others would never be seen.
        varied = not _alike(env, seeded, lambda episode: env.reset(seed=0)[0])
        return "seeds" if varied and _alike(env, seeded, seeded) else None
    finally:
        crashes.close_quietly(env)


def _alike(env: gymnasium.Env, start: Callable[[int], Any], other: Callable[[int], Any]) -> bool:
    """Whether random play gives the same observations from either start; `start(episode)` resets."""
    first, second = _played(env, start), _played(env, other)
    return first.shape == second.shape and same(first, second)


def _played(env: gymnasium.Env, start: Callable[[int], Any]) -> np.ndarray:
    env.action_space.seed(0)
    act, found = random_policy(env), []
    for episode in range(EPISODES):
        found.append(start(episode))
        for _ in range(STEPS):
            observation, _, terminated, truncated, _ = env.step(act(found[-1]))
            found.append(observation)
            if terminated or truncated:
                break
    return np.stack([as_array(env.observation_space, each) for each in found])
