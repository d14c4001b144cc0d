"""Training speed, end to end, and where the time goes: `bitrl bench env`.

A run is built as usual and its parts are then wrapped with timers, so nothing else knows of them. A round is one update
of the algorithm, after which its texts are encoded again without training: those whose features were computed, by the
encoder alone, and all whose features were requested, with the cache and without it. A machine's speed drifts, so ratios
are taken within a round, and their median over the rounds is reported.

Knows runs, and the parts of a language model; of any other backbone, `encode` alone. Does not print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.cache import Cache
from bitrl.core.acting.states import StateReader
from bitrl.core.config import Config
from bitrl.core.environments.evidence import choose
from bitrl.core.interfaces import Backbone
from bitrl.core.runs.parts import begin, build
from bitrl.plugins.backbones.benchmark.split_time import Split, Substitute
from bitrl.plugins.backbones.language_model import LanguageModel

Batches = list[Sequence[str]]

PARTS = ("environment", "text", "cache", "tokenizer", "encoder", "learner")
"""What time is attributed to: environment steps, the serializer, cache look-ups, tokenising, the model, all else."""

REST = PARTS[-1]


class WatchedBackbone(Substitute):
    """A backbone whose time is attributed to parts and whose texts are recorded.

    Attributes:
        model: the language model, whose cache and tokenizer are timed separately; None: any other backbone.
        asked: the batches of texts whose features were requested.
        computed: those of them whose features were not cached, batch by batch.
    """

    width: int
    identity: Mapping[str, Any]

    def __init__(self, backbone: Backbone, split: Split) -> None:
        super().__init__(backbone)
        self.model = backbone if isinstance(backbone, LanguageModel) else None
        self.split = split
        self.forget()
        self._encode = split.timed("cache" if self.model else "encoder", backbone.encode)
        if self.model is not None:
            tokens: Any = self.model.text_tokens
            tokens.ids = split.timed("tokenizer", tokens.ids)
            tokens.located = split.timed("tokenizer", tokens.located)
            self.keep_in(self.model.cache)

    def forget(self) -> None:
        """Clear the records."""
        self.asked: Batches = []
        self.computed: Batches = []

    def encode(self, inputs: Any) -> np.ndarray:
        """As the backbone's."""
        self.asked.append(inputs)
        if self.model is None:
            self.computed.append(inputs)
        return self._encode(inputs)

    def keep_in(self, cache: Cache) -> None:
        """Let the language model use `cache` from now on."""

        def rows(texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
            def compute(missing: Sequence[str]) -> np.ndarray:
                self.computed.append(missing)
                return encode(missing)

            return cache.rows(texts, self.split.timed("encoder", compute))

        assert self.model is not None
        watched: Any = Substitute(cache, rows=rows)
        self.model.cache = watched


@attrs.frozen
class Round:
    """Measurements of one update, and of encoding its texts again. Times are in seconds.

    Attributes:
        steps: environment steps taken.
        asked, computed: how many texts' features were requested, and how many were computed.
        training: time of the update, by part.
        alone: time of encoding the computed texts again, by part.
        cached, uncached: time of encoding the requested texts again, with and without the cache; None: there is none.
    """

    steps: int
    asked: int
    computed: int
    training: dict[str, float]
    alone: dict[str, float]
    cached: float | None
    uncached: float | None


class MeasuredRun:
    """A run's parts with timers: call `update` as a run does, or `round` to measure.

    Raises UsageError where something cannot be built.
    """

    def __init__(self, config: Config) -> None:
        self.split = Split(PARTS[:-1], REST)
        parts = build(config)
        reader = parts.reader
        serializer: Any = reader.serializer
        timed: Any = Substitute(serializer, batch=self.split.timed("text", serializer.batch))
        self.backbone = WatchedBackbone(reader.backbone, self.split)
        model = self.backbone.model
        self.cache: Cache | None = model.cache if model is not None and model.cache.budget else None
        # It gets the texts that the run's own cache gets, after each round.
        self._follower = Cache(self.cache.budget) if self.cache is not None else None
        watched = StateReader(
            timed,
            self.backbone,
            None if reader.critic is None else WatchedBackbone(reader.critic, self.split),
            trainable=reader.trainable,
            critic_trainable=reader.critic_trainable,
        )
        self.algorithm = begin(config, attrs.evolve(parts, reader=watched))
        self.envs = self.algorithm.task.collector.envs
        envs: Any = self.envs  # whose method is wrapped where it stands
        envs.step = self.split.timed("environment", envs.step)

    def update(self) -> dict[str, float]:
        """The algorithm's next update, and its metrics."""
        return self.algorithm.update()

    def warm_up(self) -> None:
        """An update that is not measured: it allocates scratch memory and fits the standardisation of features."""
        self.backbone.forget()
        self.update()
        if self._follower is not None:
            self._again(self.backbone.asked, self._follower)

    def round(self) -> Round:
        """Measure one update, and encoding its texts again."""
        self.backbone.forget()
        before = self.algorithm.step
        training = self.split.of(self.update)
        asked, computed = self.backbone.asked, self.backbone.computed
        alone = self._again(computed, Cache(0))
        cached = uncached = None
        if self._follower is not None:
            cached = sum(self._again(asked, self._follower).values())
            uncached = sum(self._again(asked, Cache(0)).values())
        return Round(
            steps=self.algorithm.step - before,
            asked=sum(map(len, asked)),
            computed=sum(map(len, computed)),
            training=training,
            alone=alone,
            cached=cached,
            uncached=uncached,
        )

    def _again(self, batches: Batches, cache: Cache) -> dict[str, float]:
        """Seconds, by part, of encoding `batches` with `cache` as the language model's."""
        self.backbone.forget()  # `batches` may be its records, which must not grow meanwhile

        def encode() -> None:
            for batch in batches:
                self.backbone.encode(batch)

        model = self.backbone.model
        if model is None:
            return self.split.of(encode)
        kept = model.cache
        self.backbone.keep_in(cache)
        try:
            return self.split.of(encode)
        finally:
            model.cache = kept

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def measure(config: Config, steps: int) -> dict[str, Any]:
    """Train for at least `steps` environment steps after one warm-up update → the measurements, as plain data.

    `seconds`, by part, add up to the training time, on which `steps_per_second` is based; writing to disk is excluded.
    `encoder`: texts per second of tokenizer and model during training and standalone; `share_of_alone`, the first
    relative to the second, and `share_of_training`, their standalone time relative to all training time. `cache`:
    `hit_rate`, features per second with and without it, and `gain`, the ratio of the two. `encoder` and `cache` are
    None where there is none. `chosen` has a line about each option that was left to evidence, as a run chooses it.

    Raises:
        UsageError: something cannot be built. RunFailed: training cannot go on.
    """
    config, chosen = choose(config)
    training = MeasuredRun(config)
    try:
        training.warm_up()
        rounds = [training.round()]
        while sum(each.steps for each in rounds) < steps:
            rounds.append(training.round())
    finally:
        training.close()
    taken = sum(each.steps for each in rounds)
    seconds = {part: sum(each.training[part] for each in rounds) for part in PARTS}
    model = training.backbone.model
    return {
        "env": config.run.env,
        "serializer": config.run.serializer,
        "backbone": config.run.backbone,
        "algo": config.run.algo,
        "seed": config.run.seed,
        "num_envs": config.run.num_envs,
        "threads": model.engine.threads if model is not None else None,
        "steps": taken,
        "rounds": len(rounds),
        "steps_per_second": taken / sum(seconds.values()),
        "seconds": seconds,
        "encoder": _encoder(rounds),
        "cache": _cache(rounds) if training.cache is not None else None,
        "chosen": chosen,
    }


def _encoder(rounds: Sequence[Round]) -> dict[str, float] | None:
    rounds = [each for each in rounds if each.computed]
    if not rounds:
        return None

    def spent(seconds: dict[str, float]) -> float:
        return seconds["tokenizer"] + seconds["encoder"]

    return {
        "texts": sum(each.computed for each in rounds),
        "texts_per_second": median(each.computed / spent(each.training) for each in rounds),
        "texts_per_second_alone": median(each.computed / spent(each.alone) for each in rounds),
        "share_of_alone": median(spent(each.alone) / spent(each.training) for each in rounds),
        "share_of_training": median(spent(each.alone) / sum(each.training.values()) for each in rounds),
    }


def _cache(rounds: Sequence[Round]) -> dict[str, float] | None:
    pairs = [(each.asked, each.cached, each.uncached) for each in rounds if each.cached and each.uncached]
    if not pairs:
        return None
    asked = sum(each.asked for each in rounds)
    return {
        "hit_rate": 1 - sum(each.computed for each in rounds) / asked,
        "features_per_second": median(count / cached for count, cached, _ in pairs),
        "features_per_second_without": median(count / uncached for count, _, uncached in pairs),
        "gain": median(uncached / cached for _, cached, uncached in pairs),
    }
