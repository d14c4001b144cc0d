"""States of random play, as serializers get them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from bitrl.core.acting.admissible import MASK, commands_of, splits, states_of
from bitrl.core.acting.factors import values_of
from bitrl.core.acting.nested import flat, part_at, taken_apart
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.checked import checked
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observations import as_array

RANDOM_PLAY = "random play"
"""As crash reports name it."""


def observations_of(
    environment: Environment, count: int = 12, tell: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """`count` observations [count, ...] of a random policy with a fixed seed, as serializers get them: without
    admissible actions, and flat. `tell` is called with the number of them.
    """
    env = reporting(lambda: checked(environment.make()), environment.id, RANDOM_PLAY)()
    try:
        env.action_space.seed(0)
        act = random_policy(env)
        found = [env.reset(seed=0)[0]]
        while len(found) < count:
            observation, _, terminated, truncated, _ = env.step(act(found[-1]))
            found.append(env.reset()[0] if terminated or truncated else observation)
            tell(len(found))
        states: np.ndarray = states_of(np.stack([as_array(env.observation_space, each) for each in found]))
    finally:
        env.close()
    parts = environment.observation_spec().parts
    return flat(states, parts) if parts else states


def random_policy(env: gymnasium.Env) -> Callable[[Any], Any]:
    """Observation → a random action of those that the state admits, drawn by the generator of the environment's action
    space; where all actions always are, what the space itself samples.
    """
    space: Any = env.action_space
    actions = factored_actions(space) if isinstance(space, FACTORED) else None

    def act(observation: Any) -> Any:
        action = space.sample()
        if not (isinstance(observation, dict) and splits(tuple(observation))):
            return action
        if MASK not in observation:
            return int(space.start + (action - space.start) % len(commands_of(observation) or ()))
        mask = np.asarray(observation[MASK])
        if isinstance(space, Discrete):
            return action if mask[int(action - space.start)] else space.sample(mask=mask.astype(np.int8))
        if actions is None:
            return action
        chosen = as_array(space, action)[None]
        for factor, used in actions.choices():
            admitted = map(np.flatnonzero, np.split(mask[used], np.cumsum(factor.sizes)[:-1]))
            places = [each[space.np_random.integers(len(each))] for each in admitted]
            part_at(chosen, factor.path)[...] = values_of(factor, np.array([places]))
        return taken_apart(chosen[0])

    return act
