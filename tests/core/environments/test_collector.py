"""Rollouts and advantages on a world whose values are known, under both of Gymnasium's automatic resets."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bitrl.core.interfaces import Task
from bitrl.plugins.algos.gae import gae, next_values
from bitrl.plugins.algos.rollout import Episodes, collect

GAMMA = 0.9


class Corridor(gymnasium.Env):
    """Walks right from 0, one cell a step, reward 1 each; ends in cell `length` (terminal) or after `limit` (cut off).

    Episode e starts at cell 100·e, so that a state tells which episode it is of.
    """

    observation_space = gymnasium.spaces.Box(0, np.inf, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int, limit: int):
        self.length, self.limit, self.episode = length, limit, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.cell = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.cell += 1
        terminated = self.cell >= self.length
        return self.observation(), 1.0, terminated, self.cell >= self.limit and not terminated, {}

    def observation(self):
        return np.array([100.0 * self.episode + self.cell], np.float32)


class Identity:
    trainable, width = False, 1

    @staticmethod
    def choices(observations):
        return None

    def __call__(self, observations):
        return np.asarray(observations, np.float32)


def rollout_of(mode, worlds, steps, pieces=1):
    envs = SyncVectorEnv([lambda world=world: Corridor(*world) for world in worlds], autoreset_mode=mode)
    observations, _ = envs.reset(seed=0)
    task = Task(envs=envs, observations=observations, features=Identity(), seed=0, steps=0, progress=lambda step: None)
    episodes = Episodes.start(len(worlds))

    def act(features, choices, t):
        return np.zeros(len(worlds), int)

    return [collect(task, episodes, act, steps // pieces) for _ in range(pieces)]


def value(states):
    """The true discounted return from a cell, were the corridor endless: every state is worth 1 / (1 − γ)."""
    return np.full(states.shape[:-1], 1 / (1 - GAMMA), np.float32)


def terminal_value(length):
    """The true discounted return in a corridor that ends in cell `length`."""
    return lambda states: (1 - GAMMA ** (length - states[..., 0] % 100)) / (1 - GAMMA)


MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("world", "true_value"),
    [((5, 99), terminal_value(5)), ((99, 4), value), ((10_000, 10_000), value)],
    ids=["terminated", "truncated", "endless"],
)
def test_the_true_value_function_leaves_no_advantage(mode, world, true_value):
    """With the true V, every δ is zero if terminal states are worth nothing and truncated ones keep their value."""
    for rollout in rollout_of(mode, [world, world], 30, pieces=2):
        values = true_value(rollout.features).astype(np.float32)
        finals = true_value(rollout.final_features).astype(np.float32)
        advantages = gae(rollout, values, next_values(rollout, values, finals), GAMMA, 0.95)
        np.testing.assert_allclose(advantages[rollout.valid], 0, atol=1e-5)


def test_same_step_wastes_no_step_and_finds_the_true_last_state():
    [rollout] = rollout_of(AutoresetMode.SAME_STEP, [(99, 3)], 7)
    assert rollout.valid.all()
    assert rollout.features[:, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 200, 201]
    assert rollout.final_steps.tolist() == [[2, 0], [5, 0]]
    assert rollout.final_features[:, 0].tolist() == [3, 103]
    assert rollout.returns.tolist() == [3, 3]
    assert rollout.lengths.tolist() == [3, 3]


def test_next_step_masks_the_step_that_only_resets_even_across_rollouts():
    first, second = rollout_of(AutoresetMode.NEXT_STEP, [(99, 3)], 6, pieces=2)
    assert first.features[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert first.valid[:, 0].tolist() == [True, True, True]
    assert second.features[:, 0, 0].tolist() == [3, 100, 101, 102]
    assert second.valid[:, 0].tolist() == [False, True, True]
    assert first.returns.tolist() == [3]


def test_an_episodes_return_goes_on_over_rollouts():
    pieces = rollout_of(AutoresetMode.SAME_STEP, [(5, 99)], 6, pieces=3)
    assert [piece.returns.tolist() for piece in pieces] == [[], [], [5]]


@pytest.mark.parametrize("mode", MODES)
def test_every_state_is_turned_into_features_once(mode):
    seen = []

    class Counting(Identity):
        def __call__(self, observations):
            seen.extend(np.ravel(observations).tolist())
            return super().__call__(observations)

    envs = SyncVectorEnv([lambda: Corridor(99, 4)], autoreset_mode=mode)
    observations, _ = envs.reset(seed=0)
    task = Task(envs=envs, observations=observations, features=Counting(), seed=0, steps=0, progress=lambda step: None)
    episodes = Episodes.start(1)
    for _ in range(5):
        collect(task, episodes, lambda features, choices, t: np.zeros(1, int), 3)
    # States of this corridor never repeat: 15 steps lead to 15 new ones, and SAME_STEP also shows each episode's last.
    assert len(seen) == len(set(seen))


def test_environments_that_do_not_reset_themselves_are_refused():
    with pytest.raises(ValueError, match="does not reset itself"):
        rollout_of(AutoresetMode.DISABLED, [(5, 99)], 2)


def test_gae_of_a_hand_worked_case():
    """Two steps, the second terminal: δ_0 = 1 + 0.9·0.5 − 0.2, δ_1 = 1 − 0.5, A_0 = δ_0 + 0.9·0.8·δ_1."""
    [rollout] = rollout_of(AutoresetMode.SAME_STEP, [(2, 99)], 2)
    values = np.array([[0.2], [0.5], [7.0]], np.float32)
    advantages = gae(rollout, values, next_values(rollout, values, np.zeros(0, np.float32)), 0.9, 0.8)
    np.testing.assert_allclose(advantages[:, 0], [1.25 + 0.72 * 0.5, 0.5], rtol=1e-6)
