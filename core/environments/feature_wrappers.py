"""Gymnasium environments whose observations are features: for algorithms of other libraries.

Finds a serializer and a backbone by name and combines them as a run does; knows nothing of learning.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import attrs
import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from bitrl.core.acting.admissible import splits
from bitrl.core.acting.loading import build_reader
from bitrl.core.acting.states import StateReader
from bitrl.core.config import ANY_GYMNASIUM_ID, Config, resolve
from bitrl.core.environments.evidence import choose
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.observations import as_array, as_batch
from bitrl.core.environments.replay import ArrayVectorEnv
from bitrl.core.environments.spaces import leaves_of
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.terminal import tell
from bitrl.core.wording import program

READ = tuple(getattr(gymnasium.spaces, name) for name in ("Box", "Discrete", "MultiBinary", "MultiDiscrete", "Text"))
"""The spaces that serializers read, and Dicts and Tuples of them."""

_shared: WeakValueDictionary[Any, StateReader] = WeakValueDictionary()
_choices: dict[Any, Config] = {}


class FeatureObservation(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """One environment; observations are float32 [d], the backbone's features of the serializer's text.

    All environments of a process with the same serializer, backbone and observations share one backbone.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        backbone: str = "bitnet",
        serializer: str | None = None,
        *,
        backbone_options: Mapping[str, Any] | None = None,
        serializer_options: Mapping[str, Any] | None = None,
        env_id: str | None = None,
    ):
        """Wraps `env`, whose observations must be unmodified: normalised numbers say little as text.

        Args:
            env: the environment.
            backbone: the name of a frozen backbone (`bitrl list`).
            serializer: a name from `bitrl list`; None: as a run chooses it: json unless the environment's defaults say
                otherwise.
            backbone_options: its options, for example {"layers": 2}.
            serializer_options: its options.
            env_id: the environment's name, as for a run, which gives the names of its numbers; None: the Gymnasium
                id that it was made by. Without either, they are x0, x1, …

        Raises:
            UsageError: an unknown name or option, or an environment whose observations no serializer reads.
        """
        choice: dict[str, Any] = {
            "backbone": backbone,
            "serializer": serializer,
            "backbone_options": backbone_options,
            "serializer_options": serializer_options,
            "env_id": env_id,
        }
        gymnasium.utils.RecordConstructorArgs.__init__(self, **choice)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.reader = _reader(env.observation_space, _id(env.spec), **choice)
        self.observation_space = _space(self.reader)

    def observation(self, observation: Any) -> np.ndarray:
        """An observation of the environment → its features, float32 [d]."""
        features: np.ndarray = self.reader(np.array(as_array(self.env.observation_space, observation)[None])).features[
            0
        ]
        return features


class VectorFeatureObservation(VectorWrapper):
    """A vector environment; observations are float32 [num_envs, d], all of a step computed in one batch.

    In `AutoresetMode.SAME_STEP` the true last observations in `info["final_obs"]` are features too.
    """

    def __init__(
        self,
        env: VectorEnv,
        backbone: str = "bitnet",
        serializer: str | None = None,
        *,
        backbone_options: Mapping[str, Any] | None = None,
        serializer_options: Mapping[str, Any] | None = None,
        env_id: str | None = None,
    ):
        """Wraps `env`; arguments and errors are those of `FeatureObservation`.

        A `SyncVectorEnv` that resets in the same step is made to copy the observations of its environments: one that
        hands out the same array again and again would overwrite its last observation before it is read.

        Raises:
            UsageError: an `AsyncVectorEnv` of such environments, whose last observations are lost.
        """
        super().__init__(env)
        _copy_observations(env)
        self.reader = _reader(
            env.single_observation_space,
            _id(_spec_of_one(env)),
            backbone=backbone,
            serializer=serializer,
            backbone_options=backbone_options,
            serializer_options=serializer_options,
            env_id=env_id,
        )
        self.single_observation_space = _space(self.reader)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in each environment."""
        observations, info = self.env.reset(seed=seed, options=options)
        batch = as_batch(self.env.single_observation_space, observations, self.num_envs)
        return self.reader(batch).features, info

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Take a step in each environment."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        space, count = self.env.single_observation_space, self.num_envs
        batch, ended = as_batch(space, observations, count), np.flatnonzero(info.get("_final_obs", ()))
        if not ended.size:
            return self.reader(batch).features, rewards, terminated, truncated, info
        last = np.stack([as_array(space, info["final_obs"][index]) for index in ended])
        features = self.reader(np.concatenate([batch, last])).features
        final = np.full(count, None, object)
        for index, row in zip(ended, features[count:], strict=True):
            final[index] = row
        return features[:count], rewards, terminated, truncated, {**info, "final_obs": final}


def _reader(
    space: gymnasium.Space[Any],
    id: str | None,
    backbone: str,
    serializer: str | None,
    backbone_options: Mapping[str, Any] | None,
    serializer_options: Mapping[str, Any] | None,
    env_id: str | None,
) -> StateReader:
    """The reader of observations of `space`, for an environment made by the Gymnasium id `id`."""
    name = env_id or id or ANY_GYMNASIUM_ID
    values: dict[str, dict[str, Any]] = {
        "run": {"env": name, "backbone": backbone} | ({} if serializer is None else {"serializer": serializer}),
        "backbone": dict(backbone_options or {}),
        "serializer": dict(serializer_options or {}),
    }
    config = resolve(values)
    spec = _observation_spec(space, name, config)
    if name in gymnasium.registry:
        config = _chosen(config, len(spec.fields))
    key = (os.getpid(), config.serializer, config.serializer_options, config.backbone, config.backbone_options, spec)
    reader = _shared.get(key)  # never one from before a fork, whose threads are gone
    if reader is None:
        reader = build_reader(config, spec)
        if reader.trainable:
            raise UsageError(
                f'backbone "{backbone}" is trained by the algorithm of a run and has no fixed features: '
                'choose a frozen one, such as "bitnet", or pass the environment itself to the other library'
            )
        _shared[key] = reader
    return reader


def _chosen(config: Config, numbers: int) -> Config:
    """With the options that are chosen by evidence, once for each environment, serializer and backbone. Those of the
    serializer are left out where another wrapper has changed how many numbers a state has.
    """
    key = config.run.env, config.serializer, config.serializer_options, config.backbone, config.backbone_options
    if key not in _choices:
        _choices[key], lines = choose(config)
        for line in lines:
            tell(line)
    chosen, own = _choices[key], config.serializer_options
    if chosen.serializer_options == own or numbers == len(load_environment(config.run.env).observation_spec().fields):
        return chosen
    return attrs.evolve(chosen, serializer_options=own)


def _observation_spec(space: gymnasium.Space[Any], name: str, config: Config) -> ObservationSpec:
    """What is known of the numbers and texts in `space`, by the environment's name."""
    from bitrl.core.environments.observation_specs import spec_of_space

    plain = isinstance(space, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
    if plain and (config.environment.name == ANY_GYMNASIUM_ID or name in gymnasium.registry):
        return spec_of_space(space, name)
    if name == ANY_GYMNASIUM_ID and _is_self_explanatory(space):
        return spec_of_space(space, name)
    if name == ANY_GYMNASIUM_ID:
        raise UsageError(
            f"observations of a {type(space).__name__} space are supported only with the environment's name: "
            f'give it as env_id="…", a name from {program()} list'
        )
    environment = load_environment(name)
    ours = environment.make()
    ours.close()
    if ours.observation_space != space:
        raise UsageError(
            f"environment {name}: its observation space is not the one that serializers expect: make it with "
            f'bitrl.load_environment("{name}").make()'
        )
    return environment.observation_spec()


def _is_self_explanatory(space: gymnasium.Space[Any]) -> bool:
    """Whether all of a space is read, and it has not the form of bitrl's own environments, which know more of it: a
    state with its admissible actions, or texts beside "numbers".
    """
    if isinstance(space, gymnasium.spaces.Dict) and (splits(tuple(space)) or "numbers" in space.spaces):
        return False
    return all(isinstance(leaf, READ) for _, leaf in leaves_of(space))


def _copy_observations(env: VectorEnv) -> None:
    inner = env.unwrapped
    if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
        return
    if isinstance(inner, SyncVectorEnv) and not isinstance(inner, ArrayVectorEnv):  # which does so itself
        inner.envs = [gymnasium.wrappers.TransformObservation(each, copy.deepcopy, None) for each in inner.envs]
    elif isinstance(inner, AsyncVectorEnv):
        one = inner.env_fns[0]()
        first = one.reset(seed=0)[0]
        again = one.reset(seed=0)[0]
        one.close()
        if isinstance(first, np.ndarray) and np.shares_memory(first, again):
            raise UsageError(
                "the environments hand out one array for all observations, and an AsyncVectorEnv that resets in the "
                "same step overwrites the last one: return copies of it, or use a SyncVectorEnv"
            )


def _spec_of_one(env: VectorEnv) -> Any:
    """What Gymnasium knows of how the environments in `env` were made, or None."""
    inner = env.unwrapped
    if env.spec is None and isinstance(inner, SyncVectorEnv):
        return inner.envs[0].spec
    if env.spec is None and isinstance(inner, AsyncVectorEnv):
        one = inner.env_fns[0]()
        one.close()
        return one.spec
    return env.spec


def _id(spec: Any) -> str | None:
    """The Gymnasium id that an environment was made by, if it has one."""
    return spec.id if spec is not None and spec.id in gymnasium.registry else None


def _space(reader: StateReader) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (reader.width,), np.float32)
