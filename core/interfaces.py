"""What serializers, backbones and algorithms look like to each other. Shapes: n states, k numbers a vector, d features.

Data goes one way: environment → Serializer → Backbone → Algorithm → environment. A component's `target`
(records.py) is called as its class docstring here says. What a backbone can do beyond features it declares in its
record (`provides`), and has the members of the protocol that stands for it here (`PROTOCOLS`). Environments, which need
Gymnasium, are described in environments/environment.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

from bitrl.core.errors import UsageError

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    import torch

    from bitrl.core.acting.choices import Choices
    from bitrl.core.acting.features import FeatureExtractor
    from bitrl.core.acting.policies import Policy


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


@attrs.define(kw_only=True)
class Task:
    """What an algorithm is given to learn on: the worlds, how to see them, and a seed.

    Attributes:
        envs: the vector environment, already reset; the algorithm steps it and never resets it.
        observations: its current observations [num_envs, ...]; whoever steps `envs` keeps them current.
        features: observations [n, ...] → float32 [n, d] (or the vectors [n, k] when the backbone is trainable).
        critic_features: the same for the critic, where it reads a backbone of its own (d is then another), and reads
            what `features` wrote; None where the critic reads `features`. Only an algorithm whose record says
            `critic_backbone` is ever given one.
        seed: of everything the algorithm draws; it must use no global random state.
        steps: environment steps that the run will take, in all.
        progress: call with the number of environment steps taken so far, as often as convenient.
    """

    envs: gymnasium.vector.VectorEnv
    observations: np.ndarray
    features: FeatureExtractor
    critic_features: FeatureExtractor | None = None
    seed: int
    steps: int
    progress: Callable[[int], None]

    def see(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Observations [n, ...] → the policy's features [n, d] and the critic's [n, d'], each state written once.

        Both are one array where the critic has no backbone of its own.
        """
        if self.critic_features is None:
            features = self.features(observations)
            return features, features
        inputs = self.features.write(observations)
        return self.features.encode(inputs), self.critic_features.encode(inputs)


class Algorithm(ABC):
    """A learner. Made by `target(options, task: Task)`; the runner calls `update` until enough steps were taken.

    Attributes:
        step: environment steps taken so far, over all environments.
    """

    step: int = 0

    def __init__(self, options: Any, task: Task):
        self.options, self.task = options, task

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Collect experience, learn from it, advance `step`; return metrics (finite numbers; absent where there is
        none).

        Raises:
            RunFailed: learning cannot go on (a loss is not finite).
        """

    @abstractmethod
    def act(self, features: np.ndarray, choices: Choices | None = None) -> np.ndarray:
        """The best actions [n, ...] for features [n, d] among `choices` (None: all can be taken), for evaluation:
        deterministic, and changes nothing.
        """

    def plain_policy(self) -> Policy:
        """What `act` does, in plain arrays (bitrl.core.acting.policies): for `bitrl export`, whose agents act without
        what the algorithm was built with. By default an algorithm cannot be exported.

        Raises:
            UsageError: it cannot be said so.
        """
        raise UsageError(f"algorithm {type(self).__name__} cannot be exported: it has no plain_policy()")

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next `update` depends on, as named arrays (weights, optimiser, generators, counters)."""

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a `state()`. The task this object was made with holds the restored environments and
        observations.
        """
