"""The head of several factors: against torch's own distributions and autograd, and the policy that is exported."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch_twins import Head, double, near

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
    """A head, outputs [count, k], a mask of it, and actions sampled by it."""
    generator = np.random.default_rng(1)
    head = FactoredHead(SPACES[name])
    for gaussian in head.gaussians:
        gaussian.log_std[:] = generator.normal(0, 0.3, gaussian.outputs)
    outputs = generator.normal(size=(count, head.outputs)).astype(np.float32)
    masks = []
    for factor, _ in head.actions.choices():
        for size in factor.sizes:
            mask = generator.random((count, size)) < 0.6
            mask[np.arange(count), generator.integers(size, size=count)] = True
            masks.append(mask)
    admissible = AdmissibleActions(np.concatenate(masks, axis=1))
    return head, outputs, admissible, head.sample(outputs, head.noise(1, count, generator)[0], admissible)


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("name", SPACES)
def test_log_probabilities_entropies_and_gradients_are_those_of_the_product(name, masked):
    head, outputs, admissible, actions = made(name)
    admissible = admissible if masked else None
    parameters, gradients = np.zeros(head.size, np.float32), np.full(head.size, np.nan, np.float32)
    head.use(parameters, gradients)
    log_probs, entropies = head.forward(outputs, actions, admissible)
    weights = np.linspace(-1, 1, len(outputs), dtype=np.float32)
    gradient = head.backward(weights, -0.03)

    twin, exact = Head(head), double(outputs).requires_grad_()
    wanted, entropy = twin(exact, actions, admissible)
    ((double(weights) * wanted).sum() - 0.03 * entropy.sum()).backward()
    near(log_probs, wanted, 2e-6)
    near(entropies, entropy, 2e-6)
    near(gradient, exact.grad, 2e-6)
    near(gradients, torch.cat([torch.zeros(0), *(each.grad for each in twin.log_stds)]), 2e-6)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_sampled_is_in_the_space_and_admitted(name):
    head, outputs, admissible, actions = made(name)
    taken = head.to_env(actions)
    assert all(SPACES[name].contains(as_taken(action)) for action in taken)
    assert head.actions.admitted(taken, admissible.mask).all()
    assert head.actions.admitted(head.to_env(head.best(outputs, admissible)), admissible.mask).all()


def as_taken(action):
    apart = taken_apart(action)
    if not isinstance(apart, dict):
        return apart
    return apart | {"push": np.asarray(apart["push"])}


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def test_choices_are_sampled_from_their_softmax_independently():
    head = FactoredHead(MultiDiscrete([2, 2]))
    logits = np.tile(np.array([0.0, 1.0, 0.5, -0.5], np.float32), (20_000, 1))
    actions = head.sample(logits, head.noise(1, 20_000, np.random.default_rng(0))[0])
    found = np.zeros((2, 2))
    for first, second in np.ndindex(2, 2):
        found[first, second] = ((actions[:, 0] == first) & (actions[:, 1] == second)).mean()
    np.testing.assert_allclose(found, np.outer(softmax(logits[0, :2]), softmax(logits[0, 2:])), rtol=0, atol=0.015)


def test_one_choice_is_a_categorical_bit_for_bit():
    space, generator = Discrete(4), np.random.default_rng(3)
    one, several = Categorical(space), FactoredHead(MultiDiscrete([4]))
    outputs, weights = (generator.normal(size=shape).astype(np.float32) for shape in ((32, 4), 32))
    noise = one.noise(1, 32, np.random.default_rng(4))
    np.testing.assert_array_equal(noise, several.noise(1, 32, np.random.default_rng(4)))
    actions = one.sample(outputs, noise[0])
    np.testing.assert_array_equal(several.sample(outputs, noise[0])[:, 0], actions)
    mine, wanted = several.forward(outputs, actions.astype(np.float32)[:, None]), one.forward(outputs, actions)
    np.testing.assert_array_equal(mine[0], wanted[0])
    np.testing.assert_array_equal(mine[1], wanted[1])
    np.testing.assert_array_equal(several.backward(weights, -0.1), one.backward(weights, -0.1))


class Seen:
    """States of given features and mask."""

    def __init__(self, features, mask):
        self.features, self.admissible = features, None if mask is None else AdmissibleActions(mask)


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("name", SPACES)
def test_the_exported_policy_acts_as_the_head(name, masked):
    head, outputs, admissible, _ = made(name)
    k = head.outputs
    identity = Network(
        np.zeros(k, np.float32),
        np.ones(k, np.float32),
        np.inf,
        ((np.eye(k, dtype=np.float32), np.zeros(k, np.float32)),),
    )
    policy = head.numpy_policy(identity)
    mine = policy(Seen(outputs, admissible.mask if masked else None))
    wanted = head.to_env(head.best(outputs, admissible if masked else None))
    assert mine.dtype == wanted.dtype
    assert mine.tobytes() == wanted.tobytes()
    if masked and name == "equal":
        forbidden = admissible.mask.copy()
        forbidden[5, 3:] = False
        with pytest.raises(bitrl.RunFailed, match="the action_mask forbids every value of number 1: set an entry to 1"):
            policy(Seen(outputs, forbidden))


def test_too_many_values_are_refused_before_memory_is_taken():
    with pytest.raises(bitrl.UsageError, match="have 2,000,000,000,000 values in all, too many"):
        FactoredHead(MultiDiscrete([10**12, 10**12]))


def test_the_initial_deviation_is_that_of_every_box():
    task = make_task(FactoredEnvironment("Dict"))
    algorithm = PPO(parse(PPOOptions, {"log_std_init": -1.5}, "algo"), task)
    assert isinstance(algorithm.head, FactoredHead)
    assert [gaussian.log_std.tolist() for gaussian in algorithm.head.gaussians] == [[-1.5, -1.5]]
    task.collector.envs.close()
