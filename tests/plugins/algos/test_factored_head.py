"""The head of several factors: against torch's own distributions and autograd, and the policy that is exported."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch import nn

import bitrl
from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.nested import taken_apart
from bitrl.core.acting.policies import Network
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.factored_head import FactoredHead
from bitrl.plugins.algos.heads import Categorical
from bitrl.plugins.algos.ppo import PPO
from bitrl.testing import make_task
from bitrl.testing.small_environments import FactoredEnvironment

ARM = Tuple((Box(-np.inf, np.inf, (2, 2)), MultiBinary(2)))
SPACES = {
    "equal": MultiDiscrete([3, 3], start=[5, -1]),
    "unequal": MultiDiscrete([[2, 3], [3, 1]]),
    "switches": MultiBinary((2, 2)),
    "nested": Dict(
        {
            "arm": ARM,
            "gear": Discrete(3, start=2),
            "push": Box(-0.5, 0.5, (), np.float64),
            "slot": Box(0, 9, (1,), np.int64),
        }
    ),
}


def made(name, count=64):
    """A head, outputs float64 [count, k], a mask of it, and actions sampled by it."""
    generator = torch.Generator().manual_seed(1)
    head = FactoredHead(SPACES[name])
    for gaussian in head.gaussians:
        gaussian.log_std = nn.Parameter(0.3 * torch.randn(gaussian.outputs, generator=generator, dtype=torch.float64))
    outputs = torch.randn(count, head.outputs, generator=generator, dtype=torch.float64)
    masks = []
    for factor, _ in head.actions.choices():
        for size in factor.sizes:
            mask = torch.rand(count, size, generator=generator) < 0.6
            mask[torch.arange(count), torch.randint(size, (count,), generator=generator)] = True
            masks.append(mask)
    admissible = AdmissibleActions(torch.cat(masks, dim=1))
    return head, outputs, admissible, head.sample(outputs, head.noise(1, count, generator)[0], admissible)


def distributions(head, outputs, mask):
    """torch's distribution of each number of an action, by autograd, with the columns of the action that it is of."""
    place = choice = column = 0
    gaussians = iter(head.gaussians)
    for factor in head.actions.factors:
        if factor.kind == "Box":
            size = factor.low.size
            gaussian = torch.distributions.Normal(outputs[:, place : place + size], next(gaussians).log_std.exp())
            yield gaussian, slice(column, column + size)
            place, column = place + size, column + size
            continue
        for size in factor.sizes:
            logits = outputs[:, place : place + size]
            if mask is not None:
                logits = logits.masked_fill(~mask[:, choice : choice + size], -1e9)
            yield torch.distributions.Categorical(logits=logits), column
            place, choice, column = place + size, choice + size, column + 1


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("name", SPACES)
def test_log_probabilities_entropies_and_gradients_are_those_of_the_product(name, masked):
    head, outputs, admissible, actions = made(name)
    admissible = admissible if masked else None
    log_probs, entropies, tape = head.forward(outputs, actions.double(), admissible)
    weights = torch.linspace(-1, 1, len(outputs), dtype=torch.float64)
    for gaussian in head.gaussians:
        gaussian.log_std.grad = None
    gradient = head.backward(tape, weights, -0.03)
    mine = [gaussian.log_std.grad.clone() for gaussian in head.gaussians]

    twin = outputs.clone().requires_grad_()
    wanted, entropy = 0.0, 0.0
    for distribution, columns in distributions(head, twin, None if admissible is None else admissible.mask):
        each = distribution.log_prob(actions.double()[:, columns])
        own = distribution.entropy()
        wanted = wanted + (each if each.ndim == 1 else each.sum(dim=1))
        entropy = entropy + (own if own.ndim == 1 else own.sum(dim=1))
    torch.testing.assert_close(log_probs, wanted.detach())
    torch.testing.assert_close(entropies, entropy.detach())
    for gaussian in head.gaussians:
        gaussian.log_std.grad = None
    ((weights * wanted).sum() - 0.03 * entropy.sum()).backward()
    torch.testing.assert_close(gradient, twin.grad)
    for gaussian, got in zip(head.gaussians, mine, strict=True):
        torch.testing.assert_close(got, gaussian.log_std.grad)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_sampled_is_in_the_space_and_admitted(name):
    head, outputs, admissible, actions = made(name)
    taken = head.to_env(actions)
    assert all(SPACES[name].contains(as_taken(action)) for action in taken)
    assert head.actions.admitted(taken, admissible.mask.numpy()).all()
    assert head.actions.admitted(head.to_env(head.best(outputs, admissible)), admissible.mask.numpy()).all()


def as_taken(action):
    apart = taken_apart(action)
    if not isinstance(apart, dict):
        return apart
    return apart | {"push": np.asarray(apart["push"])}


def test_choices_are_sampled_from_their_softmax_independently():
    head = FactoredHead(MultiDiscrete([2, 2]))
    logits = torch.tensor([[0.0, 1.0, 0.5, -0.5]]).expand(20_000, 4)
    actions = head.sample(logits, head.noise(1, 20_000, torch.Generator().manual_seed(0))[0])
    probabilities = [torch.softmax(logits[0, :2], 0), torch.softmax(logits[0, 2:], 0)]
    found = torch.zeros(2, 2)
    for first in (0, 1):
        for second in (0, 1):
            found[first, second] = ((actions[:, 0] == first) & (actions[:, 1] == second)).float().mean()
    torch.testing.assert_close(found, torch.outer(*probabilities), rtol=0, atol=0.015)


def test_one_choice_is_a_categorical_bit_for_bit():
    space, generator = Discrete(4), torch.Generator().manual_seed(3)
    one, several = Categorical(space), FactoredHead(MultiDiscrete([4]))
    outputs, weights = torch.randn(32, 4, generator=generator), torch.randn(32, generator=generator)
    noise = one.noise(1, 32, torch.Generator().manual_seed(4))
    assert torch.equal(noise, several.noise(1, 32, torch.Generator().manual_seed(4)))
    actions = one.sample(outputs, noise[0])
    assert torch.equal(several.sample(outputs, noise[0])[:, 0], actions.float())
    mine, wanted = several.forward(outputs, actions.float()[:, None]), one.forward(outputs, actions)
    assert torch.equal(mine[0], wanted[0])
    assert torch.equal(mine[1], wanted[1])
    assert torch.equal(several.backward(mine[2], weights, -0.1), one.backward(wanted[2], weights, -0.1))


class Seen:
    """States of given features and mask."""

    def __init__(self, features, mask):
        self.features, self.admissible = features, None if mask is None else AdmissibleActions(mask)


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("name", SPACES)
def test_the_exported_policy_acts_as_the_head(name, masked):
    head, outputs, admissible, _ = made(name)
    numbers = outputs.float().numpy()
    k = head.outputs
    identity = Network(
        np.zeros(k, np.float32),
        np.ones(k, np.float32),
        np.inf,
        ((np.eye(k, dtype=np.float32), np.zeros(k, np.float32)),),
    )
    policy = head.numpy_policy(identity)
    mine = policy(Seen(numbers, admissible.mask.numpy() if masked else None))
    wanted = head.to_env(head.best(outputs.float(), admissible if masked else None))
    assert mine.dtype == wanted.dtype
    assert mine.tobytes() == wanted.tobytes()
    if masked and name == "equal":
        forbidden = admissible.mask.numpy().copy()
        forbidden[5, 3:] = False
        with pytest.raises(bitrl.RunFailed, match="the action_mask forbids every value of number 1: set an entry to 1"):
            policy(Seen(numbers, forbidden))


def test_too_many_values_are_refused_before_memory_is_taken():
    with pytest.raises(bitrl.UsageError, match="have 2,000,000,000,000 values in all, too many"):
        FactoredHead(MultiDiscrete([10**12, 10**12]))


def test_the_initial_deviation_is_that_of_every_box():
    task = make_task(FactoredEnvironment("Dict"))
    algorithm = PPO(parse(PPOOptions, {"log_std_init": -1.5}, "algo"), task)
    assert isinstance(algorithm.head, FactoredHead)
    assert [gaussian.log_std.tolist() for gaussian in algorithm.head.gaussians] == [[-1.5, -1.5]]
    task.collector.envs.close()
