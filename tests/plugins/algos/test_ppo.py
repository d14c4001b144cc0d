"""PPO: its gradient step against autograd on the textbook loss, its recipe, and that it learns."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import bitrl
from bitrl.core.acting.states import StateReader
from bitrl.core.environments import replay
from bitrl.core.environments.collector import Collector
from bitrl.core.interfaces import Task
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.factored_head import action_head
from bitrl.plugins.algos.heads import hold
from bitrl.plugins.algos.ppo import PPO, Samples, normalise


class Identity:
    """A serializer that writes the observation as it is, and a backbone whose features are what was written."""

    width, identity = 3, {"features": "observation"}

    def batch(self, observations):
        return np.asarray(observations, np.float32)

    def encode(self, inputs):
        return inputs

    def module(self):
        return nn.Identity()


class Drift(gymnasium.Env):
    """A random walk in three dimensions that rewards actions; deterministic given its seed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.standard_normal(3).astype(np.float32), {}

    def step(self, action):
        observation = self.np_random.standard_normal(3).astype(np.float32)
        return observation, float(np.sum(action)), bool(self.np_random.random() < 0.1), False, {}


def make(action_space, steps=0, trainable=False, **options):
    envs = replay.vectorise(lambda: Drift(action_space), 4)
    observations, _ = envs.reset(seed=[1, 2, 3, 4])
    reader = StateReader(Identity(), Identity(), trainable=trainable)
    task = Task(collector=Collector(envs, reader, observations), reader=reader, seed=7, steps=steps)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 16, **options}, "algo"), task)


SPACES = [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))]


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_a_gradient_step_is_adam_on_the_textbook_loss(space):
    algorithm = make(space, ent_coef=0.03, vf_coef=0.7, max_grad_norm=0.1)
    for weights in algorithm.weights.values():
        weights.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(16, 3, generator=generator)
    outputs = algorithm.policy(features).detach()
    actions = algorithm.head.sample(outputs, algorithm.head.noise(1, 16, generator)[0])
    batch = Samples(
        features=features,
        critic_features=features,
        actions=actions,
        advantages=torch.randn(16, generator=generator),
        returns=torch.randn(16, generator=generator),
        # Far enough from the current policy that the clip is active on some samples and not on others.
        log_probs=algorithm.head.forward(outputs, actions)[0] + 0.3 * torch.randn(16, generator=generator),
    )
    twin = copy.deepcopy(algorithm.policy), copy.deepcopy(algorithm.value), copy.deepcopy(algorithm.head)
    algorithm.gradient_step(batch, 0.1, 0.03, measure=True)

    policy, value, head = twin
    if isinstance(space, gymnasium.spaces.Discrete):
        distribution = torch.distributions.Categorical(logits=policy(features))
        log_probs, entropy = distribution.log_prob(actions), distribution.entropy()
    else:
        distribution = torch.distributions.Normal(policy(features), head.log_std.exp())
        log_probs, entropy = distribution.log_prob(actions).sum(1), distribution.entropy().sum(1)
    ratio, advantages = (log_probs - batch.log_probs).exp(), normalise(batch.advantages)
    assert ((ratio - 1).abs() > 0.1).any()
    assert ((ratio - 1).abs() < 0.1).any()
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages).mean()
    (-surrogate - 0.03 * entropy.mean() + 0.7 * (value(features)[:, 0] - batch.returns).square().mean()).backward()
    policy_parameters = [
        *policy.parameters(),
        *([] if isinstance(space, gymnasium.spaces.Discrete) else [head.log_std]),
    ]
    nn.utils.clip_grad_norm_(policy_parameters, 0.1)
    nn.utils.clip_grad_norm_(value.parameters(), 0.1)
    torch.optim.Adam(policy_parameters, lr=3e-4, eps=1e-5).step()
    torch.optim.Adam(value.parameters(), lr=1e-3, eps=1e-5).step()
    got = [*algorithm.policy.parameters(), *algorithm.head.parameters, *algorithm.value.parameters()]
    for mine, wanted in zip(got, [*policy_parameters, *value.parameters()], strict=True):
        torch.testing.assert_close(mine.detach(), wanted.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"noise_hold": 5}, {"normalise_rewards": True, "running_standardisation": True, "log_std_init": -1}],
    ids=["defaults", "held", "running"],
)
@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_state_and_load_state_go_on_identically(space, options):
    straight, saved = make(space, **options), make(space, **options)
    straight.update()
    saved.update()
    stopped = saved.task.collector
    actions, starts = replay.save(stopped.envs)
    resumed = make(space, **options)
    replay.restore(resumed.task.collector.envs, actions, starts, stopped.states.observations)
    resumed.task.collector.states = stopped.states
    resumed.task.collector.load_state(stopped.state())
    resumed.load_state(saved.state())
    assert straight.update() == resumed.update()
    for name, array in straight.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name])


def rates(algorithm):
    return algorithm.optimizer.learning_rates


def test_annealed_learning_rates_decay_linearly_and_go_on_after_a_resume():
    options = {"anneal": True, "learning_rate": 0.01, "value_learning_rate": 0.02}
    algorithm = make(SPACES[0], steps=256, **options)  # four updates
    seen = []
    for _ in range(4):
        algorithm.update()
        seen.append(rates(algorithm))
    np.testing.assert_allclose(seen, [[0.01 * left, 0.02 * left] for left in (1, 0.75, 0.5, 0.25)])
    resumed = make(SPACES[0], steps=256, **options)
    resumed.load_state(algorithm.state())
    resumed.task.collector.steps = 64
    resumed.update()
    np.testing.assert_allclose(rates(resumed), [0.0075, 0.015])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear:0.01:0.002", [0.01, 0.008, 0.006, 0.004]), ("cosine:0.01", [0.01, 0.0085355339, 0.005, 0.0014644661])],
)
def test_any_rate_may_follow_a_schedule_of_its_own(schedule, expected):
    algorithm = make(SPACES[0], steps=256, learning_rate=schedule, anneal=True)
    for rate in expected:
        algorithm.update()
        assert rates(algorithm)[0] == pytest.approx(rate, rel=1e-6)


def test_learning_rates_stay_unless_annealed():
    algorithm = make(SPACES[0], steps=64, learning_rate=0.01)
    algorithm.update()
    algorithm.update()
    assert rates(algorithm) == [0.01, 1e-3]


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_held_noise_lasts_as_long_as_asked_and_keeps_its_distribution(space):
    generator = torch.Generator().manual_seed(0)
    head = action_head(space)
    noise = head.noise(400, 3000, generator)
    held = hold(noise, 8.0, generator)
    assert (held == noise).all(dim=2).any(dim=1).all()  # every step's own noise is taken somewhere
    assert held[0].equal(noise[0])
    kept = (held[1:] == held[:-1]).all(dim=2).float()
    assert kept.mean() == pytest.approx(7 / 8, abs=0.002)
    together = (kept[1:] * kept[:-1]).mean()  # geometric: whether it is kept does not depend on for how long it was
    assert together == pytest.approx((7 / 8) ** 2, abs=0.003)
    # At one step, over environments: uniform logits give uniform actions, means give the Gaussian's moments.
    actions = head.sample(torch.zeros(3000, head.outputs), held[-1]).double()
    if isinstance(space, gymnasium.spaces.Discrete):
        np.testing.assert_allclose(np.bincount(actions.numpy().astype(int)) / 3000, 1 / 3, atol=0.03)
    else:
        np.testing.assert_allclose(actions.mean(0), 0, atol=0.06)
        np.testing.assert_allclose(actions.std(0), 1, atol=0.05)


def test_noise_held_for_one_step_is_fresh_and_draws_nothing_more():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 2, 3)
    before = generator.get_state()
    assert hold(noise, 1.0, generator) is noise
    assert generator.get_state().equal(before)


def test_held_noise_reaches_a_goal_that_fresh_noise_does_not():
    """MountainCar's first rollouts: the reward says nothing until the car is out of the valley."""
    ends = {}
    for mean_steps in (1.0, 20.0):
        generator = torch.Generator().manual_seed(0)
        head = action_head(gymnasium.spaces.Discrete(3))
        noise = hold(head.noise(200, 100, generator), mean_steps, generator)
        envs = gymnasium.make_vec("MountainCar-v0", 100, vectorization_mode="sync")
        envs.reset(seed=0)
        reached = np.zeros(100, bool)
        for t in range(199):
            reached |= envs.step(head.to_env(head.sample(torch.zeros(100, 3), noise[t])))[2]
        ends[mean_steps] = reached.sum()
    assert ends[1.0] == 0
    assert ends[20.0] >= 3


def test_the_first_rollout_is_uniform_and_sets_the_standardisation():
    algorithm = make(gymnasium.spaces.Discrete(3))
    outputs = algorithm.policy(torch.randn(5, 3) * 100)
    assert (outputs == 0).all()
    algorithm.update()
    assert (algorithm.standardise.std != 1).all()
    before = algorithm.standardise.mean.copy()
    algorithm.update()
    np.testing.assert_array_equal(algorithm.standardise.mean, before)


def test_running_standardisation_takes_in_every_rollout_after_it_was_learned_from():
    algorithm, means = make(gymnasium.spaces.Discrete(3), running_standardisation=True), []
    for _ in range(3):
        algorithm.update()
        means.append(algorithm.standardise.mean.copy())
    assert (means[0] != means[1]).all()
    assert (means[1] != means[2]).all()
    before = algorithm.standardise.mean.copy()
    algorithm.act(algorithm.task.reader(np.ones((5, 3), np.float32)))  # evaluation changes nothing
    np.testing.assert_array_equal(algorithm.standardise.mean, before)


@pytest.mark.parametrize("running", [False, True])
def test_a_trainable_backbones_vectors_are_standardised_only_if_that_goes_on(running):
    algorithm = make(gymnasium.spaces.Discrete(3), trainable=True, running_standardisation=running)
    algorithm.update()
    assert (algorithm.standardise.std != 1).all() == running


def test_a_gaussian_policy_starts_with_the_deviation_asked_for():
    algorithm = make(gymnasium.spaces.Box(-9, 9, (2,)), log_std_init=-1.5, rollout_steps=4000)
    np.testing.assert_array_equal(algorithm.head.log_std.detach(), -1.5)
    actions = []
    envs = algorithm.task.collector.envs
    step = envs.step
    envs.step = lambda action: actions.append(action) or step(action)
    algorithm.update()
    np.testing.assert_allclose(np.concatenate(actions).std(axis=0), np.exp(-1.5), rtol=0.05)


def test_a_loss_that_is_no_number_stops_the_run():
    algorithm = make(gymnasium.spaces.Discrete(3))
    algorithm.update()
    algorithm.weights["value"].data.fill_(float("nan"))
    with pytest.raises(bitrl.RunFailed, match=r"_loss is not a finite number in the update that ends at step 128"):
        algorithm.update()


def test_the_first_weights_do_not_depend_on_torchs_threads(monkeypatch):
    monkeypatch.setattr(Identity, "width", 320)  # wide enough for the decomposition behind orthogonal weights to share
    before, weights = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weights.append(make(gymnasium.spaces.Discrete(2)).state()["policy"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*weights)


def test_the_defaults_are_the_bitrl_recipe_and_the_preset_the_usual_one():
    recipe = parse(PPOOptions, {}, "algo")
    assert (recipe.clip_coef, recipe.ent_coef, recipe.max_grad_norm) == (0.1, 0.05, 0.5)
    assert (recipe.learning_rate, recipe.value_learning_rate) == (3e-4, 1e-3)
    assert (recipe.rollout_steps, recipe.gae_lambda, recipe.gamma, recipe.epochs, recipe.minibatch_size) == (
        2048,
        0.95,
        0.99,
        4,
        64,
    )
    standard = parse(PPOOptions, {"preset": "standard", "ent_coef": 0.0}, "algo")
    assert (standard.clip_coef, standard.ent_coef, standard.epochs) == (0.2, 0.0, 10)


def test_it_learns_cartpole_without_a_language_model(tmp_path):
    summary = bitrl.run(
        backbone="mlp", steps=30_000, out=tmp_path / "run", options={"algo.preset": "standard", "run.eval_episodes": 20}
    )
    # A random policy's return is about 22.
    assert summary["eval"]["mean_return"] > 150


def test_it_learns_a_continuous_task(tmp_path):
    """The reward is the sum of two actions in [-1, 1]: the best is the largest."""
    algorithm = make(gymnasium.spaces.Box(-1, 1, (2,)), rollout_steps=256, learning_rate=3e-3)
    for _ in range(30):
        algorithm.update()

    states = algorithm.task.reader(np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    assert (algorithm.act(states) > 0.5).mean() > 0.9


class Wordy(Identity):
    """Writes numbers as text."""

    def batch(self, observations):
        return [" ".join(f"{number:.3f}" for number in row) for row in observations]


class Adapting:
    """A backbone of texts that learns: a frozen sketch of the numbers, and a low-rank change of it."""

    identity = {"features": "sketch"}  # noqa: RUF012

    def __init__(self, width=6):
        generator = torch.Generator().manual_seed(5)
        self.width, self.version = width, 0
        self.learner = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, width, bias=False))
        self.sketch = torch.randn(3, width, generator=generator)
        for weight in self.learner.parameters():
            weight.data.normal_(0, 0.5, generator=generator)
        self.sync()

    def __call__(self, texts):
        numbers = torch.tensor([[float(word) for word in text.split()] for text in texts])
        return numbers @ self.sketch + self.learner(numbers)

    def encode(self, texts):
        numbers = np.array([[float(word) for word in text.split()] for text in texts], np.float32)
        return numbers @ (self.sketch.numpy() + self.learned_)

    def module(self):
        if not hasattr(self, "only"):
            self.only = nn.Module()
            self.only.learner, self.only.forward = self.learner, self
        return self.only

    def sync(self):
        down, up = (weight.detach().numpy() for weight in self.learner.parameters())
        self.learned_, self.version = down.T @ up.T, self.version + 1

    def learned(self):
        return {"change": self.learned_}

    def load_learned(self, arrays):
        self.learned_, self.version = arrays["change"], self.version + 1


def adapting(action_space, critic=None, **options):
    envs = replay.vectorise(lambda: Drift(action_space), 4)
    observations, _ = envs.reset(seed=[1, 2, 3, 4])
    reader = StateReader(Wordy(), Adapting(), critic, trainable=True)
    task = Task(collector=Collector(envs, reader, observations), reader=reader, seed=7, steps=0)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 16, **options}, "algo"), task)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "a critic of its own"])
@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_adapters_get_autograds_gradient_of_the_textbook_loss(space, shared):
    """Policy and critic share the adapters beneath them, unless the critic reads a backbone of its own."""
    algorithm = adapting(space, None if shared else Frozen(), max_grad_norm=None)
    rollout = algorithm.task.collector.rollout(lambda states, t: np.stack([space.sample() for _ in states.texts]), 4)
    algorithm.standardise.fit(rollout.features)
    for name, weights in algorithm.weights.items():
        if name != "adapters":
            weights.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    texts = np.array([text for states in rollout.states[:-1] for text in states.texts], object)
    features = algorithm.standardise(rollout.features[:-1].reshape(16, -1))
    critic_features = features if shared else algorithm.standardise_critic(rollout.critic_features[:-1].reshape(16, -1))
    outputs = algorithm.policy(features).detach()
    actions = algorithm.head.sample(outputs, algorithm.head.noise(1, 16, generator)[0])
    batch = Samples(
        features=features,
        critic_features=critic_features,
        actions=actions,
        advantages=torch.randn(16, generator=generator),
        returns=torch.randn(16, generator=generator),
        log_probs=algorithm.head.forward(outputs, actions)[0] + 0.05 * torch.randn(16, generator=generator),
        texts=texts,
    )
    policy, value, head = (copy.deepcopy(each) for each in (algorithm.policy, algorithm.value, algorithm.head))
    twin = copy.deepcopy(algorithm.task.reader.backbone)
    algorithm.gradient_step(batch, 0.1, 0.03, measure=True)

    encoded = algorithm.standardise.differentiable(twin(texts.tolist()))
    if isinstance(space, gymnasium.spaces.Discrete):
        distribution = torch.distributions.Categorical(logits=policy(encoded))
        log_probs, entropy = distribution.log_prob(actions), distribution.entropy()
    else:
        distribution = torch.distributions.Normal(policy(encoded), head.log_std.exp())
        log_probs, entropy = distribution.log_prob(actions).sum(1), distribution.entropy().sum(1)
    ratio, advantages = (log_probs - batch.log_probs).exp(), normalise(batch.advantages)
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages).mean()
    values = value(encoded if shared else critic_features)[:, 0]
    (-surrogate - 0.03 * entropy.mean() + 0.5 * (values - batch.returns).square().mean()).backward()
    wanted = torch.cat([weight.grad.ravel() for weight in twin.learner.parameters()])
    torch.testing.assert_close(algorithm.weights["adapters"].grad, wanted, rtol=1e-4, atol=1e-6)
    assert wanted.abs().max() > 1e-3


class Frozen(Adapting):
    """The critic's own, which does not learn."""


def test_what_adapters_learn_is_acted_on_saved_and_restored():
    whole, half = adapting(SPACES[0]), adapting(SPACES[0])
    before = whole.task.collector.states.features.copy()
    assert whole.update()["adapters_gradient_norm"] > 0
    half.update()
    backbone = whole.task.reader.backbone
    states = whole.task.reader(whole.task.collector.states.observations)
    np.testing.assert_allclose(states.features, backbone(states.texts).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole.task.reader(half.task.collector.states.observations).features, before)
    resumed, stopped = adapting(SPACES[0]), half.task.collector
    actions, starts = replay.save(stopped.envs)
    replay.restore(resumed.task.collector.envs, actions, starts, stopped.states.observations)
    resumed.task.collector.states = resumed.task.reader(stopped.states.observations)
    resumed.task.collector.load_state(stopped.state())
    resumed.load_state(half.state())
    assert whole.update() == resumed.update()
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name])


@pytest.mark.parametrize("space", [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))], ids=str)
def test_the_actor_and_critic_are_the_trained_ones(space):
    ppo = make(space, steps=64, normalise_rewards=True, gamma=0.9)
    ppo.update()
    heads, features = ppo.actor_critic(), np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_allclose(heads.value(features)[:, 0], ppo.values(ppo.standardise(features)), atol=1e-5)
    states = ppo.task.reader(features)
    np.testing.assert_allclose(heads.policy(states), ppo.act(states), atol=1e-5)
    assert (heads.gamma, heads.gae_lambda) == (0.9, 0.95)
    assert heads.reward_std == pytest.approx(np.sqrt(ppo.reward_scale.moments[2]), rel=1e-6)
    if isinstance(space, gymnasium.spaces.Box):
        np.testing.assert_array_equal(heads.log_std, ppo.head.log_std.detach().numpy())
    else:
        assert heads.log_std is None
