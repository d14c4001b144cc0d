"""Environments that draw from the operating system after their first episode are seeded episode by episode."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import bitrl
from bitrl.core.config import resolve
from bitrl.core.environments.evidence import choose
from bitrl.core.environments.replay import restore, save, vectorise
from bitrl.core.runs.parts import build


class Walk(gymnasium.Env):
    """A random walk of five steps, drawn from `np_random`."""

    observation_space, action_space = Box(-1e3, 1e3, (2,), np.float64), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = np.zeros(2), 0
        self.generator = self.generator_for(seed)
        return self.place.copy(), {}

    def step(self, action):
        self.place += self.generator.normal(size=2) + action
        self.steps += 1
        return self.place.copy(), float(self.place[0]), self.steps == 5, False, {}

    def generator_for(self, seed):
        return self.np_random


class OwnWalk(Walk):
    """Drawn from a generator that is made as many packages make it."""

    def generator_for(self, seed):
        return np.random.default_rng(seed)


class LoneWalk(OwnWalk):
    """Has nothing to do with `np_random`, which it leaves unseeded."""

    def reset(self, *, seed=None, options=None):
        started = super().reset(seed=None)
        self.generator = self.generator_for(seed)
        return started


class UnseededWalk(Walk):
    """Drawn from the operating system, whatever the seed."""

    def generator_for(self, seed):
        return np.random.default_rng()


class RowOfTasks(Walk):
    """Goes through its tasks one after another; a seed leads back to the first."""

    task = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=0)
        self.task = 0 if seed is not None else self.task + 1
        self.place += self.task
        return self.place.copy(), {}


ENVIRONMENTS = {
    "RowOfTasks-v0": RowOfTasks,
    "Walk-v0": Walk,
    "OwnWalk-v0": OwnWalk,
    "LoneWalk-v0": LoneWalk,
    "UnseededWalk-v0": UnseededWalk,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", registry := {**gymnasium.registry})
    monkeypatch.setattr(gymnasium, "registry", registry)
    for id, environment in ENVIRONMENTS.items():
        gymnasium.register(id, environment)


def chosen(env, **options):
    config = {"run": {"env": env, "backbone": "mlp", "serializer": "vector"}, "env": options}
    return choose(resolve(config), ("env",))


@pytest.mark.parametrize(
    ("env", "seeded", "told"),
    [
        ("Walk-v0", None, ""),
        ("RowOfTasks-v0", None, "no run can be repeated"),
        ("OwnWalk-v0", True, "seed"),
        ("LoneWalk-v0", True, "seed"),
        ("UnseededWalk-v0", None, "no run can be repeated"),
    ],
)
def test_episodes_are_seeded_where_that_alone_repeats_them(env, seeded, told):
    config, lines = chosen(env)
    assert config.env_options.seed_episodes is seeded
    assert len(lines) == bool(told)
    assert told in "".join(lines)


def test_what_the_user_set_stays():
    assert chosen("OwnWalk-v0", seed_episodes=False)[0].env_options.seed_episodes is False


def test_an_episode_is_restored_from_the_state_of_np_random():
    environment = build(chosen("OwnWalk-v0")[0]).environment
    envs, others = vectorise(environment.make, 2), vectorise(environment.make, 2)
    observations, _ = envs.reset(seed=[0, 1])
    for step in range(23):
        observations = envs.step(np.array([step % 2, 1]))[0]
    restore(others, *save(envs), observations)
    for step in range(20):
        np.testing.assert_array_equal(envs.step(np.array([1, step % 2]))[0], others.step(np.array([1, step % 2]))[0])


@pytest.mark.parametrize("env", ["OwnWalk-v0", "LoneWalk-v0"])
def test_a_run_repeats_itself_and_goes_on_as_if_never_stopped(env, tmp_path):
    def written(directory: Path) -> bytes:
        return (directory / "metrics.jsonl").read_bytes()

    given = {
        "backbone": "mlp",
        "options": {"algo.rollout_steps": 64, "run.num_envs": 2, "run.eval_episodes": 1},
    }
    bitrl.run(env, steps=256, out=tmp_path / "whole", **given)
    bitrl.run(env, steps=128, out=tmp_path / "parts", **given)
    bitrl.resume(tmp_path / "parts", steps=256)
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
