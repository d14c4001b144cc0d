"""The written-out backward passes against autograd, in float64."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from bitrl.plugins.algos.backprop import backward, chain, clip_gradient, flatten, forward, mlp, written_out
from bitrl.plugins.algos.factored_head import action_head


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def autograd(network, inputs, gradient):
    network.zero_grad()
    network(inputs).backward(gradient)
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("widths", [(3, 2), (5, 7, 1), (4, 64, 64, 2), (6, 16, 8, 4, 3)])
def test_chains_of_linear_and_tanh_have_autograds_gradients(widths):
    network = mlp(widths, gain=1.0)
    assert written_out(network)
    inputs, gradient = torch.randn(9, widths[0]), torch.randn(9, widths[-1])
    expected = autograd(network, inputs, gradient)
    outputs, tape = forward(network, inputs)
    backward(network, tape, gradient)
    torch.testing.assert_close(outputs, network(inputs))
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=1e-12)


def test_a_trainable_backbone_in_front_is_laid_out_flat():
    network = chain(nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Identity(), mlp((5, 2), gain=1.0))
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh, nn.Linear]
    inputs, gradient = torch.randn(4, 3), torch.randn(4, 2)
    expected = autograd(network, inputs, gradient)
    backward(network, forward(network, inputs)[1], gradient)
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_any_other_module_goes_through_autograd():
    network = chain(nn.LayerNorm(3), nn.Linear(3, 4), nn.GELU(), mlp((4, 2), gain=1.0))
    assert not written_out(network)
    inputs, gradient = torch.randn(4, 3), torch.randn(4, 2)
    expected = autograd(network, inputs, gradient)
    outputs, tape = forward(network, inputs)
    backward(network, tape, gradient)
    assert not outputs.requires_grad
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


@pytest.mark.parametrize("limit", [None, 0.5, 1e9])
def test_clipping_a_flat_gradient_is_torchs_clipping_of_its_parts(limit):
    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    flat = flatten(parameters)
    for twin, parameter in zip(twins, parameters, strict=True):
        torch.testing.assert_close(parameter.detach(), twin.detach())
        parameter.grad.normal_()
        twin.grad = parameter.grad.clone()
    norm = nn.utils.clip_grad_norm_(twins, float("inf") if limit is None else limit)
    assert clip_gradient(flat, limit) == pytest.approx(float(norm))
    for twin, parameter in zip(twins, parameters, strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-5, atol=1e-7)


def test_flat_parameters_share_their_memory_through_autograd_and_adam():
    network = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
    twin = copy.deepcopy(network)
    flat = flatten([*network.parameters()])
    mine, wanted = torch.optim.Adam([flat], lr=0.1), torch.optim.Adam(twin.parameters(), lr=0.1)
    for _ in range(3):
        inputs = torch.randn(8, 3)
        backward(network, forward(network, inputs)[1], torch.ones(8, 1))
        mine.step()
        wanted.zero_grad()
        twin(inputs).sum().backward()
        wanted.step()
    for got, want in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, want)


SPACES = {
    "discrete": gymnasium.spaces.Discrete(3, start=-1),
    "box": gymnasium.spaces.Box(-1.0, 1.0, (2, 2)),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_heads_have_the_figures_and_gradients_of_torch_distributions(space):
    head = action_head(space)
    for parameter in head.parameters:
        parameter.data.normal_(0.0, 0.3)
    outputs = torch.randn(7, head.outputs, requires_grad=True)
    noise = head.noise(1, 7, torch.Generator().manual_seed(1))[0]
    actions = head.sample(outputs.detach(), noise)
    if isinstance(space, gymnasium.spaces.Discrete):
        distribution = torch.distributions.Categorical(logits=outputs)
        log_probs, entropies = distribution.log_prob(actions), distribution.entropy()
    else:
        distribution = torch.distributions.Normal(outputs, head.log_std.exp())
        log_probs, entropies = distribution.log_prob(actions).sum(1), distribution.entropy().sum(1)
    weights, beta = torch.randn(7), 0.3
    ((weights * log_probs).sum() + beta * entropies.sum()).backward()
    wanted = [outputs.grad, *(parameter.grad.clone() for parameter in head.parameters)]

    got_log_probs, got_entropies, tape = head.forward(outputs.detach(), actions)
    gradient = head.backward(tape, weights, beta)
    torch.testing.assert_close(got_log_probs, log_probs.detach())
    torch.testing.assert_close(got_entropies, entropies.detach())
    for got, want in zip([gradient, *(parameter.grad for parameter in head.parameters)], wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_gumbel_samples_have_the_softmax_frequencies():
    head = action_head(gymnasium.spaces.Discrete(3))
    logits = torch.tensor([0.0, 1.0, -1.0])
    noise = head.noise(1, 60_000, torch.Generator().manual_seed(0))[0]
    counts = torch.bincount(head.sample(logits.expand(60_000, 3), noise), minlength=3) / 60_000
    # Four standard deviations of a frequency over 60,000 draws.
    torch.testing.assert_close(counts, logits.softmax(0), atol=4 * 0.5 / 60_000**0.5, rtol=0)


def test_actions_reach_the_environment_in_its_own_form():
    discrete = action_head(gymnasium.spaces.Discrete(3, start=-1))
    assert discrete.to_env(torch.tensor([0, 2])).tolist() == [-1, 1]
    box = action_head(gymnasium.spaces.Box(np.float32(-1), np.float32(0.5), (1, 2)))
    np.testing.assert_array_equal(box.to_env(torch.tensor([[-3.0, 0.25]])), [[[-1.0, 0.25]]])
