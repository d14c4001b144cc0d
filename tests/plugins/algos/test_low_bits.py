"""Policies of few bits, by hand and against autograd with a straight-through estimator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitrl
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.backprop import backward, forward, mlp
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
    weights = torch.tensor([[-1.0, 0.4, 0.6, 3.0]])
    assert quantise(weights, 2).tolist() == [[-1.0, 0.0, 1.0, 3.0]]
    assert quantise(torch.zeros(2, 2), 4).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    many = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    assert (quantise(many, 8) - many).abs().max() <= (many.max() - many.min()) / 2**9 + 1e-6
    assert len(quantise(many, 4).unique()) <= 2**4 + 1


def test_gradients_are_those_of_autograd_straight_through() -> None:
    torch.manual_seed(0)
    network, inputs = mlp((5, 7, 3), gain=1.0), torch.randn(6, 5)
    with low_bits(network, 3):
        outputs, tape = forward(network, inputs)
        backward(network, tape, torch.ones_like(outputs))
    found = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    class Straight(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight + (quantise(self.weight, 3) - self.weight).detach()
            return nn.functional.linear(x, weight, self.bias)

    twin = nn.Sequential(Straight(5, 7), nn.Tanh(), Straight(7, 3))
    twin.load_state_dict(network.state_dict())
    expected = twin(inputs)
    expected.sum().backward()
    assert torch.allclose(outputs, expected, atol=1e-6)
    for gradient, other in zip(found, twin.parameters(), strict=True):
        assert torch.allclose(gradient, other.grad, atol=1e-5)


def test_weights_are_back_in_full_precision_afterwards() -> None:
    network = mlp((4, 4), gain=1.0)
    before = network[0].weight.detach().clone()

    def fail_within() -> None:
        with low_bits(network, 1):
            assert not torch.equal(network[0].weight, before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    assert torch.equal(network[0].weight, before)


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


def steps_of(algorithm: PPO, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Samples, torch.Tensor]]:
    """The minibatches of an update, each with the policy's weights in full precision before its step."""
    seen: list[tuple[Samples, torch.Tensor]] = []
    step = algorithm.gradient_step

    def watched(batch: Samples, *arguments: float, measure: bool) -> dict[str, float]:
        seen.append((batch, algorithm.weights["policy"].detach().clone()))
        return step(batch, *arguments, measure=measure)

    monkeypatch.setattr(algorithm, "gradient_step", watched)
    algorithm.update()
    return seen


def log_probs_of(algorithm: PPO, batch: Samples, bits: int | None) -> np.ndarray:
    """Log-probabilities by float64 arithmetic of numpy, at the weights as they are, or rounded to QuaRL's grid."""
    values = batch.features.double().numpy()
    layers = [layer for layer in algorithm.policy if isinstance(layer, nn.Linear)]
    for index, layer in enumerate(layers):
        weights = layer.weight.detach().double().numpy()
        if bits is not None:
            step = (abs(weights.min()) + abs(weights.max())) / 2**bits
            weights = step * np.round(weights / step)
        values = (np.tanh(values) if index else values) @ weights.T + layer.bias.detach().double().numpy()
    logits = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return logits[np.arange(len(logits)), batch.actions.numpy()]


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
    found: list[torch.Tensor] = []
    forward = algorithm.head.forward

    def watched(*given: Any) -> Any:
        result = forward(*given)
        found.append(result[0])
        return result

    monkeypatch.setattr(algorithm.head, "forward", watched)
    (batch, weights), *_ = steps_of(algorithm, monkeypatch)
    algorithm.weights["policy"].detach().copy_(weights)
    np.testing.assert_allclose(batch.log_probs, log_probs_of(algorithm, batch, behaviour), atol=1e-5)
    first = found[1]  # found[0] is of the whole rollout
    np.testing.assert_allclose(first, log_probs_of(algorithm, batch, learner), atol=1e-5)
    ratios = (first - batch.log_probs).exp()
    if how == "actor":
        assert 0.001 < (ratios - 1).abs().max() < 1
    else:
        torch.testing.assert_close(ratios, torch.ones(len(ratios)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["post-update", "aware"])
def test_values_are_estimated_with_few_bits_and_learned_as_chosen(how: str) -> None:
    """By float64 arithmetic: the estimates are of rounded weights, and the gradient of (V − R)² is taken at the rounded
    weights (aware), or at those in full precision.
    """
    bits = 3
    algorithm = make(value_bits=bits, value_quantisation=how, max_grad_norm=None)
    assert isinstance(algorithm.value[-1], nn.Linear)
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def twin(rounded: bool) -> nn.Sequential:
        network = copy.deepcopy(algorithm.value).double()
        for layer in network:
            if rounded and isinstance(layer, nn.Linear):
                layer.weight.data = quantise(layer.weight.data, bits)
        return network

    wanted = twin(rounded=True)(features.double()).squeeze(1).detach()
    np.testing.assert_allclose(algorithm.values(features), wanted, atol=1e-5)
    assert (wanted - twin(rounded=False)(features.double()).squeeze(1)).abs().max() > 0.01

    network, returns = twin(rounded=how == "aware"), torch.arange(6.0)
    (0.5 * (network(features.double()).squeeze(1) - returns).square().mean()).backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in network.parameters() if parameter.grad is not None])
    before = algorithm.weights["value"].detach().clone()
    zeros = torch.zeros(6)
    batch = Samples(features, features, zeros.long(), zeros, returns, zeros)
    algorithm.gradient_step(batch, 0.1, 0.0, measure=False)
    assert algorithm.weights["value"].grad is not None
    torch.testing.assert_close(algorithm.weights["value"].grad, gradient.float(), atol=1e-4, rtol=1e-4)
    assert (algorithm.weights["value"].detach() - before).abs().max() < 2e-3, "a step of Adam from full precision"


@pytest.mark.parametrize(("name", "value"), [("policy", "actor"), ("value", "aware")])
def test_a_quantisation_of_no_bits_is_refused(tmp_path: Path, name: str, value: str) -> None:
    words = f"algo.{name}_quantisation: nothing is quantised without .*algo.{name}_bits"
    with pytest.raises(bitrl.UsageError, match=words):
        bitrl.run("CartPole-v1", backbone="mlp", out=tmp_path / "run", options={f"algo.{name}_quantisation": value})
