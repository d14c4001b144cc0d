"""PPO: its gradient step against autograd on the textbook loss, its recipe, and that it learns."""

import json
import tracemalloc

import gymnasium
import numpy as np
import pytest
import torch
from learning_backbones import Adapting, Frozen, Identity, adapting
from learning_backbones import ppo as make
from torch import nn
from torch_twins import Head, double, flat, in_torch, near

import bitrl
from bitrl.core.environments import replay
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.engine_learner import EngineLearner
from bitrl.plugins.algos.factored_head import action_head
from bitrl.plugins.algos.heads import hold
from bitrl.plugins.algos.ppo import PPO, Samples, learner_threads
from bitrl.testing import make_task

SPACES = [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))]


def floats(generator, *shape):
    return generator.normal(size=shape).astype(np.float32)


def disturb(algorithm, scale=0.3):
    """Give heads and networks random weights."""
    generator = np.random.default_rng(0)
    for name, weights in algorithm.groups.parameters.items():
        if name != "adapters":
            weights[:] = scale * floats(generator, len(weights))


def batch_for(algorithm, features, critic_features, apart, generator, texts=None):
    """Samples whose actions the policy would take, and whose old log-probabilities are `apart` from its own."""
    size = len(features)
    outputs = algorithm.policy.outputs(features, algorithm.standardise)
    actions = algorithm.head.sample(outputs, algorithm.head.noise(1, size, generator)[0])
    log_probs = algorithm.head.forward(outputs, actions)[0] + np.float32(apart) * floats(generator, size)
    rest = floats(generator, size), floats(generator, size)
    return Samples(features, critic_features, actions, *rest, log_probs, texts=texts)


def standardised(advantages):
    return (double(advantages) - double(advantages).mean()) / (double(advantages).std() + 1e-8)


def textbook_loss(twins, batch, features, critic_features, clip, ent_coef, vf_coef):
    policy, value, head = twins
    log_probs, entropy = head(policy(features), batch.actions, None)
    ratio, advantages = (log_probs - double(batch.log_probs)).exp(), standardised(batch.advantages)
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    error = (value(critic_features)[:, 0] - double(batch.returns)).square().mean()
    return ratio, -surrogate - ent_coef * entropy.mean() + vf_coef * error


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_a_gradient_step_is_adam_on_the_textbook_loss(space):
    algorithm, generator = make(space, ent_coef=0.03, vf_coef=0.7, max_grad_norm=0.1), np.random.default_rng(1)
    disturb(algorithm)
    features = floats(generator, 16, 3)
    # Far enough from the current policy that the clip is active on some samples and not on others.
    batch = batch_for(algorithm, features, features, 0.3, generator)
    policy, value, head = in_torch(algorithm.policy), in_torch(algorithm.value), Head(algorithm.head)
    algorithm.gradient_step(batch, 0.1, 0.03)

    ratio, loss = textbook_loss((policy, value, head), batch, double(features), double(features), 0.1, 0.03, 0.7)
    assert ((ratio - 1).abs() > 0.1).any()
    assert ((ratio - 1).abs() < 0.1).any()
    loss.backward()
    for parameters, rate in (([*policy.parameters(), *head.parameters], 3e-4), ([*value.parameters()], 1e-3)):
        nn.utils.clip_grad_norm_(parameters, 0.1)
        torch.optim.Adam(parameters, lr=rate, eps=1e-5).step()
    near(algorithm.groups.parameters["policy"], torch.cat([flat(policy), *head.flat()]), 2e-6)
    near(algorithm.groups.parameters["value"], flat(value), 2e-6)


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
    return algorithm.rates_now


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
    generator = np.random.default_rng(0)
    head = action_head(space)
    noise = head.noise(400, 3000, generator)
    held = hold(noise, 8.0, generator)
    assert (held == noise).all(axis=2).any(axis=1).all()  # every step's own noise is taken somewhere
    np.testing.assert_array_equal(held[0], noise[0])
    kept = (held[1:] == held[:-1]).all(axis=2)
    assert kept.mean() == pytest.approx(7 / 8, abs=0.002)
    together = (kept[1:] & kept[:-1]).mean()  # geometric: whether it is kept does not depend on for how long it was
    assert together == pytest.approx((7 / 8) ** 2, abs=0.003)
    # At one step, over environments: uniform logits give uniform actions, means give the Gaussian's moments.
    actions = head.sample(np.zeros((3000, head.outputs), np.float32), held[-1])
    if isinstance(space, gymnasium.spaces.Discrete):
        np.testing.assert_allclose(np.bincount(actions) / 3000, 1 / 3, atol=0.03)
    else:
        np.testing.assert_allclose(actions.mean(0), 0, atol=0.06)
        np.testing.assert_allclose(actions.std(0), 1, atol=0.05)


def test_noise_held_for_one_step_is_fresh_and_draws_nothing_more():
    generator = np.random.default_rng(0)
    noise = floats(generator, 4, 2, 3)
    before = generator.bit_generator.state
    assert hold(noise, 1.0, generator) is noise
    assert generator.bit_generator.state == before


def test_held_noise_reaches_a_goal_that_fresh_noise_does_not():
    """MountainCar's first rollouts: the reward says nothing until the car is out of the valley."""
    ends = {}
    for mean_steps in (1.0, 20.0):
        generator = np.random.default_rng(0)
        head = action_head(gymnasium.spaces.Discrete(3))
        noise = hold(head.noise(200, 100, generator), mean_steps, generator)
        envs = gymnasium.make_vec("MountainCar-v0", 100, vectorization_mode="sync")
        envs.reset(seed=0)
        reached = np.zeros(100, bool)
        for t in range(199):
            reached |= envs.step(head.to_env(head.sample(np.zeros((100, 3), np.float32), noise[t])))[2]
        ends[mean_steps] = reached.sum()
    assert ends[1.0] == 0
    assert ends[20.0] >= 3


def test_the_first_rollout_is_uniform_and_sets_the_standardisation():
    algorithm = make(gymnasium.spaces.Discrete(3))
    outputs = algorithm.policy.outputs(100 * floats(np.random.default_rng(0), 5, 3))
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
    np.testing.assert_array_equal(algorithm.head.log_std, -1.5)
    actions = []
    envs = algorithm.task.collector.envs
    step = envs.step
    envs.step = lambda action: actions.append(action) or step(action)
    algorithm.update()
    np.testing.assert_allclose(np.concatenate(actions).std(axis=0), np.exp(-1.5), rtol=0.05)


def test_a_loss_that_is_no_number_stops_the_run():
    algorithm = make(gymnasium.spaces.Discrete(3))
    algorithm.update()
    algorithm.groups.parameters["value"][:] = np.nan
    with pytest.raises(bitrl.RunFailed, match=r"_loss is not a finite number in the update that ends at step 128"):
        algorithm.update()


def test_a_gradient_that_is_no_number_stops_the_run(monkeypatch):
    algorithm = make(gymnasium.spaces.Discrete(3))
    backward = algorithm.head.backward
    monkeypatch.setattr(algorithm.head, "backward", lambda *given: backward(*given) * np.float32("nan"))
    before = algorithm.groups.state()
    with pytest.raises(bitrl.RunFailed, match="a gradient is not a finite number: the step is discarded"):
        algorithm.update()
    for name, array in algorithm.groups.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_what_is_learned_has_the_same_bits_with_any_threads_and_instruction_set(monkeypatch):
    """On 256 features both threads have something to do."""
    from bitrl.plugins.algos import ppo
    from bitrl.plugins.backbones.engine.engine import instruction_sets

    class Wide(Identity):
        width = 256

        def encode(self, inputs):
            return np.tanh(inputs @ np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32))

    found = []
    for threads, isa in ((1, "auto"), (2, "auto"), (3, "auto"), *((2, isa) for isa in instruction_sets())):
        monkeypatch.setattr(ppo, "EngineLearner", lambda _, threads=threads, isa=isa: EngineLearner(threads, isa))
        algorithm = make(gymnasium.spaces.Discrete(3), Wide(), minibatch_size=64)
        algorithm.update()
        found.append((algorithm.update(), algorithm.state()))
    for metrics, state in found[1:]:
        assert metrics == found[0][0]
        for name, array in found[0][1].items():
            np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize(
    ("asked", "cpus", "threads"), [("", 8, 2), ("", 1, 1), ("1", 8, 1), ("3", 8, 2), ("x", 8, 2), ("0", 8, 2)]
)
def test_a_thread_for_each_network_unless_there_are_fewer(asked, cpus, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr("bitrl.plugins.algos.ppo.available_cpus", lambda: cpus)
    assert learner_threads() == threads


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


class HugeRewards(gymnasium.RewardWrapper):
    def reward(self, reward):
        return float(reward) * 1e30  # whose square float32 does not hold


gymnasium.register("HugeRewards-v0", lambda: HugeRewards(gymnasium.make("CartPole-v1")))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_huge_rewards_are_explained_in_double_precision(tmp_path):
    options = {"algo.rollout_steps": 64, "run.eval_episodes": 0, "run.num_envs": 4}
    bitrl.run("HugeRewards-v0", backbone="mlp", serializer="vector", steps=512, out=tmp_path / "run", options=options)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(row["explained_variance"]) < 1 for row in rows)


def test_it_learns_a_continuous_task(tmp_path):
    """The reward is the sum of two actions in [-1, 1]: the best is the largest."""
    algorithm = make(gymnasium.spaces.Box(-1, 1, (2,)), rollout_steps=256, learning_rate=3e-3)
    for _ in range(30):
        algorithm.update()

    states = algorithm.task.reader(np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    assert (algorithm.act(states) > 0.5).mean() > 0.9


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "a critic of its own"])
@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
def test_adapters_get_autograds_gradient_of_the_textbook_loss(space, shared):
    """Policy and critic share the adapters beneath them, unless the critic reads a backbone of its own."""
    algorithm = adapting(space, None if shared else Frozen(), max_grad_norm=None)
    rollout = algorithm.task.collector.rollout(lambda states, t: np.stack([space.sample() for _ in states.texts]), 4)
    algorithm.standardise.fit(rollout.features)
    disturb(algorithm)
    texts = np.array([text for states in rollout.states[:-1] for text in states.texts], object)
    features = rollout.features[:-1].reshape(16, -1)
    critic_features = features if shared else rollout.critic_features[:-1].reshape(16, -1)
    batch = batch_for(algorithm, features, critic_features, 0.05, np.random.default_rng(1), texts)
    twins = in_torch(algorithm.policy), in_torch(algorithm.value), Head(algorithm.head)
    twin, scale = Adapting(), algorithm.standardise
    algorithm.gradient_step(batch, 0.1, 0.03)

    encoded = ((twin(texts.tolist()).double() - double(scale.mean)) / double(scale.std)).clamp(-10, 10)
    judged = encoded if shared else double(critic_features)
    textbook_loss(twins, batch, encoded, judged, 0.1, 0.03, 0.5)[1].backward()
    wanted = torch.cat([weight.grad.ravel() for weight in twin.learner.parameters()])
    near(algorithm.groups.gradients["adapters"], wanted, 1e-5)
    assert wanted.abs().max() > 1e-3


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
    np.testing.assert_allclose(heads.value(features)[:, 0], ppo.values(features), atol=1e-5)
    states = ppo.task.reader(features)
    np.testing.assert_allclose(heads.policy(states), ppo.act(states), atol=1e-5)
    assert (heads.gamma, heads.gae_lambda) == (0.9, 0.95)
    assert heads.reward_std == pytest.approx(np.sqrt(ppo.reward_scale.moments[2]), rel=1e-6)
    if isinstance(space, gymnasium.spaces.Box):
        np.testing.assert_array_equal(heads.log_std, ppo.head.log_std)
    else:
        assert heads.log_std is None


class Wide:
    """A frozen backbone of many features, each a number of the state times a constant."""

    width, identity = 4096, {}

    def __init__(self, width):
        self.factors = np.random.default_rng(0).normal(size=(width, self.width)).astype(np.float32)

    def encode(self, inputs):
        return np.stack([row @ self.factors for row in inputs])


def test_the_features_of_a_rollout_are_held_once():
    """They are the largest part of what a rollout takes: 8 MB here, beside which nothing of their size is made."""
    options = parse(PPOOptions, {"rollout_steps": 512, "hidden": (8,), "epochs": 2}, "algo")
    algorithm = PPO(options, make_task(num_envs=4, backbone=Wide))
    rollout = 512 * Wide.width * 4
    for _ in range(2):  # the first standardisation is taken of the first rollout
        tracemalloc.start()
        try:
            algorithm.update()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert rollout < peak < 1.5 * rollout
    state = algorithm.task.collector.states
    np.testing.assert_array_equal(state.features, algorithm.task.reader(state.observations).features)
    assert state.features.base is None, "a view would keep the rollout's features"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mean", np.zeros(3)),
        ("std", np.ones(3, np.int64)),
        ("std", np.zeros(3, np.float32)),
        ("mean", np.zeros(2, "f")),
    ],
)
def test_standardisation_of_another_kind_is_refused(name, wrong):
    """Features standardised by it would be of a type that the engine does not take, or infinite."""
    algorithm = make(gymnasium.spaces.Discrete(2))
    state = algorithm.state()
    assert state[name].shape == (3,)
    with pytest.raises(ValueError, match=r"expected float32 \[3\], and std above 0"):
        algorithm.load_state(state | {name: wrong})
