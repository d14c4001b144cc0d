"""Builds what a configuration names: the parts of a run, its environments and its algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.acting.contracts import calling, check_state, plain_identity
from bitrl.core.acting.loading import build_reader, named
from bitrl.core.acting.states import StateReader
from bitrl.core.config import Config, check_actions, check_commands
from bitrl.core.environments import crashes, replay
from bitrl.core.environments.checked import checker
from bitrl.core.environments.collector import Collector
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.history_wrapper import HistoryWrapper
from bitrl.core.environments.loading import build_environment
from bitrl.core.environments.process_settings import check_process_settings
from bitrl.core.environments.wrapped_environment import WrappedEnvironment
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Algorithm, CommandSerializer, Task
from bitrl.core.options import as_dict
from bitrl.core.runs.checkpoint_checks import restoring
from bitrl.core.wording import setting

# Every use of randomness has its own stream, so drawing more from one never changes another.
ENVIRONMENTS, ALGORITHM, EVALUATION, EVALUATION_WHILE_TRAINING = 0, 1, 2, 3


@attrs.frozen
class Parts:
    """The built parts of a configuration: the environment, and the reader of its states."""

    environment: Environment
    reader: StateReader


def build(config: Config) -> Parts:
    """Build a configuration's environment, serializer and backbones.

    Raises:
        UsageError: one of them cannot be built; the message names it and says why.
    """
    with crashes.making(config.run.env):
        environment = build_environment(config.environment, config.env_options, config.run.env)
        known = environment.observation_spec()
        spec = attrs.evolve(known, env_options=as_dict(config.env_options))
    k = config.run.history
    if spec.commands:
        check_commands(config)
    reader = build_reader(config, spec, k)
    if spec.commands and config.serializer.emits == "vector" and not isinstance(reader.serializer, CommandSerializer):
        raise UsageError(
            f'serializer "{config.serializer.name}" writes no commands, the actions of {config.run.env}: use '
            f"{setting('serializer', 'hash')}, or a serializer and a backbone of text"
        )
    environment = WrappedEnvironment(environment, checker(environment.id, [field.name for field in spec.fields]), known)
    if k > 1:
        environment = WrappedEnvironment(environment, lambda env: HistoryWrapper(env, k))
    return Parts(environment, reader)


def begin(config: Config, parts: Parts, checkpoint: Checkpoint | None = None, *, to_learn: bool = True) -> Algorithm:
    """The algorithm and its environments (`algorithm.task.collector`), as a run of `config` starts them, or from
    `checkpoint`. Without `to_learn` (to act only) environments are reset, not restored.
    """
    group_size(config)
    envs = replay.vectorise(crashes.reporting(parts.environment.make, parts.environment.id), config.run.num_envs)
    with closed_unless_done(envs):
        return _begun(config, parts, envs, checkpoint, to_learn)


@contextmanager
def closed_unless_done(envs: VectorEnv) -> Iterator[None]:
    """Within, an error or a signal closes the environments."""
    try:
        yield
    except BaseException:
        crashes.close_quietly(envs)
        raise


def _begun(
    config: Config, parts: Parts, envs: replay.ArrayVectorEnv, checkpoint: Checkpoint | None, to_learn: bool
) -> Algorithm:
    """See `begin`."""
    check_actions(config, kind_of(envs.single_action_space))
    if checkpoint is None or not to_learn:
        count, group = config.run.num_envs, group_size(config)
        seeds: list[int | None] = [
            each for each in spawn_seeds(config.run.seed, ENVIRONMENTS, count // group) for _ in range(group)
        ]
        observations = envs.reset(seed=seeds)[0]
    else:
        observations = checkpoint.arrays["observations"]
        with restoring(checkpoint, f"environment {parts.environment.id}"):
            replay.restore(envs, checkpoint.arrays, checkpoint.meta["starts"], observations)
    if to_learn:
        check_process_settings(parts.environment.id, gradients=parts.reader.learner is not None)
    if checkpoint is not None and config.serializer.learns:
        serializer: Any = parts.reader.serializer
        with restoring(checkpoint, named("serializer", config.serializer)):
            serializer.load_state(with_prefix(checkpoint.arrays, "serializer."))
    [seed] = spawn_seeds(config.run.seed, ALGORITHM, 1)
    who = named("algorithm", config.algorithm)
    collector = Collector(envs, parts.reader, observations, who=who)
    task = Task(collector=collector, reader=parts.reader, seed=seed, steps=config.run.steps)
    with calling(who):
        algorithm: Algorithm = config.algorithm.load()(config.algo_options, task)
        if checkpoint is not None:
            with restoring(checkpoint, who):
                collector.load_state(_collected(checkpoint))
                algorithm.load_state(with_prefix(checkpoint.arrays, "algorithm."))
                if algorithm.step != checkpoint.meta["step"]:
                    raise ValueError(f"it counts {algorithm.step:,} steps, not {checkpoint.meta['step']:,}")
    return algorithm


def checkpoint_of(
    config: Config, algorithm: Algorithm, updates: int, covered: Mapping[str, Any], evaluation_due: bool = False
) -> Checkpoint:
    """Everything that the next update depends on, what the store says of the rows written so far (`covered`), and
    whether an evaluation is to be done before that update.
    """
    collector = algorithm.task.collector
    actions, starts = replay.save(collector.envs)
    with calling(collector.who):
        state = algorithm.state()
    arrays = {f"algorithm.{name}": array for name, array in check_state(collector.who, state).items()}
    arrays |= {f"collector.{name}": array for name, array in collector.state().items()}
    arrays |= {f"serializer.{name}": array for name, array in learned_by_serializer(config, algorithm).items()}
    arrays |= {"observations": collector.states.observations, **actions}
    meta = {"step": algorithm.step, "updates": updates, "starts": starts, "metrics": covered, "options": config.kept()}
    return Checkpoint(arrays, {**meta, "evaluation_due": True} if evaluation_due else meta)


def learned_by_serializer(config: Config, algorithm: Algorithm) -> Mapping[str, np.ndarray]:
    """What the serializer learned from states, as named arrays; nothing for one that does not learn."""
    if not config.serializer.learns:
        return {}
    serializer: Any = algorithm.task.reader.serializer
    who = named("serializer", config.serializer)
    with calling(who):
        state = serializer.state()
    return check_state(who, state)


def identities(parts: Parts) -> dict[str, dict[str, Any]]:
    """The identity of the policy's backbone, and of the critic's where it has its own."""
    reader = parts.reader
    found = {"features": plain_identity(reader.names["backbone"], reader.backbone.identity)}
    if reader.critic is not None:
        found["critic_features"] = plain_identity(reader.names["critic"], reader.critic.identity)
    return found


def identities_of_run(parts: Parts) -> dict[str, dict[str, Any]]:
    """`identities`, and that of the environment where it has one."""
    environment = plain_identity(f"environment {parts.environment.id}", parts.environment.identity)
    return {**identities(parts), **({"environment": environment} if environment else {})}


def kind_of(space: gymnasium.Space[Any]) -> str:
    """What Gymnasium calls a kind of space: the name of its class, or of the one that it is made from."""
    own = (each.__name__ for each in type(space).__mro__ if each.__module__.startswith("gymnasium.spaces."))
    return next(own, type(space).__name__)


def group_size(config: Config) -> int:
    """How many successive environments begin alike (AlgorithmRecord.group_option).

    Raises:
        UsageError: the run's environments are not a whole number of such groups.
    """
    name, count = config.algorithm.group_option, config.run.num_envs
    if name is None:
        return 1
    size = int(getattr(config.algo_options, name))
    if count % size:
        raise UsageError(
            f"run.num_envs: {count} environments are no whole number of groups of {size} (algo.{name}): use "
            f"{setting('run.num_envs', str(max(1, count // size) * size))}"
        )
    return size


def spawn_seeds(seed: int, use: int, count: int) -> list[int]:
    """`count` seeds for one use of the run's randomness."""
    return [int(each) for each in np.random.SeedSequence([seed, use]).generate_state(count)]


def _collected(checkpoint: Checkpoint) -> Mapping[str, np.ndarray]:
    """The collector's state in a checkpoint. Before bitrl 0.2 PPO saved it with its own."""
    own = with_prefix(checkpoint.arrays, "collector.")
    if own:
        return own
    return {"steps": np.array(checkpoint.meta["step"]), **with_prefix(checkpoint.arrays, "algorithm.episodes.")}
