"""Environments by id: what is known of their observations, and what is refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import bitrl
from bitrl.core.environments import replay
from bitrl.core.environments.observation_specs import FIELDS, spec_of_space
from bitrl.core.runs.episodes import play_episodes
from bitrl.plugins.envs.gymnasium import GymnasiumEnvironment


@pytest.mark.parametrize("id", [id for id in FIELDS if id in gymnasium.registry])
def test_the_table_fits_the_environment(id):
    """As many fields as numbers, in bounds that the space's finite bounds agree with."""
    space = gymnasium.make(id).observation_space
    if isinstance(space, gymnasium.spaces.Tuple):
        bounds = [(part.start, part.start + part.n - 1) for part in space]
    else:
        bounds = [*zip(space.low, space.high, strict=True)]
    assert len(FIELDS[id]) == len(bounds)
    for field, (low, high) in zip(FIELDS[id], bounds, strict=True):
        for mine, theirs in ((field.low, low), (field.high, high)):
            assert abs(theirs) > 1e30 or mine == pytest.approx(theirs, rel=2e-3)


class Map(gymnasium.Env):
    observation_space = gymnasium.spaces.Graph(gymnasium.spaces.Box(-1, 1, (2,)), None)
    action_space = gymnasium.spaces.Discrete(2)


def test_an_unknown_environment_is_described_by_its_space():
    spec = GymnasiumEnvironment(None, "Pendulum-v1").observation_spec()
    assert [field.name for field in spec.fields] == ["x0", "x1", "x2"]
    assert spec.fields[2].low == -8
    assert spec_of_space(gymnasium.spaces.Box(-np.inf, np.inf, (2, 2)), "M-v0").fields[3].low is None


@pytest.mark.parametrize("backbone", ["mlp", "bitnet"])
@pytest.mark.parametrize(
    "id", ["Acrobot-v1", "MountainCar-v0", "FrozenLake-v1", "Pendulum-v1", "MountainCarContinuous-v0"]
)
def test_any_box_or_discrete_environment_runs(id, backbone, tmp_path):
    options = {
        "algo.rollout_steps": 64,
        "run.num_envs": 4,
        "run.eval_episodes": 1,
        "algo.epochs": 1,
        "backbone.hidden" if backbone == "mlp" else "backbone.layers": [8] if backbone == "mlp" else 1,
    }
    summary = bitrl.run(id, backbone=backbone, steps=128, out=tmp_path / "run", options=options)
    assert summary["steps"] == 128
    assert np.isfinite(summary["eval"]["mean_return"])


def test_observations_that_cannot_be_written_down_are_refused(tmp_path, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Map-v0", entry_point=Map)
    monkeypatch.setitem(gymnasium.registry, "Map-v0", spec)
    with pytest.raises(
        bitrl.UsageError, match="Map-v0: its observations have a Graph space, which bitrl does not read"
    ):
        bitrl.run("Map-v0", backbone="mlp", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_observations_of_a_tuple_are_read(tmp_path):
    options = {"algo.rollout_steps": 64, "run.num_envs": 2, "run.eval_episodes": 2}
    summary = bitrl.run("Blackjack-v1", backbone="mlp", steps=64, out=tmp_path / "run", options=options)
    assert -1 <= summary["eval"]["mean_return"] <= 1


def test_a_missing_package_is_named(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Absent-v0", entry_point="no_such_package.module:Env")
    monkeypatch.setitem(gymnasium.registry, "Absent-v0", spec)
    with pytest.raises(bitrl.UsageError, match=r"environment Absent-v0 cannot be made: .*no_such_package"):
        GymnasiumEnvironment(None, "Absent-v0").make()


class Countdown(gymnasium.Env):
    """Lasts as many steps as its seed says, one to nine; each is worth 1."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,))
    action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 10))
        return np.array([self.left], np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.left], np.float32), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("episodes", [0, 1, 3, 16, 40])
def test_evaluation_plays_every_episode_once_whatever_their_number(episodes):
    seeds = list(range(100, 100 + episodes))
    expected = [float(np.random.default_rng(seed).integers(1, 10)) for seed in seeds]
    done = []
    assert play_episodes(Countdown, lambda states: np.zeros(len(states), int), seeds, done.append) == expected
    assert done == list(range(1, episodes + 1))


def test_an_interrupted_evaluation_counts_whole_episodes_only():
    seeds, steps = list(range(100, 140)), []
    expected = {float(np.random.default_rng(seed).integers(1, 10)) for seed in seeds}

    def policy(states):
        steps.append(len(states))
        return np.zeros(len(states), int)

    returns = play_episodes(Countdown, policy, seeds, interrupted=lambda: len(steps) >= 5)
    assert 0 < len(returns) < 40
    assert set(returns) <= expected


def test_episodes_are_cut_off_after_the_most_steps_allowed():
    """Each counts with its return so far; one that ends at that step is whole."""
    seeds = [3, 1, 4, 1, 5]
    whole = play_episodes(Countdown, lambda states: np.zeros(len(states), int), seeds)
    seen = []
    cut = play_episodes(
        Countdown,
        lambda states: np.zeros(len(states), int),
        seeds,
        max_steps=2,
        stepped=lambda *steps: seen.append(steps),
    )
    assert [float(each) for each in cut] == [min(float(each), 2.0) for each in whole]
    assert [each.cut for each in cut] == [float(each) > 2 for each in whole]
    assert not any(each.cut for each in whole)
    assert [longest for _, longest in seen] == [1, 2]
    assert seen[0][0] == len(seeds)


def test_vectorised_environments_are_independent():
    envs = replay.vectorise(Countdown, 5)
    observations, _ = envs.reset(seed=[1, 2, 3, 4, 5])
    assert observations[:, 0].tolist() == [float(np.random.default_rng(s).integers(1, 10)) for s in (1, 2, 3, 4, 5)]


class Single(gymnasium.Env):
    """An environment that can be made once, as one that listens on a port."""

    made = 0

    def __init__(self):
        Single.made += 1
        if Single.made > 1:
            raise RuntimeError("port 5005 is in use")
        self.observation_space, self.action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)


def test_an_environment_that_can_be_made_once_is_made_and_a_second_one_is_named(monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Single-v0", EnvSpec("Single-v0", entry_point=Single))
    environment = GymnasiumEnvironment(None, "Single-v0")
    environment.make()
    with pytest.raises(bitrl.UsageError, match="Single-v0 cannot be made: RuntimeError: port 5005 is in use"):
        environment.make()


def test_a_failure_without_a_word_says_where_to_look(monkeypatch):
    def silent(**settings):
        raise AssertionError

    monkeypatch.setitem(gymnasium.registry, "Silent-v0", EnvSpec("Silent-v0", silent))
    with pytest.raises(
        bitrl.UsageError, match=r"Silent-v0 cannot be made: AssertionError \(BITRL_DEBUG=1 shows where\)$"
    ):
        bitrl.load_environment("Silent-v0").make()
