"""Gymnasium's Box2D tasks run as any id does (extra box2d)."""

import numpy as np
import pytest

from bitrl.core.config import resolve
from bitrl.core.environments.random_play import observations_of
from bitrl.core.environments.replay import restore, save, vectorise
from bitrl.core.runs.parts import build

pytest.importorskip("Box2D")


@pytest.mark.parametrize(
    ("env", "numbers"), [("LunarLander-v3", 8), ("LunarLanderContinuous-v3", 8), ("BipedalWalker-v3", 24)]
)
def test_states_are_written_and_read(env, numbers):
    parts = build(resolve({"run": {"env": env}, "backbone": {"layers": 1, "pooling": "field", "projection": 64}}))
    states = parts.reader(observations_of(parts.environment, 30))
    assert {len(text.split()) for text in states.texts} == {numbers}
    assert states.features.shape == (30, 64)
    assert len(np.unique(states.features, axis=0)) == 30


@pytest.mark.parametrize("env", ["LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"])
def test_an_episode_does_not_depend_on_those_before_it(env):
    """BipedalWalker's world remembers earlier bodies: replayed in a new one, its episode took another course."""
    environment = build(resolve({"run": {"env": env}, "backbone": {"layers": 1, "pooling": "field"}})).environment
    envs, others = vectorise(environment.make, 2), vectorise(environment.make, 2)
    envs.action_space.seed(0)
    observations, _ = envs.reset(seed=[0, 1])
    for _ in range(5):
        for _ in range(200):
            observations = envs.step(envs.action_space.sample())[0]
        arrays, starts = save(envs)
        restore(others, arrays, starts, observations)  # raises RunFailed where the observations differ
