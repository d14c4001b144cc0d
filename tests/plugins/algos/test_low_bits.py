"""Policies of few bits, by hand and against autograd with a straight-through estimator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_twins import called, double, flat_gradient, in_torch, near

import bitrl
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.algos.low_bits import low_bits, quantise
from bitrl.plugins.algos.ppo import PPO, Samples
from bitrl.testing import make_task

QUICK = {"run.num_envs": 4, "run.eval_episodes": 2, "algo.rollout_steps": 128, "backbone.hidden": (8,)}


@pytest.fixture(scope="module")
def in_full_precision(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The metrics of a short run in full precision."""
    out = tmp_path_factory.mktemp("full") / "run"
    bitrl.run(backbone="mlp", steps=512, out=out, options=QUICK)
    return (out / "metrics.jsonl").read_bytes()


def test_quantised_by_hand() -> None:
    """min −1, max 3, 2 bits: d = 1."""
    weights = np.array([[-1.0, 0.4, 0.6, 3.0]], np.float32)
    assert quantise(weights, 2).tolist() == [[-1.0, 0.0, 1.0, 3.0]]
    assert quantise(np.zeros((2, 2), np.float32), 4).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    many = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)
    assert quantise(many, 8).dtype == np.float32
    assert abs(quantise(many, 8) - many).max() <= (many.max() - many.min()) / 2**9 + 1e-6
    assert len(np.unique(quantise(many, 4))) <= 2**4 + 1


def network(*widths: int) -> EngineNetwork:
    made = EngineNetwork(EngineLearner(), widths, batch=8)
    made.initialise(1.0, 0)
    return made


def test_gradients_are_those_of_autograd_straight_through() -> None:
    policy, inputs = network(5, 7, 3), np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    twin = in_torch(policy)
    with low_bits(policy, 3):
        outputs = policy.forward(inputs)
        policy.backward(np.ones_like(outputs))
    expected = called(twin, double(inputs), 3)
    expected.sum().backward()
    near(outputs, expected, 2e-6)
    near(policy.gradients, flat_gradient(twin), 2e-6)
    assert abs(outputs - policy.outputs(inputs)).max() > 0.01


def test_weights_are_back_in_full_precision_afterwards() -> None:
    policy = network(4, 4)
    before = policy.parameters.copy()

    def fail_within() -> None:
        with low_bits(policy, 1):
            assert not np.array_equal(policy.parameters, before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    np.testing.assert_array_equal(policy.parameters, before)


@pytest.mark.parametrize("how", ["post-training", "actor", "aware"])
def test_a_policy_of_few_bits_acts_as_it_is_exported(how: str, tmp_path: Path, in_full_precision: bytes) -> None:
    options = {**QUICK, "algo.policy_bits": 2, "algo.policy_quantisation": how}
    bitrl.run(backbone="mlp", steps=512, out=tmp_path / "run", options=options)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    for weights, _ in agent.policy.network.layers:  # type: ignore[union-attr]
        assert len(np.unique(weights.round(6))) <= 2**2 + 1
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert (metrics == in_full_precision) == (how == "post-training"), "post-training changes nothing of the training"


@pytest.mark.parametrize("how", ["actor", "aware"])
def test_quantised_training_resumes_exactly(how: str, tmp_path: Path) -> None:
    options = {**QUICK, "algo.policy_bits": 4, "algo.policy_quantisation": how, "run.checkpoint_every": 1}
    options |= {"algo.value_bits": 8, "algo.value_quantisation": "aware"}
    bitrl.run(backbone="mlp", steps=512, out=tmp_path / "whole", options=options)
    bitrl.run(backbone="mlp", steps=256, out=tmp_path / "run", options=options)
    bitrl.resume(tmp_path / "run", steps=512)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def make(**options: object) -> PPO:
    """PPO on CartPole's vectors."""
    task = make_task("CartPole-v1", num_envs=4)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 16, "epochs": 1, **options}, "algo"), task)


def steps_of(algorithm: PPO, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Samples, np.ndarray]]:
    """The minibatches of an update, each with the policy's parameters in full precision before its step."""
    seen: list[tuple[Samples, np.ndarray]] = []
    step = algorithm.gradient_step

    def watched(batch: Samples, *arguments: float) -> dict[str, float]:
        seen.append((batch, algorithm.groups.parameters["policy"].copy()))
        return step(batch, *arguments)

    monkeypatch.setattr(algorithm, "gradient_step", watched)
    algorithm.update()
    return seen


def log_probs_of(algorithm: PPO, batch: Samples, bits: int | None) -> np.ndarray:
    """Log-probabilities by float64 arithmetic of numpy, at the weights as they are, or rounded to QuaRL's grid."""
    values = algorithm.standardise(batch.features).astype(np.float64)
    for index, (weights, biases) in enumerate(algorithm.policy.layers):
        weights = weights.astype(np.float64)
        if bits is not None:
            step = (abs(weights.min()) + abs(weights.max())) / 2**bits
            weights = step * np.round(weights / step)
        values = (np.tanh(values) if index else values) @ weights + biases
    logits = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    found: np.ndarray = logits[np.arange(len(logits)), batch.actions]
    return found


@pytest.mark.parametrize(
    ("how", "behaviour", "learner"), [("post-training", None, None), ("actor", 3, None), ("aware", 3, 3)]
)
def test_the_ratio_is_to_the_policy_that_acted(
    how: str, behaviour: int | None, learner: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PPO's first ratio is exactly 1 where actor and learner are the same policy, and π/π̂ where the actor's weights are
    rounded.
    """
    algorithm = make(policy_bits=3, policy_quantisation=how, learning_rate=0.01)
    algorithm.update()  # the first policy is uniform at any precision
    found: list[np.ndarray] = []
    forward = algorithm.head.forward

    def watched(*given: Any) -> Any:
        result = forward(*given)
        found.append(result[0])
        return result

    monkeypatch.setattr(algorithm.head, "forward", watched)
    (batch, parameters), *_ = steps_of(algorithm, monkeypatch)
    algorithm.groups.parameters["policy"][:] = parameters
    np.testing.assert_allclose(batch.log_probs, log_probs_of(algorithm, batch, behaviour), atol=1e-5)
    first = found[1]  # found[0] is of the whole rollout
    np.testing.assert_allclose(first, log_probs_of(algorithm, batch, learner), atol=1e-5)
    ratios = np.exp(first - batch.log_probs)
    if how == "actor":
        assert 0.001 < abs(ratios - 1).max() < 1
    else:
        np.testing.assert_allclose(ratios, 1, atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["post-update", "aware"])
def test_values_are_estimated_with_few_bits_and_learned_as_chosen(how: str) -> None:
    """By float64 arithmetic: the estimates are of rounded weights, and the gradient of (V − R)² is taken at the rounded
    weights (aware), or at those in full precision.
    """
    bits = 3
    algorithm = make(value_bits=bits, value_quantisation=how, max_grad_norm=None)
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    wanted, in_full = (
        called(in_torch(algorithm.value), double(features), each).squeeze(1).detach() for each in (bits, None)
    )
    np.testing.assert_allclose(algorithm.values(features), wanted, atol=1e-5)
    assert (wanted - in_full).abs().max() > 0.01

    twin, returns = in_torch(algorithm.value), np.arange(6, dtype=np.float32)
    values = called(twin, double(features), bits if how == "aware" else None).squeeze(1)
    (0.5 * (values - double(returns)).square().mean()).backward()
    before = algorithm.groups.parameters["value"].copy()
    zeros = np.zeros(6, np.float32)
    algorithm.gradient_step(Samples(features, features, np.zeros(6, np.int64), zeros, returns, zeros), 0.1, 0.0)
    near(algorithm.groups.gradients["value"], flat_gradient(twin), 1e-5)
    assert abs(algorithm.groups.parameters["value"] - before).max() < 2e-3, "a step of Adam from full precision"


@pytest.mark.parametrize(("name", "value"), [("policy", "actor"), ("value", "aware")])
def test_a_quantisation_of_no_bits_is_refused(tmp_path: Path, name: str, value: str) -> None:
    words = f"algo.{name}_quantisation: nothing is quantised without .*algo.{name}_bits"
    with pytest.raises(bitrl.UsageError, match=words):
        bitrl.run("CartPole-v1", backbone="mlp", out=tmp_path / "run", options={f"algo.{name}_quantisation": value})
