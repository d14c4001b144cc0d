"""Rollouts and advantages in an environment whose values are known, under both of Gymnasium's automatic resets."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bitrl.core.acting.states import StateReader
from bitrl.core.environments.collector import Collector
from bitrl.plugins.algos.gae import gae, next_values

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
    """A serializer that writes the observation as it is, and a backbone whose features are what was written."""

    width, identity = 1, {"features": "observation"}

    def __call__(self, observation):
        return observation

    def batch(self, observations):
        return observations

    def encode(self, inputs):
        return np.asarray(inputs, np.float32)


def collector_of(mode, corridors, part=None):
    envs = SyncVectorEnv([lambda corridor=corridor: Corridor(*corridor) for corridor in corridors], autoreset_mode=mode)
    observations, _ = envs.reset(seed=0)
    part = part or Identity()
    return Collector(envs, StateReader(part, part), observations)


def rollout_of(mode, corridors, steps, pieces=1):
    collector = collector_of(mode, corridors)

    def act(states, t):
        return np.zeros(len(states), int)

    rollouts = [collector.rollout(act, steps // pieces) for _ in range(pieces)]
    assert collector.steps == steps * len(corridors)
    return rollouts


def value(states):
    """The true discounted return from a cell, were the corridor endless: every state is worth 1 / (1 − γ)."""
    return np.full(states.shape[:-1], 1 / (1 - GAMMA), np.float32)


def terminal_value(length):
    """The true discounted return in a corridor that ends in cell `length`."""
    return lambda states: (1 - GAMMA ** (length - states[..., 0] % 100)) / (1 - GAMMA)


MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("corridor", "true_value"),
    [((5, 99), terminal_value(5)), ((99, 4), value), ((10_000, 10_000), value)],
    ids=["terminated", "truncated", "endless"],
)
def test_the_true_value_function_leaves_no_advantage(mode, corridor, true_value):
    """With the true V, every δ is zero if terminal states are worth nothing and truncated ones keep their value."""
    for rollout in rollout_of(mode, [corridor, corridor], 30, pieces=2):
        values = true_value(rollout.features).astype(np.float32)
        finals = true_value(rollout.final_critic_features).astype(np.float32)
        advantages = gae(rollout, values, next_values(rollout, values, finals), GAMMA, 0.95)
        np.testing.assert_allclose(advantages[rollout.valid], 0, atol=1e-5)


def test_same_step_wastes_no_step_and_finds_the_true_last_state():
    [rollout] = rollout_of(AutoresetMode.SAME_STEP, [(99, 3)], 7)
    assert rollout.valid.all()
    assert rollout.features[:, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 200, 201]
    assert rollout.final_steps.tolist() == [[2, 0], [5, 0]]
    assert rollout.final_critic_features[:, 0].tolist() == [3, 103]
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
    encoded = []

    class Counting(Identity):
        def encode(self, inputs):
            encoded.extend(np.ravel(inputs).tolist())
            return super().encode(inputs)

    collector = collector_of(mode, [(99, 4)], Counting())
    for _ in range(5):
        rollout = collector.rollout(lambda states, t: np.zeros(1, int), 3)
        assert rollout.features is rollout.features
        assert rollout.critic_features is rollout.features
        rollout.final_critic_features  # noqa: B018 (asks for them)
    # States of this corridor never repeat: 15 steps lead to 15 new ones, and SAME_STEP also shows each episode's last.
    assert len(encoded) == len(set(encoded)) == (16 if mode is AutoresetMode.NEXT_STEP else 19)


def test_nothing_is_encoded_that_is_not_asked_for():
    class Refusing(Identity):
        def encode(self, inputs):
            raise AssertionError("nobody asked for features")

    rollout = collector_of(AutoresetMode.SAME_STEP, [(99, 4)], Refusing()).rollout(
        lambda states, t: np.zeros(1, int), 6
    )
    assert rollout.states[3].observations.tolist() == [[3.0]]
    assert rollout.states[3].vectors.tolist() == [[3.0]]


def test_a_collector_goes_on_from_its_state():
    whole, stopped = (collector_of(AutoresetMode.NEXT_STEP, [(99, 3)]) for _ in range(2))
    act = lambda states, t: np.zeros(1, int)  # noqa: E731
    whole.rollout(act, 4), stopped.rollout(act, 4)
    again = Collector(stopped.envs, stopped.reader, stopped.states.observations)
    again.load_state(stopped.state())
    first, second = whole.rollout(act, 4), again.rollout(act, 4)
    assert first.returns.tolist() == second.returns.tolist()
    assert first.valid.tolist() == second.valid.tolist()
    assert first.features.tolist() == second.features.tolist()
    assert again.steps == whole.steps == 8


def test_environments_that_do_not_reset_themselves_are_refused():
    with pytest.raises(ValueError, match="does not reset automatically"):
        rollout_of(AutoresetMode.DISABLED, [(5, 99)], 2)


def test_gae_of_a_hand_worked_case():
    """Two steps, the second terminal: δ_0 = 1 + 0.9·0.5 − 0.2, δ_1 = 1 − 0.5, A_0 = δ_0 + 0.9·0.8·δ_1."""
    [rollout] = rollout_of(AutoresetMode.SAME_STEP, [(2, 99)], 2)
    values = np.array([[0.2], [0.5], [7.0]], np.float32)
    advantages = gae(rollout, values, next_values(rollout, values, np.zeros(0, np.float32)), 0.9, 0.8)
    np.testing.assert_allclose(advantages[:, 0], [1.25 + 0.72 * 0.5, 0.5], rtol=1e-6)
