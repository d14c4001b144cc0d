"""The interfaces of serializers, backbones, algorithms and loggers. Shapes: n states, k numbers per vector, d features.

Data flows one way: environment → Serializer → Backbone → Algorithm → environment. A component's `target`
(records.py) is called as its class docstring here says. A backbone declares its capabilities in its record
(`provides`), and has the members of the corresponding protocols (`PROTOCOLS`). Environments, which need
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

    from bitrl.core.acting.policies import ActorCritic, Policy
    from bitrl.core.acting.states import StateReader, States
    from bitrl.core.environments.collector import Collector
    from bitrl.core.events import Event
    from bitrl.core.pieces import OneHot, Piece, Scaled


@attrs.frozen
class Field:
    """One number of an observation: its name, the finite bounds it typically stays in (None: unknown) and its unit.

    `decimals` is how many decimal places are significant (0 for a count); None: derived from the bounds.
    """

    name: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    decimals: int | None = None


@attrs.frozen
class ObservationSpec:
    """What a serializer knows about an environment's observations.

    `fields` has one entry per number, in the order of the flattened Box observation; a Discrete observation has one
    field and `discrete` says how many values it takes. Where `texts` names parts that are texts, an observation is
    a mapping of those and of "numbers", the Box that `fields` describes. If `grid`, it has no numbers, but MiniGrid's
    "image" and "direction". If `prompt`, an observation is a text, used unchanged. If `commands`, an action is one of
    the commands that the observation lists (acting/admissible.py). `env_options` are the run's options of the
    environment (`[env]`), for a serializer that makes one to see its states.

    Where an environment's observations have several parts (a Dict or Tuple space), `parts` are the paths to those that
    serializers get, in the order of `texts` and of `fields`: flat, as said above (acting/nested.py). `images` names the
    parts that are images, whose pixels are numbers to those alone who read vectors.
    """

    env: str | None = None
    fields: tuple[Field, ...] = ()
    discrete: int | None = None
    texts: tuple[str, ...] = ()
    grid: bool = False
    commands: bool = False
    prompt: bool = False
    parts: tuple[tuple[str, ...], ...] = ()
    images: tuple[str, ...] = ()
    env_options: Mapping[str, Any] = attrs.field(factory=dict, eq=False)


@runtime_checkable
class Serializer(Protocol):
    """Writes states as text or vectors. Made by `target(options, observation: ObservationSpec)`.

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
    """A serializer that learns its encoding from states; its record has `learns=True`."""

    def state(self) -> dict[str, np.ndarray]:
        """What was learned, as named arrays."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`."""
        ...


@runtime_checkable
class CommandSerializer(Serializer, Protocol):
    """A serializer that emits vectors, and turns admissible commands into vectors as well: the backbone, which reads no
    text, cannot.
    """

    width: int

    def commands(self, texts: Sequence[str]) -> np.ndarray:
        """Commands → float32 [n, k]."""
        ...


@runtime_checkable
class PortableSerializer(Serializer, Protocol):
    """A serializer whose output can be put together from pieces, so that its agents run without Python (`bitrl export
    --c`).
    """

    def form(self) -> Sequence[Piece] | Scaled | OneHot:
        """What it writes of a state, taken apart (bitrl.core.pieces): exactly what `__call__` writes.

        Raises:
            UsageError: of these observations it cannot be said so.
        """
        ...


@runtime_checkable
class Backbone(Protocol):
    """Computes features of states. Made by `target(options, width)`; `width` is k for vectors, and for texts how many
    numbers a state has (None: unknown).

    `width` is d; `identity` holds what must be equal for the features to be equal (file hash, layers, pooling …),
    except learned weights, and is saved with every run.
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
        """n texts → the number of tokens of each."""
        ...


@attrs.frozen(eq=False)
class PortableModel:
    """A language model as an agent's file has it, for programs without Python.

    Attributes:
        keys: of a GGUF file: those that say the model's architecture, and arrays of the agent's own.
        tensors: of a GGUF file: the model's weights, and those of adapters.
        facts: how texts become features, by the names that csrc/agent/reading.c reads.
    """

    keys: Mapping[str, Any]
    tensors: Mapping[str, Any]
    facts: Mapping[str, Any]


@runtime_checkable
class PortableBackbone(Backbone, Protocol):
    """A backbone that the C engine runs whole, so that agents with it run without Python (`bitrl export --c`)."""

    def portable(self) -> PortableModel:
        """The model as it is now, and how it reads a text.

        Raises:
            UsageError: its model or an option is one that agents without Python do not have.
        """
        ...


class Statistics(Protocol):
    """The counters of a cache."""

    def statistics(self) -> Mapping[str, int]:
        """Names and numbers (hits, misses …), shown with a run's summary."""
        ...


@runtime_checkable
class BoundedCache(Statistics, Protocol):
    """A cache that takes at most `budget` bytes and now takes `bytes`: it gives way where a run reaches its memory
    limit.
    """

    budget: int
    bytes: int

    def limit(self, budget: int) -> None:
        """Take at most so many bytes from now on."""
        ...


@runtime_checkable
class CachingBackbone(Backbone, Protocol):
    """Provides "cache": it keeps features of inputs already encoded. That it is a BoundedCache is for the better."""

    cache: Statistics


@runtime_checkable
class TrainableBackbone(Backbone, Protocol):
    """Provides "gradients": the algorithm trains it together with its heads."""

    def module(self) -> torch.nn.Module:
        """What the algorithm trains.

        For a backbone of vectors: a new module from float32 [n, k] to [n, d], whose weights are drawn from torch's
        generator, and belong to the algorithm. For a backbone of texts see LearningBackbone.
        """
        ...


@runtime_checkable
class LayeredBackbone(TrainableBackbone, Protocol):
    """A trainable backbone of vectors that is a chain of linear layers with biases, tanh after each: an algorithm may
    train such layers itself, without torch, instead of `module`.

    `tanh_layers` are their widths.
    """

    tanh_layers: Sequence[int]


@runtime_checkable
class LearningBackbone(TrainableBackbone, Protocol):
    """A trainable backbone that reads texts: `encode` uses what was learned so far.

    `version` counts the `sync` and `load_learned` calls: features of an older version are out of date.
    """

    version: int

    def module(self) -> torch.nn.Module:
        """The module whose trainable parameters are learned: a list of n texts → features [n, d], with
        gradients. The same object at every call.
        """
        ...

    def sync(self) -> None:
        """The module's parameters have changed: `encode` uses them from now on."""
        ...

    def learned(self) -> dict[str, np.ndarray]:
        """The learned weights as named arrays; needs no torch."""
        ...

    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Use the weights of a `learned()`; needs no torch."""
        ...


@attrs.frozen(eq=False)
class Completion:
    """The completion of a prompt: its text, its token ids int32 [m], including a sampled end token, and their
    log-probabilities float64 [m] under the distribution that each was sampled from.

    `prompt` are the token ids int32 [p] that it follows, and `ended` says whether it came to an end token. Where top-k
    or top-p cut the distribution off, `kept` has, for each of the m tokens, the ids int32 among which it was drawn.
    """

    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    prompt: np.ndarray
    ended: bool
    kept: tuple[np.ndarray, ...] | None = None


@attrs.frozen
class Replaced:
    """What replacing weights did to those of matrices that are multiplied, as their format stores them: how many
    `codes` were given, and how many of them `changed`.

    Of int4, codes times their block's multiplier; of bf16 and fp32 the bits. Norms and the embedding are not counted.
    """

    codes: int
    changed: int


@runtime_checkable
class RolloutActor(Protocol):
    """Generates with weights of a precision of its own (`format`), as they were at the last `update`."""

    format: str

    def generate(
        self, prompts: Sequence[str], max_tokens: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """One completion for each of n prompts, with the log-probabilities of the actor's own, rounded, weights."""
        ...

    def update(self, *, rounding_seed: int | None = None, norm_noise: float = 0.0, noise_seed: int = 0) -> Replaced:
        """Take the learner's weights as they are now.

        Args:
            rounding_seed: round weights to one of the two nearest codes at random, right on average; None: to the
                nearest.
            norm_noise: standard deviation of the noise added to the weights of the norms (QeRL, arXiv 2510.11696).
            noise_seed: of that noise.
        """
        ...


@runtime_checkable
class LanguagePolicy(Protocol):
    """A language model that generates and learns: a single object for algorithms whose actions are texts.

    `version` counts the `sync` calls; `ends` are the ids of the tokens that end a completion, if there are any. Prompts
    are texts; a completion is its token ids, as `generate` gave them.
    """

    version: int
    ends: Sequence[int]

    def generate(
        self, prompts: Sequence[str], max_tokens: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """One completion for each of n prompts, by the engine; temperature 0: greedy."""
        ...

    def logprobs(
        self, prompts: Sequence[str], completions: Sequence[np.ndarray], *, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities float64 [m] of each completion's tokens after its prompt, by the engine."""
        ...

    def reference(self) -> LanguagePolicy:
        """A frozen copy of the model as it is now."""
        ...

    def actor(self, format: str | None = None) -> RolloutActor:
        """A copy that generates in another format than the learner's, by a name of the engine's; None: in the same."""
        ...

    def module(self, format: str | None = None) -> torch.nn.Module:
        """The model in torch, whose trainable parameters have names: token ids int64 [n, T] → logits [n, T, V]. The
        same object at every call; the first may name another `format` to multiply in, with straight-through gradients.

        It has a method `completions(prompts, texts, follows, hidden=False)`: token ids int64 of prompts [t] and texts
        [m], none of them empty, and which of the prompts each text follows, int64 [len(texts)] → the logits [N, V] that
        the N tokens of all texts are chosen by, one text after another. With `hidden`, a pair: these, and the hidden
        states that they are computed from, [N, d].
        """
        ...

    def sync(self) -> None:
        """The module's parameters have changed: generation uses them from now on; every cache is invalid."""
        ...

    def write(self, path: Path) -> list[str]:
        """Write the model as the module is now to a file that other programs read (GGUF) → what these will miss in it,
        a line each.

        Raises:
            UsageError: it cannot be written so.
        """
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
"""Capability of a backbone → its protocol."""

MOVED = {
    "envs": "task.collector.step(actions) and task.collector.rollout(act, steps) step the environments; "
    "task.collector.action_space is the space of one action",
    "observations": "task.collector.states is a view of the current states",
    "features": "task.collector.states.features, and task.reader.width for d",
    "critic_features": "task.collector.states.critic_features, and task.reader.critic_width for d'",
    "see": "task.reader(observations) is a view of states, with features and critic_features",
    "progress": "the collector counts steps and reports them",
}
"""Attributes of a task before bitrl 0.2 → their replacements."""


@attrs.define(kw_only=True)
class Task:
    """What an algorithm trains on.

    Attributes:
        collector: owns the environments and their current observations, steps them and counts the steps.
        reader: reads states: observations [n, ...] → a view of them (acting/states.py).
        seed: random seed of the algorithm, which must not use global random state.
        steps: total environment steps of the run.
    """

    collector: Collector
    reader: StateReader
    seed: int
    steps: int

    def __getattr__(self, name: str) -> NoReturn:
        if name in MOVED:
            raise UsageError(f"task.{name} has been removed: {MOVED[name]} (docs/plugins.md, Algorithm)")
        raise AttributeError(f"a Task has no attribute {name!r}")


class Algorithm(ABC):
    """A learning algorithm. Made by `target(options, task: Task)`; a run calls `update` until all steps are taken."""

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
            f"algorithm {type(self).__name__} sets `step`, which the collector counts since bitrl 0.2: remove that, "
            "and step the environments by task.collector (docs/plugins.md, Algorithm)"
        )

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Collect experience and learn from it; return metrics (finite numbers; a metric without a value is left out).

        Raises:
            RunFailed: learning cannot continue (a loss is not finite).
        """

    @abstractmethod
    def act(self, states: States) -> np.ndarray:
        """The greedy actions [n, ...] in n states, for evaluation: deterministic and without side effects."""

    def summary(self) -> Mapping[str, float]:
        """Numbers about what was learned (finite, by name) for summary.json and `bitrl eval`, where they are under
        "algorithm"; by default none. Like `act`, it changes nothing.
        """
        return {}

    def timings(self) -> Mapping[str, float]:
        """Seconds of the last update by stage, and counts to compare with them: for timings.jsonl and the display.
        Unlike metrics, they may differ between two runs that learn the same. By default none.
        """
        return {}

    def plain_policy(self) -> Policy:
        """What `act` does, as a numpy policy (bitrl.core.acting.policies): for `bitrl export`, whose agents act without
        the algorithm's dependencies. By default an algorithm cannot be exported.

        Raises:
            UsageError: it cannot be expressed as one.
        """
        raise UsageError(f"algorithm {type(self).__name__} cannot be exported: it has no plain_policy()")

    def language_policy(self) -> LanguagePolicy:
        """The language model that learns, which `bitrl export` writes to a model file. By default there is none.

        Raises:
            UsageError: the algorithm learns no language model.
        """
        raise UsageError(f"algorithm {type(self).__name__} cannot be exported: it has no language_policy()")

    def actor_critic(self) -> ActorCritic:
        """The policy as it is sampled, and the value function, in numpy (bitrl.core.acting.policies): for `bitrl
        analyze`. By default an algorithm cannot be analysed.

        Raises:
            UsageError: they cannot be expressed so.
        """
        raise UsageError(f"algorithm {type(self).__name__} cannot be analysed: it has no actor_critic()")

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next `update` depends on, as named arrays (weights, optimiser, generators, counters);
        the collector saves its own state.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`. The task's collector holds the restored environments and observations."""

    def learned(self) -> dict[str, np.ndarray]:
        """What of `state` an exported agent keeps, so that another run learns on from it: `load_state` takes it, too.
        By default all of it; an algorithm may leave out what an optimizer begins without.
        """
        return self.state()


class Logger:
    """Receives the rows of metrics.jsonl as they are written, and the run's other events. What it is given is its own
    copy.

    Resuming a stopped run makes a new logger for the same directory. An exception in a logger is reported once, and the
    run continues without it.

    Args:
        options: its options object.
        directory: the run's directory, which exists; the logger writes its files there, under distinct names.
    """

    def __init__(self, options: Any, directory: Path):
        self.options, self.directory = options, directory

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Training starts, or resumes from the checkpoint at `step` (environment steps; 0 in a new run).

        The rows after `step` will be logged again: drop those already written.

        Args:
            config: all options by section, as config.toml holds them.
            step: the last step whose row to keep.
        """

    def log(self, row: Mapping[str, Any]) -> None:
        """An update is done. `row` holds its `step` and its metrics, which may differ between rows.

        Write it before returning: the process may be killed at any time.
        """

    def event(self, event: Event) -> None:
        """Any event that has no method of its own (bitrl.core.events): a checkpoint was saved, evaluation advanced, …

        One marked with `@bitrl.every_step` also receives `RolloutStepped`, at every step of the environments.
        """

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Training and evaluation are done; `summary` is summary.json."""

    def close(self) -> None:
        """The run finished, was stopped or failed: no more calls will follow."""
