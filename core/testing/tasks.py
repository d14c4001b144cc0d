"""Small worlds that components are tried in. All of it is seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.features import FeatureExtractor
from bitrl.core.config import find_environment
from bitrl.core.environments import replay
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observations import as_array
from bitrl.core.interfaces import Backbone, Task
from bitrl.core.options import NoOptions, parse
from bitrl.plugins.serializers.vector import Vector


def world(name: str, **options: Any) -> Environment:
    """The environment called `name` in `bitrl list`, or any Gymnasium id."""
    record = find_environment(name)
    environment: Environment = record.load()(parse(record.options, options, "env"), name)
    return environment


class Plain:
    """A frozen backbone that gives vectors back as they are, so that an algorithm can be tried without a model."""

    def __init__(self, width: int):
        self.width = width
        self.identity: Mapping[str, Any] = {"plain": width}

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k] → the same."""
        return inputs


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
    steps: int = 100_000,
    progress: Callable[[int], None] = lambda step: None,
) -> Task:
    """A task for an algorithm's own tests: vector environments that were just reset, seen as scaled numbers.

    Args:
        env: an environment, or its name.
        num_envs: environments side by side.
        seed: of the environments and of the algorithm.
        backbone: makes a backbone for vectors of the given width; by default the numbers themselves are the features.
        critic_backbone: the same for the critic's own, which reads the same vectors; None: it has none.
        steps, progress: see Task.
    """
    environment = world(env) if isinstance(env, str) else env
    serializer = Vector(NoOptions(), environment.observation_spec())
    envs = replay.vectorise(environment.make, num_envs)
    observations, _ = envs.reset(seed=seed)
    features = FeatureExtractor(serializer, backbone(serializer.width))
    return Task(
        envs=envs,
        observations=observations,
        features=features,
        critic_features=FeatureExtractor(serializer, critic_backbone(serializer.width)) if critic_backbone else None,
        seed=seed,
        steps=steps,
        progress=progress,
    )


class Watched(Environment):
    """An environment whose single environments count their steps and remember their last observation."""

    def __init__(self, environment: Environment):
        super().__init__(environment.options, environment.id)
        self.environment = environment
        self.made: list[_Watcher] = []

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new watched environment."""
        self.made.append(_Watcher(self.environment.make(render_mode)))
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


class _Watcher(gymnasium.Wrapper):
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
