"""Small environments and tasks that components are tried in. All of it is seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.loading import of_flat_observations
from bitrl.core.acting.states import StateReader
from bitrl.core.environments import replay
from bitrl.core.environments.collector import Collector
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.observations import as_array
from bitrl.core.interfaces import Backbone, Task
from bitrl.core.options import NoOptions
from bitrl.plugins.serializers.prompt import Prompt
from bitrl.plugins.serializers.vector import Vector


class Plain:
    """A frozen backbone that gives vectors back as they are, so that an algorithm can be tried without a model."""

    def __init__(self, width: int):
        self.width = width
        self.identity: Mapping[str, Any] = {"plain": width}

    def encode(self, inputs: Any) -> np.ndarray:
        """Vectors float32 [n, k] → the same; n texts (admissible commands) → counts of letters, float32 [n, k]."""
        return inputs if isinstance(inputs, np.ndarray) else _letters(inputs, self.width)


class Letters:
    """A serializer of vectors for observations that are not numbers alone: how often the letters occur in them.

    Attributes:
        width: k.
    """

    width = 32

    def __call__(self, observation: Any) -> np.ndarray:
        """One observation → float32 [k]."""
        vector: np.ndarray = _letters([str(np.asarray(observation).tolist())], self.width)[0]
        return vector

    def batch(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → float32 [n, k]."""
        return _letters([str(observation.tolist()) for observation in observations], self.width)


def _letters(texts: Sequence[str], width: int) -> np.ndarray:
    counts = np.zeros((len(texts), width), np.float32)
    for row, text in zip(counts, texts, strict=True):
        np.add.at(row, [ord(letter) % width for letter in text], 0.1)
    return counts


class Doubled:
    """A frozen backbone for a critic beside `Plain`, of another width: vectors and their negatives.

    Attributes:
        read: how many vectors it was given so far.
    """

    def __init__(self, width: int):
        self.width, self.read = 2 * width, 0
        self.identity: Mapping[str, Any] = {"doubled": width}

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k] → [n, 2k]."""
        self.read += len(inputs)
        return np.concatenate([inputs, -inputs], axis=1)


def make_task(
    env: str | Environment = "CartPole-v1",
    *,
    num_envs: int = 4,
    seed: int = 0,
    backbone: Callable[[int], Backbone] = Plain,
    critic_backbone: Callable[[int], Backbone] | None = None,
    trainable: bool = False,
    critic_trainable: bool = False,
    steps: int = 100_000,
    progress: Callable[[int], None] = lambda step: None,
    group: int = 1,
) -> Task:
    """A task for an algorithm's own tests: vector environments that were just reset, whose observations are read as
    scaled numbers (or, where they are not numbers alone, as counts of letters); prompts are texts as they are, for a
    backbone such as small_language_model.generative.

    Args:
        env: an environment, or its name.
        num_envs: parallel environments.
        seed: of the environments and of the algorithm.
        backbone: makes a backbone for vectors of the given width; by default the numbers themselves are the features.
        critic_backbone: the same for the critic's own, which reads the same vectors; None: it has none.
        trainable, critic_trainable: the algorithm trains that backbone, which has `module()`.
        steps: see Task.
        progress: called with the number of environment steps taken so far.
        group: so many successive environments are reset with the same seed (AlgorithmRecord.group_option).
    """
    made = load_environment(env) if isinstance(env, str) else env
    spec = made.observation_spec()
    numbers = spec.fields and not spec.texts
    serializer: Any = Letters()
    if spec.prompt:
        serializer = Prompt(NoOptions(), spec)
    elif numbers:
        serializer = of_flat_observations(Vector(NoOptions(), spec), spec)
    envs = replay.vectorise(made.make, num_envs)
    observations, _ = envs.reset(seed=[seed + index // group for index in range(num_envs)])
    width = 0 if spec.prompt else serializer.width
    reader = StateReader(
        serializer,
        backbone(width),
        critic_backbone(width) if critic_backbone else None,
        trainable=trainable,
        critic_trainable=critic_trainable,
    )
    return Task(collector=Collector(envs, reader, observations, progress), reader=reader, seed=seed, steps=steps)


class CountingEnvironment(Environment):
    """An environment whose single environments count their steps and remember their last observation."""

    def __init__(self, environment: Environment):
        super().__init__(environment.options, environment.id)
        self.environment = environment
        self.made: list[_Counter] = []

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment that counts."""
        self.made.append(_Counter(self.environment.make(render_mode)))
        return self.made[-1]

    def observation_spec(self) -> Any:
        """That of the environment."""
        return self.environment.observation_spec()

    @property
    def steps(self) -> int:
        """Steps taken in all of them."""
        return sum(env.steps for env in self.made)

    def observations(self) -> np.ndarray:
        """Their current observations [n, ...]."""
        return np.stack([env.observation for env in self.made])


class _Counter(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.steps = 0
        self.observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(as_array(self.observation_space, observation))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation = np.array(as_array(self.observation_space, observation))
        return observation, reward, terminated, truncated, info
