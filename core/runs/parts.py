"""What a configuration names, built: the parts of a run, its environments and its algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
from gymnasium.vector import VectorEnv

from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.acting.features import FeatureExtractor
from bitrl.core.acting.loading import build_features
from bitrl.core.config import Config, check_commands
from bitrl.core.environments import crashes, replay
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.history_wrapper import Remembering
from bitrl.core.environments.loading import build_environment
from bitrl.core.environments.wrapped import Wrapped
from bitrl.core.interfaces import Algorithm, Task

# Every use of randomness has its own stream, so that asking for more of one never shifts another.
ENVIRONMENTS, ALGORITHM, EVALUATION = 0, 1, 2


@attrs.frozen
class Parts:
    """What a configuration names, built: the world, and how it is seen, by the critic too if that is another way."""

    environment: Environment
    features: FeatureExtractor
    critic_features: FeatureExtractor | None = None


def build(config: Config) -> Parts:
    """Build a configuration's environment, serializer and backbones.

    Raises:
        UsageError: one of them cannot be built; the message names it and says why.
    """
    environment = build_environment(config.environment, config.env_options, config.run.env)
    spec, k = environment.observation_spec(), config.run.history
    if spec.commands:
        check_commands(config)
    features = build_features(config, spec, k)
    if k > 1:
        environment = Wrapped(environment, lambda env: Remembering(env, k))
    return Parts(environment, *features)


def begin(config: Config, parts: Parts) -> tuple[Algorithm, VectorEnv]:
    """The algorithm and its environments as a run of `config` starts them, for who calls `update` without a run."""
    envs, observations = make_environments(config, parts, None)
    return make_algorithm(config, parts, envs, observations, None), envs


def make_environments(config: Config, parts: Parts, checkpoint: Checkpoint | None) -> tuple[VectorEnv, np.ndarray]:
    """The run's environments and their observations, as the run starts them or as `checkpoint` left them."""
    envs = replay.vectorise(crashes.reporting(parts.environment.make, parts.environment.id), config.run.num_envs)
    if checkpoint is None:
        seeds: list[int | None] = [*spawn_seeds(config.run.seed, ENVIRONMENTS, config.run.num_envs)]
        return envs, envs.reset(seed=seeds)[0]
    observations = checkpoint.arrays["observations"]
    replay.restore(envs, checkpoint.arrays, checkpoint.meta["starts"], observations)
    return envs, observations


def make_algorithm(
    config: Config,
    parts: Parts,
    envs: VectorEnv,
    observations: np.ndarray,
    checkpoint: Checkpoint | None,
    progress: Callable[[int], None] = lambda step: None,
) -> Algorithm:
    """The algorithm, new or as `checkpoint` left it."""
    if checkpoint is not None and (learnt := with_prefix(checkpoint.arrays, "serializer.")):
        serializer: Any = parts.features.serializer  # one that learns
        serializer.load_state(learnt)
    [seed] = spawn_seeds(config.run.seed, ALGORITHM, 1)
    task = Task(
        envs=envs,
        observations=observations,
        features=parts.features,
        critic_features=parts.critic_features,
        seed=seed,
        steps=config.run.steps,
        progress=progress,
    )
    algorithm: Algorithm = config.algorithm.load()(config.algo_options, task)
    if checkpoint is not None:
        algorithm.load_state(with_prefix(checkpoint.arrays, "algorithm."))
    return algorithm


def learned_by_serializer(parts: Parts) -> Mapping[str, np.ndarray]:
    """What the serializer learnt from states, as named arrays; nothing for one that does not learn."""
    state = getattr(parts.features.serializer, "state", None)
    return state() if callable(state) else {}


def identities(parts: Parts) -> dict[str, dict[str, Any]]:
    """The identity of the policy's features, and of the critic's where they are others; what is unset left out."""
    extractors = {"features": parts.features, "critic_features": parts.critic_features}
    return {
        name: {key: value for key, value in extractor.identity.items() if value is not None}
        for name, extractor in extractors.items()
        if extractor is not None
    }


def spawn_seeds(seed: int, use: int, count: int) -> list[int]:
    """`count` seeds for one use of the run's randomness."""
    return [int(each) for each in np.random.SeedSequence([seed, use]).generate_state(count)]
