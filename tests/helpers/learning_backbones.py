"""A small environment and backbones that PPO's own tests learn on: numbers as they are, and texts that torch learns."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.acting.states import StateReader
from bitrl.core.environments import replay
from bitrl.core.environments.collector import Collector
from bitrl.core.interfaces import Task
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO


class Identity:
    """A serializer that writes the observation as it is, and a backbone whose features are what was written."""

    width, identity = 3, MappingProxyType({"features": "observation"})

    def batch(self, observations: Any) -> Any:
        return np.asarray(observations, np.float32)

    def encode(self, inputs: Any) -> Any:
        return inputs

    def module(self) -> nn.Module:
        return nn.Identity()


class Normed(Identity):
    """A backbone of a third party, which torch trains: not linear layers and tanh alone."""

    width = 5

    def module(self) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 5))


class Wordy(Identity):
    """Writes numbers as text."""

    def batch(self, observations: Any) -> Any:
        return [" ".join(f"{number:.3f}" for number in row) for row in observations]


class Adapting:
    """A backbone of texts that learns: a frozen sketch of the numbers, and a low-rank change of it."""

    identity = MappingProxyType({"features": "sketch"})

    def __init__(self, width: int = 6):
        generator = torch.Generator().manual_seed(5)
        self.width, self.version = width, 0
        self.learner = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, width, bias=False))
        self.sketch = torch.randn(3, width, generator=generator)
        for weight in self.learner.parameters():
            weight.data.normal_(0, 0.5, generator=generator)
        self.sync()

    def __call__(self, texts: list[str]) -> Tensor:
        numbers = torch.tensor([[float(word) for word in text.split()] for text in texts])
        out: Tensor = numbers @ self.sketch + self.learner(numbers)
        return out

    def encode(self, texts: list[str]) -> np.ndarray:
        numbers = np.array([[float(word) for word in text.split()] for text in texts], np.float32)
        features: np.ndarray = numbers @ (self.sketch.numpy() + self.learned_)
        return features

    def module(self) -> nn.Module:
        if not hasattr(self, "only"):
            self.only = nn.Module()
            self.only.learner, self.only.forward = self.learner, self
        return self.only

    def sync(self) -> None:
        down, up = (weight.detach().numpy() for weight in self.learner.parameters())
        self.learned_, self.version = down.T @ up.T, self.version + 1

    def learned(self) -> dict[str, np.ndarray]:
        return {"change": self.learned_}

    def load_learned(self, arrays: Any) -> None:
        self.learned_, self.version = arrays["change"], self.version + 1


class Frozen(Adapting):
    """The critic's own, which does not learn."""


class Drift(gymnasium.Env):
    """A random walk in three dimensions that rewards actions; deterministic given its seed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))

    def __init__(self, action_space: gymnasium.Space[Any]):
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.standard_normal(3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        observation = self.np_random.standard_normal(3).astype(np.float32)
        return observation, float(np.sum(action)), bool(self.np_random.random() < 0.1), False, {}


def ppo(
    action_space: gymnasium.Space[Any],
    backbone: Any = None,
    serializer: Any = None,
    critic: Any = None,
    steps: int = 0,
    trainable: bool = False,
    **options: Any,
) -> PPO:
    """PPO in four drifting environments, with short rollouts."""
    envs = replay.vectorise(lambda: Drift(action_space), 4)
    observations, _ = envs.reset(seed=[1, 2, 3, 4])
    reader = StateReader(serializer or Identity(), backbone or Identity(), critic, trainable=trainable)
    task = Task(collector=Collector(envs, reader, observations), reader=reader, seed=7, steps=steps)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 16, **options}, "algo"), task)


def adapting(action_space: gymnasium.Space[Any], critic: Any = None, **options: Any) -> PPO:
    """The same on texts, with adapters that learn."""
    return ppo(action_space, Adapting(), Wordy(), critic, trainable=True, **options)
