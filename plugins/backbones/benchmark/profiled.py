"""What `bitrl profile` watches at work: an exported agent, or a run's newest checkpoint in its environment.

One state at a time, with greedy actions. Parts are wrapped with timers once they are built. Only a run needs what
training needs (Gymnasium and the environment). Does not know what is measured beside the time of an act.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import numpy as np

from bitrl.core.acting.agents import Agent, read
from bitrl.core.acting.contracts import calling
from bitrl.core.acting.nested import taken_apart
from bitrl.core.acting.states import StateReader
from bitrl.core.errors import UsageError
from bitrl.core.registry import registry
from bitrl.plugins.backbones.benchmark.split_time import Split
from bitrl.plugins.backbones.language_model import LanguageModel

if TYPE_CHECKING:
    import gymnasium

PARTS = ("serialize", "tokenize", "encode", "heads")
"""Of an act: the serializer, the tokenizer, the backbone with its cache, and all else: the policy, and checks."""


class Profiled(Protocol):
    """Something that acts, one state at a time."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it is, as plain data: env, step, serializer, backbone, cache …"""

    @property
    def episodes(self) -> int | None:
        """How many have ended; None: it has no environment."""

    def act(self) -> Mapping[str, float]:
        """Choose an action for the next observation → its seconds, by part (`PARTS`)."""

    def advance(self) -> None:
        """Let the environment take the action, where there is one."""

    def close(self) -> None:
        """Close the environment."""


def profiled(place: Path, options: Mapping[str, Any]) -> Profiled:
    """The agent in a file, or the run in a directory, ready to act; `options` are the backbone's, of an agent alone.

    Raises:
        UsageError: neither is there, it cannot act here, or a run is given options. RunFailed: it is damaged.
    """
    if not place.is_dir():
        return ProfiledAgent(place, options)
    if options:
        raise UsageError(f"{place}: a run acts with its own options: leave out -o, or export it and profile the agent")
    return ProfiledRun(place)


class ProfiledAgent:
    """An exported agent, which gets the observations in its file, again and again. Its cache is off: it would know
    them all.
    """

    episodes = None

    def __init__(self, path: Path, options: Mapping[str, Any]):
        contents = read(path)
        agent = Agent(contents, {**_without_cache(contents.meta), **options}, typed=True)
        self._split = watch(agent.reader)
        self._act = agent.act if agent.history == 1 else agent.episode().act
        self._observations = cycle(agent.examples)
        named = {part: (agent.facts[part] or {}).get("name") for part in ("serializer", "backbone")}
        self.facts = {
            "agent": str(path),
            "env": agent.facts.get("env"),
            "step": agent.facts.get("step"),
            **named,
            **engine_facts(agent.reader),
        }

    def act(self) -> Mapping[str, float]:
        """See `Profiled`."""
        observation = next(self._observations)
        return self._split.of(lambda: self._act(observation))

    def advance(self) -> None:
        """Its environment is elsewhere."""

    def close(self) -> None:
        """There is nothing to close."""


class ProfiledRun:
    """The newest checkpoint of a run, in one of its environments for evaluation, with its cache."""

    episodes: int

    def __init__(self, directory: Path):
        from bitrl.core.environments.action_checks import checked_actions
        from bitrl.core.environments.crashes import reporting
        from bitrl.core.environments.observations import as_array
        from bitrl.core.runs.parts import EVALUATION, spawn_seeds
        from bitrl.core.runs.progress import progress_display
        from bitrl.core.runs.store import require_run
        from bitrl.core.runs.trained import trained

        require_run(directory)
        with progress_display(quiet=True) as warned:
            config, parts, self._algorithm, _ = trained(directory, warned)
        self._reader, self._checked, self._as_array = parts.reader, checked_actions, as_array
        self._split = watch(parts.reader)
        self._env: gymnasium.Env[Any, Any] = reporting(parts.environment.make_for_evaluation, parts.environment.id)()
        [seed] = spawn_seeds(config.run.seed, EVALUATION, 1)
        self._observation = self._env.reset(seed=seed)[0]
        self._most, self._length, self.episodes = config.run.eval_max_steps, 0, 0
        self._action: Any = None
        run = config.run
        self.facts = {
            "run": str(directory),
            "env": run.env,
            "step": self._algorithm.step,
            "serializer": run.serializer,
            "backbone": run.backbone,
            **engine_facts(parts.reader),
        }

    def act(self) -> Mapping[str, float]:
        """See `Profiled`."""
        return self._split.of(self._choose)

    def _choose(self) -> None:
        collector = self._algorithm.task.collector
        observations: np.ndarray = self._as_array(self._env.observation_space, self._observation)[None]
        with calling(collector.who):
            chosen = self._algorithm.act(self._reader(observations))
        [self._action] = self._checked(collector.who, collector.action_space, chosen, 1)

    def advance(self) -> None:
        """See `Profiled`; a new episode begins where one has ended."""
        given = taken_apart(self._action) if isinstance(self._action, np.void) else self._action
        self._observation, _, terminated, truncated, _ = self._env.step(given)
        self._length += 1
        if terminated or truncated or self._length == self._most:
            self.episodes += 1
            self._length = 0
            self._observation = self._env.reset()[0]

    def close(self) -> None:
        """See `Profiled`."""
        self._env.close()


def watch(reader: StateReader) -> Split:
    """Wrap the parts of an act with timers."""
    split = Split(PARTS[:-1], PARTS[-1])
    timed: Any = reader  # whose methods are wrapped where it stands
    timed.write = split.timed("serialize", reader.write)
    timed.write_window = split.timed("serialize", reader.write_window)
    timed.features = split.timed("encode", reader.features)
    timed.critic_features = split.timed("encode", reader.critic_features)
    if isinstance(reader.backbone, LanguageModel):
        tokens: Any = reader.backbone.text_tokens
        tokens.ids = split.timed("tokenize", tokens.ids)
        tokens.located = split.timed("tokenize", tokens.located)
    return split


def engine_facts(reader: StateReader) -> dict[str, Any]:
    """Of a language model: its file's name, format, instruction set, threads, and the size of its cache."""
    model = reader.backbone
    if not isinstance(model, LanguageModel):
        return {}
    engine = model.engine
    return {
        "format": engine.format,
        "isa": engine.isa,
        "threads": engine.threads,
        "cache_mb": model.cache.budget / 2**20,
    }


def _without_cache(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The option that turns the cache of an agent's backbone off, if it has one."""
    if facts["backbone"] is None:
        return {}
    record = registry().find("backbone", facts["backbone"]["name"], built_in_first=True)
    return {"cache_mb": 0} if "cache_mb" in attrs.fields_dict(record.options) else {}
