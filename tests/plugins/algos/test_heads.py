"""Distributions over actions against torch's own and autograd, in float64."""

import gymnasium
import numpy as np
import pytest
import torch
from torch_twins import Head, double, gradient_of, near

import bitrl
from bitrl.plugins.algos.factored_head import action_head

SPACES = {
    "discrete": gymnasium.spaces.Discrete(3, start=-1),
    "box": gymnasium.spaces.Box(-1.0, 1.0, (2, 2)),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_heads_have_the_figures_and_gradients_of_torch_distributions(space):
    head, generator = action_head(space), np.random.default_rng(1)
    gradients = np.full(head.size, np.nan, np.float32)
    head.use(np.zeros(head.size, np.float32), gradients)
    if head.size:
        head.log_std[:] = generator.normal(0, 0.3, head.size)
    outputs = generator.normal(size=(7, head.outputs)).astype(np.float32)
    actions = head.sample(outputs, head.noise(1, 7, generator)[0])
    weights, beta = generator.normal(size=7).astype(np.float32), 0.3
    twin, exact = Head(head), double(outputs).requires_grad_()
    log_probs, entropies = twin(exact, actions, None)
    ((double(weights) * log_probs).sum() + beta * entropies.sum()).backward()

    got_log_probs, got_entropies = head.forward(outputs, actions)
    gradient = head.backward(weights, beta)
    near(got_log_probs, log_probs, 2e-6)
    near(got_entropies, entropies, 2e-6)
    near(gradient, gradient_of(exact), 2e-6)
    near(gradients, torch.cat([torch.zeros(0), *map(gradient_of, twin.parameters)]), 2e-6)


def test_its_parameters_move_to_the_arrays_that_it_is_to_use():
    head = action_head(SPACES["box"])
    head.log_std[:] = [1, 2, 3, 4]
    arrays = np.zeros(4, np.float32), np.zeros(4, np.float32)
    head.use(*arrays)
    np.testing.assert_array_equal(arrays[0], [1, 2, 3, 4])
    arrays[0][:] = 0
    np.testing.assert_array_equal(head.log_std, 0)
    head.forward(np.zeros((5, 4), np.float32), np.zeros((5, 4), np.float32))
    head.backward(np.ones(5, np.float32), 0.0)
    np.testing.assert_array_equal(arrays[1], -5)  # u² − 1 of five means


def test_gumbel_samples_have_the_softmax_frequencies():
    head = action_head(gymnasium.spaces.Discrete(3))
    logits = np.array([0.0, 1.0, -1.0], np.float32)
    noise = head.noise(1, 60_000, np.random.default_rng(0))[0]
    counts = np.bincount(head.sample(np.tile(logits, (60_000, 1)), noise), minlength=3) / 60_000
    # Four standard deviations of a frequency over 60,000 draws.
    np.testing.assert_allclose(counts, np.exp(logits) / np.exp(logits).sum(), atol=4 * 0.5 / 60_000**0.5)


def test_actions_reach_the_environment_in_its_own_form():
    discrete = action_head(gymnasium.spaces.Discrete(3, start=-1))
    assert discrete.to_env(np.array([0, 2])).tolist() == [-1, 1]
    box = action_head(gymnasium.spaces.Box(np.float32(-1), np.float32(0.5), (1, 2)))
    np.testing.assert_array_equal(box.to_env(np.array([[-3.0, 0.25]], np.float32)), [[[-1.0, 0.25]]])


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [([-2, 0], [2, 1], ""), ([-np.inf], [np.inf], ""), ([-1, 0], [1, 3100], "from 0 to 3100, but the policy begins")],
)
def test_bounds_far_beyond_the_first_actions_are_told_of(low, high, told):
    """A thousand first actions spread over a thousandth of such bounds."""
    space = gymnasium.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    head = action_head(space)
    assert told in head.out_of_reach()
    assert bool(told) == bool(head.out_of_reach())
    head.log_std[:] = 6.0
    assert head.out_of_reach() == ""


def test_a_run_says_so_once(tmp_path, capfd, monkeypatch):
    class Orders(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (2,))
        action_space = gymnasium.spaces.Box(0, 500, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.low, {}

        def step(self, action):
            return self.observation_space.high, float(action[0]), True, False, {}

    monkeypatch.setitem(gymnasium.registry, "Orders-v0", gymnasium.envs.registration.EnvSpec("Orders-v0", Orders))
    options = {"algo.rollout_steps": 16, "run.num_envs": 2, "run.eval_episodes": 1}
    bitrl.run("Orders-v0", backbone="mlp", steps=32, out=tmp_path / "run", options=options)
    assert capfd.readouterr().err.count("warning: actions may be from 0 to 500") == 1
    bitrl.resume(tmp_path / "run", steps=64)
    assert "actions may be" not in capfd.readouterr().err
