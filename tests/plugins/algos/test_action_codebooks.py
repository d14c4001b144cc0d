"""Quantised actions: against torch.distributions, by hand, and that a run with them learns, resumes and exports."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_twins import double, gradient_of, near

import bitrl
from bitrl.core.acting import agents, checkpoints
from bitrl.core.acting.checkpoints import Checkpoint
from bitrl.core.acting.policies import CodebookPolicy
from bitrl.core.acting.states import StateReader
from bitrl.core.environments import replay
from bitrl.core.environments.collector import Collector
from bitrl.core.environments.loading import load_environment
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Task
from bitrl.core.options import parse
from bitrl.core.runs.parts import EVALUATION, spawn_seeds
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.action_codebooks import ActionCodebook, LearnedActionCodebook, codebook_head, k_means
from bitrl.plugins.algos.ppo import PPO
from bitrl.testing import make_task

SPACE = gymnasium.spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))


def test_a_uniform_codebook_is_evenly_spaced_from_bound_to_bound() -> None:
    head = codebook_head(SPACE, "uniform", 5)
    assert isinstance(head, ActionCodebook)
    assert head.values.tolist() == [[-1, -0.5, 0, 0.5, 1], [0, 1, 2, 3, 4]]
    actions = head.to_env(np.array([[0, 4], [3, 1]]))
    assert actions.dtype == np.float32
    assert actions.tolist() == [[-1, 4], [0.5, 1]]
    shaped = codebook_head(gymnasium.spaces.Box(-3, 3, (2, 2), np.int64), "uniform", 3)
    assert shaped.to_env(np.array([[0, 1, 2, 0]])).tolist() == [[[-3, 0], [3, -3]]]


def test_figures_and_gradients_are_those_of_torch_distributions() -> None:
    head, generator = codebook_head(SPACE, "uniform", 5), np.random.default_rng(0)
    outputs, weights = generator.normal(size=(7, 10)).astype(np.float32), generator.normal(size=7).astype(np.float32)
    actions = head.sample(outputs, head.noise(1, 7, generator)[0])
    assert actions.shape == (7, 2)
    exact = double(outputs).requires_grad_()
    distribution = torch.distributions.Independent(torch.distributions.Categorical(logits=exact.view(7, 2, 5)), 1)
    log_probs, entropies = distribution.log_prob(torch.tensor(actions)), distribution.entropy()
    ((double(weights) * log_probs).sum() + 0.3 * entropies.sum()).backward()
    got_log_probs, got_entropies = head.forward(outputs, actions)
    near(got_log_probs, log_probs, 2e-6)
    near(got_entropies, entropies, 2e-6)
    near(head.backward(weights, 0.3), gradient_of(exact), 2e-6)


def test_samples_have_the_softmax_frequencies_in_each_dimension() -> None:
    head = codebook_head(SPACE, "uniform", 3)
    logits = np.array([0.0, 1.0, -1.0, 2.0, 0.0, 0.0], np.float32)
    noise = head.noise(1, 40_000, np.random.default_rng(0))[0]
    drawn = head.sample(np.tile(logits, (40_000, 1)), noise)
    wanted = [np.exp(each) / np.exp(each).sum() for each in (logits[:3], logits[3:])]
    for column, each in zip(drawn.T, wanted, strict=True):
        np.testing.assert_allclose(np.bincount(column) / 40_000, each, atol=4 * 0.5 / 40_000**0.5)
    together = ((drawn[:, 0] == 1) & (drawn[:, 1] == 0)).mean()  # dimensions are independent
    assert together == pytest.approx(wanted[0][1] * wanted[1][0], abs=0.01)


def test_centres_worked_out_by_hand() -> None:
    """From [0, 5, 10]: 4 goes to 5, which moves to 4.5, and stays."""
    assert k_means(np.array([0.0, 1.0, 4.0, 5.0, 10.0]), 3).tolist() == [0.5, 4.5, 10.0]
    assert k_means(np.array([0.0, 0.0, 4.0]), 5).tolist() == [0, 1, 2, 3, 4], "what is nearest to none stays"
    assert k_means(np.array([2.0, 2.0]), 3).tolist() == [2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(2, 8))
def test_centres_are_means_of_what_is_nearest_and_no_worse_than_evenly_spaced_ones(
    numbers: list[float], count: int
) -> None:
    data = np.array(numbers)
    centres = k_means(data, count)
    distances = (data[:, None] - centres) ** 2
    even = (data[:, None] - np.linspace(data.min(), data.max(), count)) ** 2
    assert distances.min(axis=1).mean() <= even.min(axis=1).mean() + 1e-9
    assert (np.diff(centres) >= -1e-9).all()
    two = np.sort(distances, axis=1)[:, :2]
    nearest = np.where(two[:, 1] - two[:, 0] > 1e-6, distances.argmin(axis=1), -1)  # ties may go to either
    for index in {*nearest} - {-1}:
        mine = data[nearest == index]
        share = np.isclose(distances[:, index], two[:, 0], rtol=0, atol=1e-6).sum()
        if share == len(mine):
            assert mine.mean() == pytest.approx(centres[index], abs=1e-6)


def test_the_codebook_begins_as_the_gaussian_on_its_values() -> None:
    """Probabilities are the Gaussian's densities at the values, normalised, in float64."""
    head, generator = LearnedActionCodebook(SPACE, 4), np.random.default_rng(0)
    assert head.outputs == 2 + 8
    head.gaussian.log_std[:] = [-0.3, 0.4]
    weights, biases, inputs = (
        generator.normal(size=shape).astype(np.float32) for shape in ((5, head.outputs), head.outputs, (6, 5))
    )
    means = double((inputs @ weights + biases)[:, :2])
    head.learn(generator.uniform([-1, 0], [1, 4], (50, 2)).astype(np.float32), weights, biases)
    assert head.codebook is not None
    deviations = torch.tensor([-0.3, 0.4]).double().exp().view(1, 2, 1)
    density = torch.distributions.Normal(means.unsqueeze(2), deviations)
    wanted = density.log_prob(double(head.codebook.values)).softmax(dim=2)
    outputs = inputs @ weights + biases
    for j in range(4):
        log_probs, _ = head.forward(outputs, np.tile([j, 3 - j], (6, 1)))
        np.testing.assert_allclose(np.exp(log_probs), wanted[:, 0, j] * wanted[:, 1, 3 - j], rtol=1e-4)
    head.gaussian.by_log_std[:] = 1
    gradient = head.backward(np.ones(6, np.float32), 0.1)
    assert gradient.shape == (6, 10)
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].all()
    assert not head.gaussian.by_log_std.any(), "the Gaussian stops learning"


def test_before_it_is_learned_it_is_the_gaussian() -> None:
    head, generator = LearnedActionCodebook(SPACE, 4), np.random.default_rng(0)
    outputs, actions = (generator.normal(size=shape).astype(np.float32) for shape in ((6, 10), (6, 2)))
    log_probs, _ = head.forward(outputs, actions)
    near(log_probs, torch.distributions.Normal(double(outputs[:, :2]), 1.0).log_prob(double(actions)).sum(1))
    gradient = head.backward(np.ones(6, np.float32), 0.0)
    np.testing.assert_array_equal(gradient[:, :2], actions - outputs[:, :2])
    assert not gradient[:, 2:].any()


@pytest.mark.parametrize("kind", ["uniform", "learned"])
def test_the_first_ratio_is_one_in_every_update(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("Pendulum-v1", steps=128)
    options = {"rollout_steps": 32, "minibatch_size": 32, "epochs": 2, "learning_rate": 0.01}
    algorithm = PPO(parse(PPOOptions, {**options, "action_codebook": kind, "codebook_after": 0.5}, "algo"), task)
    found: list[np.ndarray] = []
    forward = algorithm.head.forward

    def watched(*given: Any) -> Any:
        result = forward(*given)
        found.append(np.sort(result[0]))  # the minibatch is shuffled
        return result

    monkeypatch.setattr(algorithm.head, "forward", watched)
    for _ in range(4):
        found.clear()
        algorithm.update()
        behaviour, first, second = found
        np.testing.assert_allclose(behaviour, first, atol=1e-6)
        assert abs(second - first).max() > 1e-4


class Targets(gymnasium.Env):
    """Its observation is ±1 in each of two dimensions; the reward is the nearer to 0.6 times that an action is, the
    greater. An episode is one step.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.signs = self.np_random.choice([-1.0, 1.0], 2).astype(np.float32)
        return self.signs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.signs, -float(np.abs(action - 0.6 * self.signs).sum()), True, False, {}


class Unchanged:
    """A serializer that writes the observation as it is, and a backbone whose features are what was written."""

    width, identity = 2, MappingProxyType({})

    def __call__(self, observation: Any) -> Any:
        return observation

    def batch(self, observations: np.ndarray) -> Any:
        return observations

    def encode(self, inputs: Any) -> np.ndarray:
        return np.asarray(inputs)


@pytest.mark.parametrize("kind", ["uniform", "learned"])
def test_it_learns_to_take_the_values_that_are_best(kind: str) -> None:
    envs = replay.vectorise(Targets, 8)
    reader = StateReader(Unchanged(), Unchanged())
    task = Task(collector=Collector(envs, reader, envs.reset(seed=1)[0]), reader=reader, seed=0, steps=3_072)
    options = {"rollout_steps": 256, "minibatch_size": 64, "epochs": 6, "hidden": (16,), "ent_coef": 0.0,
               "learning_rate": 0.02, "value_learning_rate": 0.02}  # fmt: skip
    values = {"action_codebook": kind, "action_bins": 6, "codebook_after": 0.4, "gae_lambda": 0.0}
    algorithm = PPO(parse(PPOOptions, {**options, **values}, "algo"), task)
    while algorithm.step < 3_072:
        algorithm.update()
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)
    actions = algorithm.act(reader(signs))
    head: Any = algorithm.head
    head = head if isinstance(head, ActionCodebook) else head.codebook
    assert head is not None
    for dimension, values_there in enumerate(head.values):
        assert set(actions[:, dimension]) <= set(values_there)
        best = [values_there[abs(values_there - 0.6 * sign).argmin()] for sign in signs[:, dimension]]
        assert actions[:, dimension].tolist() == best


ARMS = {"uniform": ("uniform", 0.5), "learned": ("learned", 0.5), "learned at the end": ("learned", 0.9)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of four updates in Pendulum: the codebook is learned after the second, or after the last."""
    folder = tmp_path_factory.mktemp("codebooks")
    quick = {"run.num_envs": 4, "run.eval_episodes": 2, "run.eval_max_steps": 50, "run.checkpoint_every": 1}
    quick |= {"backbone.hidden": (8,), "algo.rollout_steps": 64, "algo.learning_rate": 0.01, "algo.action_bins": 7}
    for name, (kind, after) in ARMS.items():
        options = {**quick, "algo.action_codebook": kind, "algo.codebook_after": after}
        bitrl.run("Pendulum-v1", backbone="mlp", steps=256, out=folder / name, options=options)
    return {name: folder / name for name in ARMS}


@pytest.mark.parametrize("name", ARMS)
def test_a_run_resumes_exactly_in_either_stage(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """From the last checkpoint but one: before the codebook is learned, where that is after the last update."""
    run = tmp_path / "run"
    shutil.copytree(runs[name], run)
    newest, before = checkpoints.paths(run / "checkpoints")
    wanted, at = checkpoints.read(newest).arrays, checkpoints.read(before).arrays
    assert ("algorithm.action_codebook" in at) == (name == "learned")
    assert ("algorithm.action_codebook" in wanted) == (name != "uniform")
    newest.unlink()
    (run / "summary.json").unlink()
    bitrl.resume(run)
    got = checkpoints.read(checkpoints.paths(run / "checkpoints")[0]).arrays
    assert got.keys() == wanted.keys()
    for each in wanted:
        np.testing.assert_array_equal(got[each], wanted[each])
    assert (run / "metrics.jsonl").read_bytes() == (runs[name] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", ARMS)
def test_an_exported_agent_takes_the_values_of_the_codebook(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    bitrl.export(runs[name], tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    assert isinstance(agent.policy, CodebookPolicy)
    assert agent.policy.values.shape == (1, 7)
    env, returns = load_environment("Pendulum-v1").make_for_evaluation(), []
    for seed in spawn_seeds(0, EVALUATION, 2):
        observation, total = env.reset(seed=seed)[0], 0.0
        for _ in range(50):
            action = agent.act(observation)
            assert action in agent.policy.values
            observation, reward, *_ = env.step(action)
            total += float(reward)
        returns.append(total)
    assert returns == pytest.approx(bitrl.evaluate(runs[name])["returns"], rel=1e-5)


def test_a_damaged_codebook_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    bitrl.export(runs["uniform"], tmp_path / "agent")
    whole = checkpoints.read(tmp_path / "agent")
    wrong = {"network do not fit": np.zeros((1, 6)), "a row of values": np.zeros((7, 1)), "a row of": np.zeros(7)}
    for words, values in wrong.items():
        damaged = Checkpoint({**whole.arrays, "policy.values": values}, whole.meta)
        (tmp_path / "damaged").write_bytes(checkpoints.as_bytes(damaged))
        with pytest.raises(UsageError, match=words):
            agents.read(tmp_path / "damaged")


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(UsageError, match="quantises continuous actions, but the environment's are Discrete"):
        codebook_head(gymnasium.spaces.Discrete(3), "uniform", 5)
    unbounded = gymnasium.spaces.Box(np.float32([-1, -1]), np.float32([1, np.inf]))
    with pytest.raises(UsageError, match="dimension 1 of the environment's actions is unbounded"):
        codebook_head(unbounded, "uniform", 5)
    assert codebook_head(unbounded, "learned", 5).outputs == 12
