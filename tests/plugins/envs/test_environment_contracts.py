"""Every built-in environment keeps the contract: Gymnasium's checks and ours pass, and what a vector of environments
does is what each would do alone, through terminations, truncations and automatic resets.
"""

from __future__ import annotations

import numpy as np
import pytest

from bitrl.core.environments import replay
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.observations import as_array
from bitrl.testing import check_environment

STEPS = 80
NEEDS = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "HalfCheetah": "mujoco", "Hopper": "mujoco"}
NEEDS |= {"Walker2d": "mujoco", "MontezumaRevenge": "ale_py"}


def require(name: str) -> None:
    """Skip the test if the package of an environment is missing."""
    package = NEEDS.get(name.partition("-")[0])
    if package is not None:
        pytest.importorskip(package, reason=f"{name} needs it")


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_mujocos_robots_conform(name: str) -> None:
    require(name)
    check_environment("gymnasium", id=name)


@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-KeyCorridorS3R1-v0"])
def test_minigrids_hard_environments_conform(name: str) -> None:
    require(name)
    check_environment(name)


def alone(name: str, seed: int, actions: list) -> list[tuple]:
    """What a single environment does: (observation, reward, terminated, truncated, last observation of an episode)."""
    env = load_environment(name).make()
    first = as_array(env.observation_space, env.reset(seed=seed)[0])
    rows: list[tuple] = [(first, 0.0, False, False, None)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        last = as_array(env.observation_space, observation)
        ended = terminated or truncated
        seen = as_array(env.observation_space, env.reset()[0]) if ended else last
        rows.append((seen, reward, terminated, truncated, last if ended else None))
    env.close()
    return rows


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        *((each, "terminated") for each in ["CartPole-v1"]),
        *((each, "truncated") for each in ["SmartHome-Light", "BabyAI-GoToRedBall-v0"]),
        *((each, "") for each in ["Acrobot-v1", "MountainCar-v0", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]),
        *((each, "") for each in ["MiniGrid-DoorKey-8x8-v0", "MontezumaRevenge"]),
    ],
)
def test_same_seed_same_trajectory_whatever_stands_beside_it(name: str, ends: str) -> None:
    require(name)
    seeds = [11, 12, 13, 14, 15]
    space = load_environment(name).make().action_space
    space.seed(0)
    actions = {seed: [space.sample() for _ in range(STEPS)] for seed in seeds}
    expected = {seed: alone(name, seed, actions[seed]) for seed in seeds}
    for chosen in ([13], [15, 12], seeds):
        envs = replay.vectorise(reporting(load_environment(name).make, name), len(chosen))
        observations, _ = envs.reset(seed=chosen)
        for i, seed in enumerate(chosen):
            np.testing.assert_array_equal(observations[i], expected[seed][0][0])
        for t in range(STEPS):
            observations, rewards, terminated, truncated, info = envs.step(
                np.array([actions[seed][t] for seed in chosen])
            )
            for i, seed in enumerate(chosen):
                seen, reward, dies, cut, last = expected[seed][t + 1]
                np.testing.assert_array_equal(observations[i], seen)
                assert (rewards[i], terminated[i], truncated[i]) == (reward, dies, cut)
                if last is not None:
                    np.testing.assert_array_equal(info["final_obs"][i], last)
        envs.close()
    assert not ends or any(row[2 if ends == "terminated" else 3] for row in expected[13])
