"""Random play keeps to what a state admits, and is the action space's own sampling where it admits all."""

import gymnasium
import numpy as np
import pytest

from bitrl.core.environments.checked import checked
from bitrl.core.environments.random_play import random_action
from bitrl.testing.small_environments import CommandsEnvironment, FactoredEnvironment, MaskedEnvironment

KINDS = ("MultiDiscrete", "MultiBinary", "Dict", "Tuple")
MASKED = [MaskedEnvironment(), *map(FactoredEnvironment, KINDS)]


@pytest.mark.parametrize("environment", MASKED, ids=lambda each: each.id)
def test_only_admissible_actions_are_played_and_all_of_them(environment):
    env = checked(environment.make())
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    played = set()
    for _ in range(200):
        action = random_action(env, observation)
        assert env.action_space.contains(action)
        played.add(str(action))
        observation, _, ended, *_ = env.step(action)
        if ended:
            observation, _ = env.reset()
    assert env.unwrapped.closed == 0
    assert len(played) > 4


def test_a_command_is_one_of_the_state():
    env = checked(CommandsEnvironment().make())
    observation, _ = env.reset(seed=0)
    for _ in range(11):
        action = random_action(env, observation)
        assert 0 <= action < len(observation["commands"].split("\n"))
        observation, *_ = env.step(action)


def test_without_a_mask_it_is_a_sample_of_the_space():
    env = gymnasium.make("Pendulum-v1")
    env.action_space.seed(3)
    expected = [env.action_space.sample() for _ in range(5)]
    env.action_space.seed(3)
    np.testing.assert_array_equal([random_action(env, np.zeros(3)) for _ in range(5)], expected)
