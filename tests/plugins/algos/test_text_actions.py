"""Policies over texts and masked numbers: gradients against autograd, inadmissible actions never taken, learning."""

import gymnasium
import numpy as np
import pytest
import torch
from torch_twins import Head, double, flat_gradient, near

from bitrl.core.acting.admissible import AdmissibleActions, CommandTable
from bitrl.core.acting.states import StateReader
from bitrl.core.environments import choice_wrappers, replay
from bitrl.core.environments.choice_wrappers import ActionMask
from bitrl.core.environments.collector import Collector
from bitrl.core.interfaces import Task
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.heads import Categorical
from bitrl.plugins.algos.ppo import PPO

WORDS = ("red", "green", "blue", "white", "black")


class SayTheWord(gymnasium.Env):
    """Of some words, in any order, one is asked for. To say it earns 1."""

    observation_space = gymnasium.spaces.Text(30, charset="abcdefghijklmnopqrstuvwxyz ")
    action_space = gymnasium.spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.ask()

    def step(self, action):
        assert action < len(self.offered), "an action was taken that is not there"
        reward = float(self.offered[action] == f"say {self.asked}")
        self.steps += 1
        observation, info = self.ask()
        return observation, reward, False, self.steps == 8, info

    def ask(self):
        words = self.np_random.permutation(WORDS)[: self.np_random.integers(2, 5)]
        self.asked = str(self.np_random.choice(words))
        self.offered = [f"say {word}" for word in words]
        return f"asked for {self.asked}", {"admissible_commands": self.offered}


class Masked(gymnasium.Env):
    """Each action is possible by chance; the highest possible earns 1, what is not possible raises."""

    observation_space = gymnasium.spaces.Box(0, 1, (5,))
    action_space = gymnasium.spaces.Discrete(5, start=2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.see()

    def step(self, action):
        assert self.mask[action - 2], "an action was taken that is masked"
        reward = float(action - 2 == np.flatnonzero(self.mask)[-1])
        self.steps += 1
        observation, info = self.see()
        return observation, reward, False, self.steps == 8, info

    def see(self):
        self.mask = self.np_random.integers(0, 2, 5)
        self.mask[self.np_random.integers(5)] = 1
        return self.mask.astype(np.float32), {"action_mask": self.mask.astype(np.int8)}


class Texts:
    """Observations that are texts already."""

    def batch(self, observations):
        return [str(each) for each in observations]


class BagOfWords:
    """Which of a few words a text has."""

    width, identity = len(WORDS) + 1, {}

    def encode(self, texts):
        return np.array([[*(word in text for word in WORDS), 1.0] for text in texts], np.float32)


class Numbers:
    def batch(self, observations):
        return np.asarray(observations, np.float32)


class Plain:
    width, identity = 5, {}

    def encode(self, inputs):
        return inputs


def make(environment, serializer, backbone, **options):
    envs = replay.vectorise(environment, 4)
    observations, _ = envs.reset(seed=[1, 2, 3, 4])
    reader = StateReader(serializer, backbone)
    task = Task(collector=Collector(envs, reader, observations), reader=reader, seed=0, steps=0)
    return PPO(parse(PPOOptions, {"rollout_steps": 256, **options}, "algo"), task)


def words(**options):
    return make(lambda: choice_wrappers.Commands(SayTheWord()), Texts(), BagOfWords(), **options)


def test_gradients_are_autograds():
    head, generator = words().head, np.random.default_rng(2)
    commands = CommandTable(["", *(f"say {word}" for word in WORDS)], BagOfWords().encode)
    head.keys.parameters += generator.normal(0, 0.1, head.size).astype(np.float32)
    queries = generator.normal(size=(7, head.outputs)).astype(np.float32)
    mask = np.array([[True, True, False], [True, False, False], [True] * 3, [True] * 3, [True] * 3] + [[True] * 3] * 2)
    admissible = AdmissibleActions(mask, generator.integers(len(commands.texts), size=(7, 3)), commands)
    actions = np.array([1, 0, 2, 0, 1, 2, 0])
    weights, by_entropy = generator.normal(size=7).astype(np.float32), 0.3

    twin, exact = Head(head), double(queries).requires_grad_()
    wanted, entropy = twin(exact, actions, admissible)
    ((double(weights) * wanted).sum() + by_entropy * entropy.sum()).backward()

    log_probs, entropies = head.forward(queries, actions, admissible)
    by_queries = head.backward(weights, by_entropy)
    near(log_probs, wanted, 5e-6)
    near(entropies, entropy, 5e-6)
    near(by_queries, exact.grad, 5e-6)
    near(head.keys.gradients, flat_gradient(twin.keys), 5e-6)


def test_more_commands_than_a_batch_has_are_learned_from_at_once():
    head, generator = words().head, np.random.default_rng(0)
    table = generator.normal(size=(900, head.keys.widths[0])).astype(np.float32)
    commands = CommandTable([str(row) for row in range(900)], lambda texts: table)
    rows = generator.permutation(900).reshape(300, 3)
    admissible = AdmissibleActions(np.ones((300, 3), bool), rows, commands)
    queries = generator.normal(size=(300, head.outputs)).astype(np.float32)
    actions = generator.integers(3, size=300)
    twin = Head(head)
    wanted, _ = twin(double(queries), actions, admissible)
    near(head.forward(queries, actions, admissible)[0], wanted, 5e-6)
    wanted.sum().backward()
    head.backward(np.ones(300, np.float32), 0.0)
    near(head.keys.gradients, flat_gradient(twin.keys))


def test_an_inadmissible_action_has_no_probability_and_no_gradient():
    head = Categorical(gymnasium.spaces.Discrete(3))
    outputs, mask = np.array([[5.0, 1.0, 2.0]], np.float32), np.array([[False, True, True]])
    admissible = AdmissibleActions(mask)
    assert head.best(outputs, admissible).item() == 2
    log_probs, entropies = head.forward(outputs, np.array([1]), admissible)
    wanted = torch.distributions.Categorical(logits=torch.tensor([1.0, 2.0]))
    near(log_probs, wanted.log_prob(torch.tensor([0])))
    near(entropies, wanted.entropy().reshape(1))
    gradient = head.backward(np.ones(1, np.float32), 1.0)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] == pytest.approx(-gradient[0, 2].item(), rel=1e-5)


def test_it_learns_to_say_the_word_that_is_asked_for():
    """The right command stands elsewhere each time, so it can only be known by what it says."""
    algorithm = words(learning_rate=3e-3, minibatch_size=64, ent_coef=0.01)
    first = algorithm.update()["episode_return"]
    for _ in range(11):
        last = algorithm.update()["episode_return"]
    assert first < 5
    assert last > 7  # of 8; by chance 2.9
    states = algorithm.task.collector.states
    for observation, action in zip(states.observations, algorithm.act(states), strict=True):
        commands = str(observation["commands"]).split("\n")
        assert commands[action] == f"say {str(observation['observation']).split()[-1]}"


def test_masked_actions_are_never_taken_and_the_rest_is_learned():
    algorithm = make(lambda: ActionMask(Masked()), Numbers(), Plain(), learning_rate=3e-3, ent_coef=0.0)
    for _ in range(15):
        last = algorithm.update()["episode_return"]
    assert last > 7  # of 8; by chance 4


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    whole, half = words(), words()
    whole.update()
    half.update()
    stopped = half.task.collector
    arrays, starts = replay.save(stopped.envs)
    resumed = words()
    replay.restore(resumed.task.collector.envs, arrays, starts, stopped.states.observations)
    resumed.task.collector.states = stopped.states
    resumed.task.collector.load_state(stopped.state())
    resumed.load_state(half.state())
    assert {"command_mean", "command_std"} <= half.state().keys()
    assert resumed.update() == whole.update()
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name], err_msg=name)
