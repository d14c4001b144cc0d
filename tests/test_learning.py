"""`bitrl.learning`: what algorithms are built of, public and imported when it is used."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl import learning
from bitrl.testing import make_task
from bitrl.testing.small_environments import ACTIONS, MaskedEnvironment


def test_every_name_is_there_and_none_needs_torch():
    assert sorted(learning._MODULE_OF) == learning.__all__
    assert all(getattr(learning, name).__doc__ for name in learning.__all__)
    code = f"import sys; from bitrl.learning import {', '.join(learning.__all__)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match=r"module 'bitrl\.learning' has no attribute 'gea'"):
        learning.gea  # noqa: B018


def test_advantages_of_one_environment_are_those_worked_out_by_hand():
    task = make_task("CartPole-v1", num_envs=1)
    rollout = task.collector.rollout(lambda states, t: np.zeros(1, int), 3)
    values = np.array([[1.0], [2.0], [3.0], [4.0]])
    after = learning.next_values(rollout, values, np.zeros(0))
    # Rewards are 1: δ = 1 + ½·[2, 3, 4] − [1, 2, 3] = [1, ½, 0], and A = δ + ¼·A of the next step.
    advantages = learning.gae(rollout, values, after, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(advantages[:, 0], [1.125, 0.5, 0.0])


def test_noise_of_gumbel_samples_the_softmax_of_admissible_actions():
    states = make_task(MaskedEnvironment(), num_envs=1).collector.states
    assert states.admissible is not None
    [mask] = states.admissible.mask
    logits, generator = np.array([[0.0, 1.0, 0.5, -1.0, 0.2]]), np.random.default_rng(0)
    drawn = [int(states.best(logits + generator.gumbel(size=logits.shape))[0]) for _ in range(4000)]
    powers = np.where(mask, np.exp(logits[0]), 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=ACTIONS) / 4000, powers / powers.sum(), atol=0.03)


def test_there_is_a_head_for_all_actions_that_are_numbers():
    assert learning.action_head(gymnasium.spaces.Discrete(3)).outputs == 3
    assert learning.action_head(gymnasium.spaces.Box(-1, 1, (2, 2))).outputs == 4
    assert learning.action_head(gymnasium.spaces.MultiDiscrete([2, 3])).outputs == 5
    assert learning.action_head(gymnasium.spaces.MultiBinary(3)).outputs == 6
    with pytest.raises(bitrl.UsageError, match="no action head for Text actions"):
        learning.action_head(gymnasium.spaces.Text(5))


def test_episodes_are_played_whole():
    played = learning.play_episodes(
        lambda: gymnasium.make("CartPole-v1"), lambda observations: np.zeros(len(observations), int), seeds=[1, 2, 3]
    )
    env = gymnasium.make("CartPole-v1")
    for seed, value in zip([1, 2, 3], played, strict=True):
        env.reset(seed=seed)
        steps = 1
        while not env.step(0)[2]:
            steps += 1
        assert value == steps
