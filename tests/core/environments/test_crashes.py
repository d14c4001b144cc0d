"""An environment's exception becomes one line that says which environment it was and how to meet it again."""

from __future__ import annotations

import array

import gymnasium
import numpy as np
import pytest

from bitrl.core.environments import replay
from bitrl.core.environments.checked import checked
from bitrl.core.environments.crashes import reporting
from bitrl.core.errors import RunFailed, UsageError


class Fragile(gymnasium.Env):
    """Raises `error` in step `at` of its episodes (0: in reset); episodes last ten steps."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    error: BaseException = ValueError("the lamp\nbroke")
    at = 99

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.fail()
        return np.array([self.np_random.uniform(-1, 1)], np.float32), {}

    def step(self, action):
        self.steps += 1
        self.fail()
        return np.array([self.np_random.uniform(-1, 1)], np.float32), 1.0, self.steps == 10, False, {}

    def fail(self):
        if self.steps == self.at:
            raise self.error


def made(count):
    envs = replay.vectorise(reporting(Fragile, "Fragile-v0"), count)
    envs.reset(seed=[*range(100, 100 + count)])
    return envs


def step(envs, times):
    for _ in range(times):
        observations = envs.step(np.zeros(envs.num_envs, int))[0]
    return observations


def test_a_crash_in_a_step_says_which_one_of_which_environment():
    envs = made(3)
    step(envs, 24)
    envs.envs[1].unwrapped.at = 7  # the third episode's, whose seed is its generator's
    with pytest.raises(RunFailed) as caught:
        step(envs, 9)
    message = str(caught.value)
    assert message.startswith(
        "environment Fragile-v0 crashed in step 7 of an episode: ValueError: the lamp broke (parallel environment 1,"
    )
    assert "seed 101;" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_crash_in_a_reset_says_so():
    envs = made(2)
    envs.envs[0].unwrapped.at = 0
    with pytest.raises(
        RunFailed, match=r"Fragile-v0 crashed in reset\(\): ValueError.* \(parallel environment 0, seed 100;"
    ):
        step(envs, 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("the model is gone"), RunFailed("no such game")])
def test_an_interrupt_and_what_explains_itself_pass_unchanged(error):
    envs = made(1)
    envs.envs[0].unwrapped.error, envs.envs[0].unwrapped.at = error, 3
    with pytest.raises(type(error)) as caught:
        step(envs, 3)
    assert caught.value is error
    assert error.__cause__ is None


def test_the_seed_outlives_a_restoration():
    first = made(2)
    observations = step(first, 13)
    actions, starts = replay.save(first)
    second = replay.vectorise(reporting(Fragile, "Fragile-v0"), 2)
    replay.restore(second, actions, starts, observations)
    second.envs[1].unwrapped.at = 5
    with pytest.raises(RunFailed, match=r"in step 5 of .* seed 101;"):
        step(second, 2)


class IntSeeded(Fragile):
    """Hands its seed to a signed integer of 32 bits, as simulators in C do."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else int_of_c(seed), options=options)


def int_of_c(seed):
    return array.array("i", [seed])[0]  # OverflowError beyond 2³¹ − 1


def test_seeds_of_32_bits_reach_a_simulator_that_holds_31():
    env = checked(IntSeeded())
    assert env.reset(seed=2**31 + 5)[0] == env.reset(seed=5)[0] != env.reset(seed=6)[0]
    env.unwrapped.error, env.unwrapped.at = OverflowError("of its own"), 0
    with pytest.raises(OverflowError, match="of its own"):
        env.reset(seed=5)
    with pytest.raises(OverflowError, match="of its own"):
        env.reset(seed=2**31 + 5)
