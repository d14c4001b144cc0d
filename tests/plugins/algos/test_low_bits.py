"""Policies of few bits, by hand and against autograd with a straight-through estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bitrl
from bitrl.plugins.algos.backprop import backward, forward, mlp
from bitrl.plugins.algos.low_bits import low_bits, quantise

QUICK = {"run.num_envs": 4, "run.eval_episodes": 2, "algo.rollout_steps": 128, "backbone.hidden": (8,)}


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


@pytest.mark.parametrize("how", ["post-training", "aware"])
def test_a_policy_of_few_bits_acts_as_it_is_exported(how: str, tmp_path: Path) -> None:
    options = {**QUICK, "algo.policy_bits": 2, "algo.policy_quantisation": how}
    bitrl.run(backbone="mlp", steps=512, out=tmp_path / "run", options=options)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    for weights, _ in agent.policy.network.layers:  # type: ignore[union-attr]
        assert len(np.unique(weights.round(6))) <= 2**2 + 1
    bitrl.run(backbone="mlp", steps=512, out=tmp_path / "full", options=QUICK)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "full")]
    assert (metrics[0] == metrics[1]) == (how == "post-training"), "post-training changes nothing of the training"


def test_aware_training_resumes_exactly(tmp_path: Path) -> None:
    options = {**QUICK, "algo.policy_bits": 4, "algo.policy_quantisation": "aware", "run.checkpoint_every": 1}
    bitrl.run(backbone="mlp", steps=512, out=tmp_path / "whole", options=options)
    bitrl.run(backbone="mlp", steps=256, out=tmp_path / "run", options=options)
    bitrl.resume(tmp_path / "run", steps=512)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
