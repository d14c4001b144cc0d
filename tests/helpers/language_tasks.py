"""Algorithms of language models on a random model that is small enough to learn in seconds."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tiny_models import TinyModel

from bitrl.core.acting.states import StateReader
from bitrl.core.environments import replay
from bitrl.core.environments.any_text import AnyText
from bitrl.core.environments.collector import Collector
from bitrl.core.interfaces import Algorithm, Task
from bitrl.core.options import parse
from bitrl.plugins.algos import GRPOOptions, PPOLanguageOptions
from bitrl.plugins.algos.grpo import GRPO
from bitrl.plugins.algos.ppo_lm import PPOLanguage
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.language_model import LanguageModel, language_model

ALGORITHMS = {"grpo": (GRPO, GRPOOptions), "ppo-lm": (PPOLanguage, PPOLanguageOptions)}
END = 17
"""The end token of the model."""


class ShareOfLetters(gymnasium.Env[str, str]):
    """A prompt of one letter; the reward is the share of a completion's characters that are lower-case letters.

    With `goes_on`, an episode has two steps; with `differs`, equal seeds give different prompts.
    """

    made = 0

    def __init__(self, goes_on: bool = False, differs: bool = False):
        self.observation_space, self.action_space = AnyText(8), AnyText(1000)
        self.goes_on, self.differs = goes_on, differs
        ShareOfLetters.made += 1
        self.number = ShareOfLetters.made

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.prompt = str(self.number) if self.differs else str(self.np_random.choice(list("abc")))
        return self.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        letters = sum("a" <= each <= "z" for each in action)
        return self.prompt, letters / max(len(action), 1), not self.goes_on or self.steps > 1, False, {}


class Prompts:
    """A serializer that passes prompts on."""

    def batch(self, observations: Any) -> list[str]:
        return [str(each) for each in observations]


def tiny_file(path: Path, weights: str | None = "F32", **changes: Any) -> Path:
    """A model file with an end token."""
    model = TinyModel(width=32, ffn=48, blocks=1, heads=2, kv_heads=1, vocabulary=300, context=64, weights=weights)
    model.embedding = (model.embedding * 0.1).astype(np.float16)  # nearly uniform at first
    return model.write(path, changes={"tokenizer.ggml.eos_token_id": END, **changes})


def tiny_backbone(path: Path, format: str = "fp32", **options: Any) -> LanguageModel:
    return language_model(LanguageModelOptions(model=str(path), threads=1, **options), None, format)


def begin(
    name: str, backbone: LanguageModel, num_envs: int = 16, make: Any = ShareOfLetters, steps: int = 10_000,
    state: Any = None, **options: Any,
) -> Algorithm:  # fmt: skip
    """An algorithm at its start, or at a `saved` state; groups of GRPO are of 4."""
    target, kind = ALGORITHMS[name]
    group = options.setdefault("group_size", 4) if name == "grpo" else 1
    reader = StateReader(Prompts(), backbone)
    envs = replay.vectorise(make, num_envs)
    if state is None:
        observations, _ = envs.reset(seed=[each // group for each in range(num_envs)])
        return target(parse(kind, {"max_tokens": 6, **options}, "algo"), task_of(envs, reader, observations, steps))
    arrays, starts, observations, collected, own = state
    replay.restore(envs, arrays, starts, observations)
    algorithm = target(parse(kind, {"max_tokens": 6, **options}, "algo"), task_of(envs, reader, observations, steps))
    algorithm.task.collector.load_state(collected)
    algorithm.load_state(own)
    return algorithm


def task_of(envs: Any, reader: StateReader, observations: Any, steps: int) -> Task:
    return Task(collector=Collector(envs, reader, observations, who="algorithm"), reader=reader, seed=0, steps=steps)


def saved(algorithm: Algorithm) -> Any:
    """What a checkpoint has of an algorithm and its environments, for `begin`."""
    collector = algorithm.task.collector
    arrays, starts = replay.save(collector.envs)
    return arrays, starts, collector.states.observations, collector.state(), algorithm.state()
