"""What serializers, backbones, algorithms and loggers look like to each other. Shapes: n states, k numbers a
vector, d features.

Data goes one way: environment → Serializer → Backbone → Algorithm → environment. A component's `target`
(records.py) is called as its class docstring here says. What a backbone can do beyond features it declares in its
record (`provides`), and has the members of the protocol that stands for it here (`PROTOCOLS`). Environments, which need
Gymnasium, are described in environments/environment.py.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, runtime_checkable

import attrs

from bitrl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bitrl.core.acting.policies import Policy
    from bitrl.core.acting.states import StateReader, States
    from bitrl.core.environments.collector import Collector


@attrs.frozen
class Field:
    """One number of an observation: its name, the finite bounds it typically stays in (None: unknown) and its unit.

    `decimals` is how many digits after the point say all there is to say (0 for a count); None: as the bounds suggest.
    """

    name: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    decimals: int | None = None


@attrs.frozen
class ObservationSpec:
    """What a serializer may know of an environment's observations.

    `fields` has one entry a number, in the order of the flattened Box observation; a Discrete observation has one
    field and `discrete` says how many values it takes. Where `texts` names parts that are texts, an observation is
    a mapping of those and of "numbers", the Box that `fields` describes. If `grid`, it has no numbers, but MiniGrid's
    "image" and "direction". If `prompt`, an observation is a text as it stands. Where `commands`, an action is one of
    the texts that the observation lists (acting/admissible.py).
    """

    env: str | None = None
    fields: tuple[Field, ...] = ()
    discrete: int | None = None
    texts: tuple[str, ...] = ()
    grid: bool = False
    commands: bool = False
    prompt: bool = False


@runtime_checkable
class Serializer(Protocol):
    """Writes states down. Made by `target(options, observation: ObservationSpec)`.

    A serializer that emits vectors also has `width`, the k of its vectors.
    """

    def __call__(self, observation: Any) -> Any:
        """One observation → its text, or its float32 vector [k]."""
        ...

    def batch(self, observations: np.ndarray) -> Any:
        """Observations [n, ...] → a list of n texts, or float32 [n, k]."""
        ...


@runtime_checkable
class LearningSerializer(Serializer, Protocol):
    """A serializer that learns from states what to write; its record says `learns=True`."""

    def state(self) -> dict[str, np.ndarray]:
        """What was learned, as named arrays."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Write with what a `state()` holds."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """Turns states into features. Made by `target(options, width)`; `width` is k for vectors, and for texts how many
    numbers a state has (None: unknown).

    `width` is d; `identity` holds what must be equal for the features to be equal (file hash, layers, pooling …),
    learned weights apart, and is kept with every run.
    """

    width: int
    identity: Mapping[str, Any]

    def encode(self, inputs: Any) -> np.ndarray:
        """A list of n texts, or float32 [n, k] → float32 [n, d]."""
        ...


@runtime_checkable
class TokenizingBackbone(Backbone, Protocol):
    """Provides "tokens": it reads texts as token ids."""

    def tokenize(self, inputs: Sequence[str]) -> list[list[int]]:
        """n texts → the ids of each one's tokens."""
        ...

    def token_counts(self, inputs: Sequence[str]) -> list[int]:
        """n texts → how many tokens each is."""
        ...


class Statistics(Protocol):
    """What a cache counts."""

    def statistics(self) -> Mapping[str, int]:
        """Names and numbers (hits, misses …), shown with a run's summary."""
        ...


@runtime_checkable
class CachingBackbone(Backbone, Protocol):
    """Provides "cache": it keeps features of inputs already encoded."""

    cache: Statistics


@runtime_checkable
class TrainableBackbone(Backbone, Protocol):
    """Provides "gradients": the algorithm trains it together with its heads."""

    def module(self) -> torch.nn.Module:
        """What the algorithm trains.

        Of a backbone that reads vectors: a fresh module from float32 [n, k] to [n, d], whose weights are drawn from
        torch's generator, and belong to the algorithm. Of one that reads texts see LearningBackbone.
        """
        ...


@runtime_checkable
class LearningBackbone(TrainableBackbone, Protocol):
    """A trainable backbone that reads texts: `encode` gives features by what was learned so far.

    `version` counts the `sync` and `load_learned` calls: features of an older version are out of date.
    """

    version: int

    def module(self) -> torch.nn.Module:
        """The one module whose trainable parameters are what is learned: a list of n texts → features [n, d], with
        gradients. The same object at every call.
        """
        ...

    def sync(self) -> None:
        """The module's parameters have changed: `encode` goes by them from now on."""
        ...

    def learned(self) -> dict[str, np.ndarray]:
        """The learned weights as named arrays; needs no torch."""
        ...

    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go by the weights of a `learned()`; needs no torch."""
        ...


@attrs.frozen(eq=False)
class Completion:
    """What followed a prompt: its text, its token ids int32 [m], an end token that ended it included, and their
    log-probabilities float64 [m] under the distribution that each was drawn from.
    """

    text: str
    tokens: np.ndarray
    logprobs: np.ndarray


@runtime_checkable
class LanguagePolicy(Protocol):
    """A language model that generates and learns: one object to an algorithm that acts by texts.

    `version` counts the `sync` calls. Prompts are texts; a completion is its token ids, as `generate` gave them.
    """

    version: int

    def generate(
        self, prompts: Sequence[str], max_tokens: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """One completion for each of n prompts, by the engine; temperature 0: the most probable tokens."""
        ...

    def logprobs(
        self, prompts: Sequence[str], completions: Sequence[np.ndarray], *, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities float64 [m] of each completion's tokens after its prompt, by the engine."""
        ...

    def reference(self) -> LanguagePolicy:
        """A frozen copy of the model as it is now."""
        ...

    def module(self) -> torch.nn.Module:
        """The model in torch, whose trainable parameters have names: token ids int64 [n, T] → logits [n, T, V]."""
        ...

    def sync(self) -> None:
        """The module's parameters have changed: generate by them from now on; every cache is invalid."""
        ...


@runtime_checkable
class GenerativeBackbone(Backbone, Protocol):
    """Provides "generation"."""

    def language_policy(self) -> LanguagePolicy:
        """The language model as a policy over texts. The same object at every call."""
        ...


PROTOCOLS: dict[str, type] = {
    "features": Backbone,
    "gradients": TrainableBackbone,
    "generation": GenerativeBackbone,
    "tokens": TokenizingBackbone,
    "cache": CachingBackbone,
}
"""What a backbone may provide → the protocol that it then keeps."""

MOVED = {
    "envs": "task.collector.step(actions) and task.collector.rollout(act, steps) step the environments; "
    "task.collector.action_space is the space of one action",
    "observations": "task.collector.states is a view of the current states",
    "features": "task.collector.states.features, and task.reader.width for d",
    "critic_features": "task.collector.states.critic_features, and task.reader.critic_width for d'",
    "see": "task.reader(observations) is a view of states, with features and critic_features",
    "progress": "the collector counts steps and reports them",
}
"""What a task had before bitrl 0.2 → what replaces it."""


@attrs.define(kw_only=True)
class Task:
    """What an algorithm is given to learn on.

    Attributes:
        collector: owns the environments and their current observations, steps them and counts the steps.
        reader: how states are read: observations [n, ...] → a view of them (acting/states.py).
        seed: random seed of everything that the algorithm draws; it must use no global random state.
        steps: environment steps that the run will take, in all.
    """

    collector: Collector
    reader: StateReader
    seed: int
    steps: int

    def __getattr__(self, name: str) -> NoReturn:
        if name in MOVED:
            raise UsageError(f"task.{name} is no longer there: {MOVED[name]} (docs/plugins.md, Algorithm)")
        raise AttributeError(f"a Task has no attribute {name!r}")


class Algorithm(ABC):
    """A learner. Made by `target(options, task: Task)`; a run calls `update` until enough steps were taken."""

    def __init__(self, options: Any, task: Task):
        self.options, self.task = options, task

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        parameters = [*inspect.signature(cls.act).parameters]
        if parameters[1:2] == ["features"]:
            raise UsageError(
                f"algorithm {cls.__name__} is written for bitrl 0.1: act(features, choices) has become act(states), "
                "which has states.features and states.admissible (docs/plugins.md, Algorithm)"
            )

    @property
    def step(self) -> int:
        """Environment steps taken so far, over all environments: the collector counts them."""
        return self.task.collector.steps

    @step.setter
    def step(self, value: int) -> None:
        raise UsageError(
            f"algorithm {type(self).__name__} sets `step`, which the collector counts since bitrl 0.2: leave that out, "
            "and step the environments by task.collector (docs/plugins.md, Algorithm)"
        )

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Collect experience and learn from it; return metrics (finite numbers; absent where there is none).

        Raises:
            RunFailed: learning cannot go on (a loss is not finite).
        """

    @abstractmethod
    def act(self, states: States) -> np.ndarray:
        """The best actions [n, ...] in n states, for evaluation: deterministic, and changes nothing."""

    def plain_policy(self) -> Policy:
        """What `act` does, as a numpy policy (bitrl.core.acting.policies): for `bitrl export`, whose agents act without
        what the algorithm was built with. By default an algorithm cannot be exported.

        Raises:
            UsageError: it cannot be expressed so.
        """
        raise UsageError(f"algorithm {type(self).__name__} cannot be exported: it has no plain_policy()")

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next `update` depends on, as named arrays (weights, optimiser, generators, counters);
        the collector saves its own.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a `state()`. The task's collector holds the restored environments and observations."""


class Logger:
    """Takes the rows of metrics.jsonl as they are written.

    A run that is stopped and resumed makes a logger again, over the same directory. Whatever a logger raises is
    reported once, and the run goes on without it.

    Args:
        options: its options object.
        directory: the run's directory, which exists; a logger's files lie there under names of their own.
    """

    def __init__(self, options: Any, directory: Path):
        self.options, self.directory = options, directory

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Training begins, or goes on from the checkpoint at `step` (environment steps; 0 in a new run).

        The rows after `step` will come again: what was kept of them is to be dropped.

        Args:
            config: all options by section, as config.toml holds them.
            step: the last step whose row is to be kept.
        """

    def log(self, row: Mapping[str, Any]) -> None:
        """An update is done. `row` holds its `step` and its metrics; not all of them need be in every row.

        Keep it before you return: the process may be killed at any time.
        """

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Training and evaluation are done; `summary` is summary.json."""

    def close(self) -> None:
        """Nothing more will come, whether the run is done, was stopped or failed."""
