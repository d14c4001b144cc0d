"""A run's memory limit (`run.memory_limit`): planned for before anything large is allocated, then kept to.

The plan has a number for each part. What records declare is computed (`BackboneRecord.memory`,
`AlgorithmRecord.memory`); Python, environments and parts that declare nothing are measured, as growth of resident
memory. What is counted is this process, without those that environments start.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from bitrl.core import process_memory
from bitrl.core.acting.contracts import calling
from bitrl.core.acting.loading import named
from bitrl.core.acting.states import StateReader
from bitrl.core.config import Config
from bitrl.core.environments import crashes, replay
from bitrl.core.environments.checked import checker
from bitrl.core.environments.loading import build_environment
from bitrl.core.environments.wrapped_environment import WrappedEnvironment
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Algorithm, BoundedCache, CachingBackbone
from bitrl.core.process_memory import BackboneMemory, LearningMemory, LearningSizes, in_mb
from bitrl.core.runs.episodes import BATCH
from bitrl.core.wording import setting

PYTHON = "Python and libraries"
TEXT_BYTES = 300
"""Of a state's text, before one is written."""
LEAST_CACHE = process_memory.MB
"""A smaller one is left out."""


@attrs.frozen
class MemoryPlan:
    """Bytes that a run will take, by part.

    Attributes:
        limit: that it may take.
        parts: "Python and libraries", "model", "environments" and so on; "cache" is what the limit leaves of what was
            asked for (`asked`).
    """

    limit: int
    parts: Mapping[str, int]
    asked: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, int]:
        """The limit and all parts."""
        return {"limit": self.limit, **self.parts}

    def __str__(self) -> str:
        told = ", ".join(f"{name} {in_mb(size)}" for name, size in self.parts.items())
        smaller = f" (made smaller, from {in_mb(self.asked)})" if self.parts["cache"] < self.asked else ""
        return f"memory: {in_mb(self.total)} of {in_mb(self.limit)} planned: {told}{smaller}"


class MemoryLimit:
    """Plans when it is made, from a configuration whose parts are not built yet; `measure` and `complete` follow while
    they are, `exceeded` while the run goes on. Without a limit, none of them does anything.

    Attributes:
        plan: None without a limit.
    """

    def __init__(self, config: Config, *, learns: bool = True):
        """`learns`: it collects rollouts, other than an evaluation alone.

        Raises:
            UsageError: it cannot fit; the message has the numbers.
        """
        self.config, self.learns = config, learns
        self.limit = None if config.run.memory_limit is None else process_memory.parse_size(config.run.memory_limit)
        self.plan: MemoryPlan | None = None
        self._told = False
        if self.limit is None:
            return
        backbones = [(config.backbone, config.backbone_options)]
        if config.critic_backbone is not None:
            critics = config.critic_backbone, config.critic_backbone_options
            backbones += [critics] if critics != backbones[0] else []
        for loaded in (*(record for record, _ in backbones), config.serializer, config.algorithm):
            loaded.load()
        says = [record.load_memory() for record, _ in backbones]
        self._learning = config.algorithm.load_memory()
        self._measured = {PYTHON: process_memory.resident()}
        numbers, state_bytes, space = self._probe_environments()
        self._declared: list[BackboneMemory | None] = []
        for (record, options), declares in zip(backbones, says, strict=True):
            with calling(named("backbone", record)):
                self._declared.append(None if declares is None else declares(options, numbers))
        widths = [0 if each is None else each.width for each in self._declared]
        self._refuse_choosing()
        self.plan = self._planned(
            LearningSizes(
                num_envs=config.run.num_envs,
                width=widths[0],
                critic_width=widths[1] if widths[1:] else None,
                state_bytes=state_bytes + config.run.history * TEXT_BYTES * (config.serializer.emits == "text"),
                action_space=space,
            )
        )
        self._before, self._peak = process_memory.resident(), process_memory.peak()

    def measure(self, part: str) -> None:
        """Resident memory has grown by `part` ("model", "learner") since the last call."""
        if self.limit is not None:
            now = process_memory.resident()
            self._measured[part] = max(0, now - self._before)
            self._before = now

    def complete(self, algorithm: Algorithm) -> None:
        """Plan again with what is known now that all parts are built, and let caches take what is left.

        Raises:
            UsageError: it cannot fit.
        """
        if self.limit is None:
            return
        collector, reader = algorithm.task.collector, algorithm.task.reader
        observations, inputs = collector.states.observations, collector.states.inputs
        written = inputs.nbytes if isinstance(inputs, np.ndarray) else sum(map(sys.getsizeof, inputs))
        trained = reader.trainable and reader.learner is None  # an algorithm reads its vectors, not features
        sizes = LearningSizes(
            num_envs=collector.num_envs,
            width=collector.states.vectors.shape[1] if trained else reader.width,
            critic_width=None if reader.critic is None else reader.critic_width,
            state_bytes=(observations.nbytes + written) // len(observations),
            action_space=collector.action_space,
        )
        self.plan = self._planned(sizes, built=True)
        caches = _caches(reader)
        for cache in caches:
            share = cache.budget / max(1, sum(each.budget for each in caches))
            cache.limit(min(cache.budget, int(share * self.plan.parts["cache"])))
        self._peak = process_memory.peak()

    def exceeded(self, reader: StateReader) -> tuple[str, str]:
        """What was done about a limit that was reached since the last call, and by how much it is exceeded all the
        same: a line each, empty where there is nothing to say. Caches give way first.
        """
        if self.limit is None:
            return "", ""
        now, most = process_memory.resident(), process_memory.peak()
        taken = max(now, most if most > self._peak else 0)
        self._peak = most
        if taken <= self.limit:
            return "", ""
        caches = _caches(reader)
        before = sum(cache.bytes for cache in caches)
        kept = before
        while kept > 0 and before - kept < taken - self.limit:
            kept = 0 if kept < 2 * LEAST_CACHE else kept // 2
        for cache in caches:
            cache.limit(min(cache.budget, int(cache.bytes / max(1, before) * kept)))
        process_memory.give_back()
        told = f"memory reached {in_mb(taken)} of {in_mb(self.limit)} ({setting('memory_limit')})"
        gave_way = ""
        if before and not self._told:
            gave_way = f"{told}: the feature cache gives way, {in_mb(before)} to {in_mb(kept)}"
            self._told = True
        over = max(process_memory.resident(), taken - (before - kept)) - self.limit
        return gave_way, f"{told}, {in_mb(over)} too much with no cache left" if over > 0 else ""

    def more(self) -> str:
        """A limit that would have been enough, with a tenth to spare: `340MB`."""
        return f"{-(-max(process_memory.peak(), self.limit or 0) * 11 // 10 // process_memory.MB)}MB"

    def summary(self) -> dict[str, Any]:
        """The plan for summary.json, in MB."""
        if self.plan is None:
            return {}
        parts = {name: round(size / process_memory.MB, 1) for name, size in self.plan.parts.items()}
        return {"memory_plan_mb": {"limit": round(self.plan.limit / process_memory.MB, 1), **parts}}

    # ---- planning ----

    def _probe_environments(self) -> tuple[int | None, int, Any]:
        """Make two environments as the run will and close them: how many numbers a state has, bytes of an observation,
        and the action space.
        """
        config = self.config
        with crashes.making(config.run.env):
            environment = build_environment(config.environment, config.env_options, config.run.env)
        fields = environment.observation_spec().fields
        environment = WrappedEnvironment(environment, checker(environment.id, [field.name for field in fields]))
        grown, opened = [], []
        try:
            for seed in range(2):
                before = process_memory.resident()
                opened.append(replay.vectorise(crashes.reporting(environment.make, environment.id), 1))
                observations = opened[-1].reset(seed=[seed])[0]
                grown.append(max(0, process_memory.resident() - before))
        finally:
            for envs in opened:
                envs.close()
        several = max(config.run.num_envs, min(BATCH, config.run.eval_episodes)) - 1
        self._measured["environments"] = grown[0] + several * grown[1]
        return len(fields) or None, observations.nbytes * config.run.history, opened[0].single_action_space

    def _refuse_choosing(self) -> None:
        """Refuse what does not fit before the run begins, where options are left to evidence."""
        for declared in self._declared:
            if declared is not None and declared.before:
                parts = {**self._measured, "model": declared.model, "choosing its readout": declared.before}
                if sum(parts.values()) > (self.limit or 0):
                    raise self._too_little(parts, f"or set {setting('backbone.readout', 'set')}")

    def _planned(self, sizes: LearningSizes, built: bool = False) -> MemoryPlan:
        """The plan, with as much cache as fits; where all is `built`, with what is resident beyond it."""
        assert self.limit is not None
        declared = [each for each in self._declared if each is not None]
        model, asked = sum(each.model for each in declared), sum(each.cache for each in declared)
        if len(declared) < len(self._declared):
            model = max(model, self._measured.get("model", 0))
        learning = LearningMemory(learner=self._measured.get("learner", 0), rollout=0)
        if self._learning is not None:
            with calling(named("algorithm", self.config.algorithm)):
                learning = self._learning(self.config.algo_options, sizes)
        parts = {PYTHON: self._measured[PYTHON], "model": model, "environments": self._measured["environments"]}
        parts["learner"] = learning.learner
        if built:
            parts["other"] = max(0, process_memory.resident() - sum(parts.values()))
        if self.learns:
            parts["rollout"] = learning.rollout
        left = self.limit - sum(parts.values())
        if left < 0:
            raise self._too_little(parts)
        cache = min(asked, left)
        return MemoryPlan(self.limit, {**parts, "cache": cache if cache == asked or cache >= LEAST_CACHE else 0}, asked)

    def _too_little(self, parts: Mapping[str, int], advice: str = "") -> UsageError:
        told = ", ".join(f"{name} {in_mb(size)}" for name, size in parts.items() if size)
        run = self.config.run
        advice = advice or (
            f"or take fewer run.num_envs (now {run.num_envs}), a smaller algo.rollout_steps or a smaller model"
        )
        return UsageError(
            f"run.memory_limit: {run.memory_limit} is {in_mb(sum(parts.values()) - (self.limit or 0))} too little, "
            f"without a cache of features: {told}: raise it ({setting('memory_limit', 'SIZE')}), {advice}"
        )


def _caches(reader: StateReader) -> list[BoundedCache]:
    backbones = [each for each in (reader.backbone, reader.critic) if isinstance(each, CachingBackbone)]
    return [each.cache for each in backbones if isinstance(each.cache, BoundedCache)]
