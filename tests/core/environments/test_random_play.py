"""Random play keeps to what a state admits, and is the action space's own sampling where it admits all."""

import gymnasium
import numpy as np
import pytest

from bitrl.core.environments.checked import checked
from bitrl.core.environments.random_play import random_policy
from bitrl.testing.small_environments import CommandsEnvironment, FactoredEnvironment, MaskedEnvironment

KINDS = ("MultiDiscrete", "MultiBinary", "Dict", "Tuple")
MASKED = [MaskedEnvironment(), *map(FactoredEnvironment, KINDS)]


@pytest.mark.parametrize("environment", MASKED, ids=lambda each: each.id)
def test_only_admissible_actions_are_played_and_all_of_them(environment):
    env = checked(environment.make())
    env.action_space.seed(0)
    act, (observation, _) = random_policy(env), env.reset(seed=0)
    played = set()
    for _ in range(200):
        action = act(observation)
        assert env.action_space.contains(action)
        played.add(str(action))
        observation, _, ended, *_ = env.step(action)
        if ended:
            observation, _ = env.reset()
    assert env.unwrapped.closed == 0
    assert len(played) > 4


def test_a_command_is_one_of_the_state():
    env = checked(CommandsEnvironment().make())
    act, (observation, _) = random_policy(env), env.reset(seed=0)
    for _ in range(11):
        action = act(observation)
        assert 0 <= action < len(observation["commands"].split("\n"))
        observation, *_ = env.step(action)


def test_without_a_mask_it_is_a_sample_of_the_space():
    env = gymnasium.make("Pendulum-v1")
    env.action_space.seed(3)
    expected = [env.action_space.sample() for _ in range(5)]
    env.action_space.seed(3)
    act = random_policy(env)
    np.testing.assert_array_equal([act(np.zeros(3)) for _ in range(5)], expected)
