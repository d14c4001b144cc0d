"""Admissible actions: as part of observations, and as rows of features."""

import gymnasium
import numpy as np
import pytest

from bitrl.core.acting.admissible import (
    AdmissibleActions,
    CommandTable,
    admissible_actions,
    commands_of,
    stack,
    states_of,
)
from bitrl.core.environments import choice_wrappers, replay
from bitrl.core.environments.choice_wrappers import ActionMask, space_of_state
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.observations import as_array
from bitrl.core.errors import RunFailed


class Shop(gymnasium.Env):
    """As many things can be bought as the day is old; on day 0 nothing can."""

    observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Text(20, charset="day 0123456789")})
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.day = 0
        return self.seen()

    def step(self, action):
        self.day += 1
        observation, info = self.seen()
        return observation, 1.0, self.day == 9, False, info

    def seen(self):
        return {"state": f"day {self.day}"}, {"admissible_commands": [f"buy\nthing {i}" for i in range(self.day)]}


def lengths(commands):
    return np.array([[len(command), 1.0] for command in commands], np.float32)


def test_commands_become_part_of_the_observation_and_are_cut_where_the_space_ends():
    env = choice_wrappers.Commands(Shop())
    observation, _ = env.reset(seed=0)
    assert observation == {"observation": {"state": "day 0"}, "commands": ""}
    for _ in range(6):
        observation, *_ = env.step(0)
        assert env.observation_space.contains(observation)
    assert observation["commands"].split("\n") == ["buy thing 0", "buy thing 1", "buy thing 2", "buy thing 3"]
    assert commands_of(observation) == commands_of(as_array(env.observation_space, observation))
    assert space_of_state(env.observation_space) == Shop.observation_space


def test_vector_environments_keep_both_parts_through_resets_and_replay():
    envs = replay.vectorise(lambda: choice_wrappers.Commands(Shop()), 2)
    observations, _ = envs.reset(seed=[1, 2])
    for step in range(1, 12):
        observations, *_ = envs.step([0, 0])
        assert list(states_of(observations)["state"]) == [f"day {step % 9}"] * 2
        assert len(commands_of(observations[1])) == max(1, min(4, step % 9))
    arrays, starts = replay.save(envs)
    twins = replay.vectorise(lambda: choice_wrappers.Commands(Shop()), 2)
    twins.reset(seed=[3, 4])
    replay.restore(twins, arrays, starts, observations)


def test_each_command_of_a_batch_is_encoded_once_and_only_when_asked():
    read = []

    def encode(commands):
        read.extend(commands)
        return lengths(commands)

    dtype = np.dtype([("observation", "<f4"), ("commands", "<U40")])
    found = admissible_actions(np.array([(0.0, "go\nlook up"), (0.0, "look up"), (0.0, "")], dtype), encode)
    np.testing.assert_array_equal(found.mask, [[True, True], [True, False], [True, False]])
    np.testing.assert_array_equal(found.rows, [[1, 2], [2, 0], [0, 0]])
    assert not read
    np.testing.assert_array_equal(found.commands.features[1:, 0], [2, 7])
    some = found.map(lambda each: each[:1])
    assert some.commands.features is found.commands.features
    assert read == ["nothing", "go", "look up"]


def test_steps_with_different_commands_are_stacked_over_one_table_with_room_for_the_most():
    one = AdmissibleActions(np.ones((2, 1), bool), np.full((2, 1), 1), CommandTable(["", "go"], lengths))
    three = AdmissibleActions(
        np.ones((2, 3), bool), np.array([[1, 2, 1]] * 2), CommandTable(["", "look", "go"], lengths)
    )
    both = stack([one, three])
    assert both.mask.shape == both.rows.shape == (2, 2, 3)
    np.testing.assert_array_equal(both.mask[0], [[True, False, False]] * 2)
    assert both.commands.texts == ("", "go", "look")
    np.testing.assert_array_equal(both.rows[:, 0], [[1, 0, 0], [2, 1, 2]])
    assert stack([None, None]) is None


def test_observations_without_admissible_actions_are_left_alone():
    plain = np.zeros((3, 4), np.float32)
    assert states_of(plain) is plain
    assert admissible_actions(plain, lengths) is None
    parts = np.zeros(2, np.dtype([("image", np.uint8, (7, 7, 3)), ("mission", "<U9")]))
    assert states_of(parts) is parts
    assert admissible_actions(parts, lengths) is None


def test_a_gymnasium_environment_that_masks_its_actions_is_read_with_its_mask():
    """Taxi says in its info which moves are not into a wall."""
    env = load_environment("Taxi-v4").make()
    observation, info = env.reset(seed=0)
    assert isinstance(env.unwrapped, gymnasium.Env)
    np.testing.assert_array_equal(observation["action_mask"], info["action_mask"])
    assert load_environment("Taxi-v4").observation_spec().discrete == 500
    masked = as_array(env.observation_space, observation)[None]
    np.testing.assert_array_equal(admissible_actions(masked, lengths).mask[0], info["action_mask"].astype(bool))
    assert not isinstance(load_environment("CartPole-v1").make(), ActionMask)


def test_a_mask_that_forbids_everything_is_refused():
    dtype = np.dtype([("observation", "<f4"), ("action_mask", "i1", (3,))])
    with pytest.raises(RunFailed, match="forbids every action"):
        admissible_actions(np.array([(0.0, (0, 1, 0)), (0.0, (0, 0, 0))], dtype), lengths)
