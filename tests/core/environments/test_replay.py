"""Environments that bitrl knows nothing of are restored exactly."""

import gymnasium
import numpy as np
import pytest

from bitrl.core.environments import replay


def play(envs, steps, generator):
    rows = []
    for _ in range(steps):
        if isinstance(envs.single_action_space, gymnasium.spaces.Discrete):
            actions = generator.integers(envs.single_action_space.n, size=envs.num_envs)
        else:
            actions = generator.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        rows.append((observations, rewards, terminated, truncated))
    return rows


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "FrozenLake-v1", "HalfCheetah-v5"])
@pytest.mark.parametrize("steps", [0, 5, 120])
def test_a_restored_environment_goes_on_as_the_original(id, steps):
    if id.startswith("HalfCheetah"):
        pytest.importorskip("mujoco", reason="needs the extra bitrl[mujoco]")
    original = replay.vectorise(lambda: gymnasium.make(id), 3)
    observations, _ = original.reset(seed=[3, 4, 5])
    generator = np.random.default_rng(0)
    for row in play(original, steps, generator):
        observations = row[0]
    actions, starts = replay.save(original)

    restored = replay.vectorise(lambda: gymnasium.make(id), 3)
    replay.restore(restored, actions, starts, observations)
    for mine, wanted in zip(
        play(restored, 150, np.random.default_rng(1)), play(original, 150, np.random.default_rng(1)), strict=True
    ):
        for got, want in zip(mine, wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    original.close()
    restored.close()


def test_only_the_current_episode_is_kept():
    envs = replay.vectorise(lambda: gymnasium.make("CartPole-v1"), 2)
    envs.reset(seed=[0, 1])
    play(envs, 500, np.random.default_rng(0))
    actions, _ = replay.save(envs)
    # Random episodes of CartPole last about 22 steps, never hundreds.
    assert max(len(array) for array in actions.values()) < 200
