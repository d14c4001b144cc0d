"""States of random play, as serializers get them."""

from __future__ import annotations

import numpy as np

from bitrl.core.acting.admissible import states_of
from bitrl.core.acting.nested import flat
from bitrl.core.environments.checked import checked
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observations import as_array


def observations_of(environment: Environment, count: int = 12) -> np.ndarray:
    """`count` observations [count, ...] of a random policy with a fixed seed, as serializers get them: without
    admissible actions, and flat.
    """
    env = reporting(lambda: checked(environment.make()), environment.id)()
    try:
        env.action_space.seed(0)
        found = [env.reset(seed=0)[0]]
        while len(found) < count:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            found.append(env.reset()[0] if terminated or truncated else observation)
        states: np.ndarray = states_of(np.stack([as_array(env.observation_space, each) for each in found]))
    finally:
        env.close()
    parts = environment.observation_spec().parts
    return flat(states, parts) if parts else states
