"""A view of a batch of states, each part computed once, on first use.

Policies and algorithms are given `States` and read from them what they need, so that a new kind of information changes
neither. Knows serializers and backbones; nothing of environments or learning. Shapes: n states, k numbers per vector,
d features (d' the critic's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import AdmissibleActions, admissible_actions, states_of
from bitrl.core.acting.contracts import FIRST, calling, check_features, check_inputs, check_unchanged
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import (
    Backbone,
    CommandSerializer,
    LayeredBackbone,
    LearningBackbone,
    Serializer,
    TokenizingBackbone,
)
from bitrl.core.wording import setting


class StateReader:
    """How states are read: a serializer writes them, and the policy's backbone (and the critic's, if it has its own)
    reads that.

    Attributes:
        serializer, backbone: as a configuration names them.
        critic: the critic's own backbone, which reads what `serializer` writes; None: the critic reads the policy's
            features.
        trainable: whether `backbone` is trained by the algorithm (its record provides gradients, and its options ask
            for them); and so for `critic_trainable`.
        learner: `backbone`, where that training changes what its `encode` returns (a language model with trained
            adapters); else None.
    """

    def __init__(
        self,
        serializer: Serializer,
        backbone: Backbone,
        critic: Backbone | None = None,
        *,
        trainable: bool = False,
        critic_trainable: bool = False,
        names: Mapping[str, str] | None = None,
    ):
        """`names` are what errors call "serializer", "backbone" and "critic": `serializer "json" of package bitrl`."""
        self.serializer, self.backbone, self.critic = serializer, backbone, critic
        self.trainable, self.critic_trainable = trainable, critic_trainable if critic is not None else trainable
        self.learner = backbone if trainable and isinstance(backbone, LearningBackbone) else None
        parts = {"serializer": serializer, "backbone": backbone, "critic": critic}
        self.names = {kind: f"{kind} {type(part).__name__}" for kind, part in parts.items()} | dict(names or {})
        self._written = 0

    @property
    def width(self) -> int:
        """d, the number of the policy's features of a state, or of what a trainable backbone makes of its vector."""
        return self.backbone.width

    @property
    def critic_width(self) -> int:
        """d', the same for the critic."""
        return self.backbone.width if self.critic is None else self.critic.width

    def __call__(self, observations: np.ndarray) -> States:
        """Observations [n, ...] → a view of them."""
        return States(observations, self)

    def write(self, observations: np.ndarray) -> Any:
        """Observations [n, ...] → what the serializer writes: n texts, or vectors float32 [n, k].

        Raises:
            RunFailed: it wrote something else, or changed the observations.
        """
        observations, who = states_of(observations), self.names["serializer"]
        before = observations.tobytes() if self._written < FIRST else None
        with calling(who):
            inputs = self.serializer.batch(observations)
        if before is not None:
            check_unchanged(who, before, observations)
            self._written += 1
        check_inputs(who, inputs, len(observations), getattr(self.serializer, "width", None))
        return inputs

    def write_window(self, window: Mapping[str, Any]) -> Any:
        """The last states of one episode (`StateHistory.add`) → what the serializer writes: a text, or a vector."""
        with calling(self.names["serializer"]):
            return self.serializer(window)

    def features(self, inputs: Any) -> np.ndarray:
        """What the serializer wrote for n states → the policy's features float32 [n, d].

        Of vectors that a trainable backbone reads: the vectors themselves, float32 [n, k], which the algorithm turns
        into features.

        Raises:
            RunFailed: the backbone returned something else, or NaN.
        """
        return _features(self.names["backbone"], self.backbone, self.trainable, inputs)

    def critic_features(self, inputs: Any) -> np.ndarray:
        """The same for the critic, float32 [n, d']."""
        if self.critic is None:
            return _features(self.names["backbone"], self.backbone, self.critic_trainable, inputs)
        return _features(self.names["critic"], self.critic, self.critic_trainable, inputs)

    @property
    def command_width(self) -> int:
        """The number of features of a command."""
        return self.serializer.width if isinstance(self.serializer, CommandSerializer) else self.backbone.width

    def encode_commands(self, texts: Sequence[str]) -> np.ndarray:
        """Commands → their features, float32 [C, command_width]: the backbone's, or for one that reads no text the
        serializer's vectors.
        """
        if not isinstance(self.serializer, CommandSerializer):
            return self.features(texts)
        with calling(self.names["serializer"]):
            vectors = self.serializer.commands(texts)
        check_inputs(self.names["serializer"], vectors, len(texts), self.serializer.width)
        return vectors

    def module(self) -> Any:
        """The torch.nn.Module that the algorithm trains; only of a trainable backbone."""
        backbone: Any = self.backbone
        return backbone.module()

    def critic_module(self) -> Any:
        """The same for the critic."""
        backbone: Any = self.backbone if self.critic is None else self.critic
        return backbone.module()

    @property
    def tanh_layers(self) -> Sequence[int] | None:
        """Where that module is linear layers with tanh after each, which an algorithm may train without torch: their
        widths; else None.
        """
        return self.backbone.tanh_layers if isinstance(self.backbone, LayeredBackbone) else None

    @property
    def critic_tanh_layers(self) -> Sequence[int] | None:
        """The same for the critic's."""
        backbone = self.backbone if self.critic is None else self.critic
        return backbone.tanh_layers if isinstance(backbone, LayeredBackbone) else None

    @property
    def version(self) -> int:
        """How many times the weights that features depend on have changed."""
        return 0 if self.learner is None else self.learner.version


class FeatureRows:
    """Features of many batches of states in one array, each put there when it is computed: they are held once."""

    def __init__(self) -> None:
        self._array: np.ndarray | None = None

    def put(self, index: int, batches: int, features: np.ndarray) -> np.ndarray:
        """Features float32 [n, d] of one of so many batches, as a view of the array."""
        if self._array is None:
            self._array = np.empty((batches, *features.shape), np.float32)
        self._array[index] = features
        row: np.ndarray = self._array[index]
        return row

    def array(self, name: str, batches: Sequence[States]) -> np.ndarray:
        """The array, float32 [batches, n, d], with those that are not there yet: the property `name` of states."""
        for index, states in enumerate(batches):
            self.put(index, len(batches), getattr(states, name))
        assert self._array is not None
        return self._array


class States:
    """n states, as a serializer writes them and backbones read them.

    Attributes:
        observations: [n, ...], as the environment gives them.
        put: what is called with features that were computed, and the name of the property, and gives them back from
            where they are to be kept; None: they stay where they are.
    """

    put: Callable[[str, np.ndarray], np.ndarray] | None = None

    def __init__(self, observations: np.ndarray, reader: StateReader, inputs: Any = None):
        """Of `observations`; `inputs` is what the serializer wrote for them, if it already has."""
        self.observations, self.reader = observations, reader
        if inputs is not None:
            self.inputs = inputs

    def __len__(self) -> int:
        return len(self.observations)

    @cached_property
    def inputs(self) -> Any:
        """What the serializer writes: a list of n texts, or vectors float32 [n, k]."""
        return self.reader.write(self.observations)

    @property
    def texts(self) -> list[str]:
        """The n states as texts.

        Raises:
            UsageError: the serializer writes vectors.
        """
        if isinstance(self.inputs, np.ndarray):
            raise UsageError(
                "these states are written as vectors, but the algorithm needs texts: choose another serializer"
            )
        texts: list[str] = self.inputs
        return texts

    @property
    def vectors(self) -> np.ndarray:
        """The n states as vectors, float32 [n, k].

        Raises:
            UsageError: the serializer writes texts.
        """
        if not isinstance(self.inputs, np.ndarray):
            raise UsageError(
                "these states are written as texts, but the algorithm needs vectors: "
                f"use {setting('serializer', 'vector')}"
            )
        return self.inputs

    @cached_property
    def tokens(self) -> list[list[int]]:
        """The token ids of each text, as the policy's backbone reads them.

        Raises:
            UsageError: the backbone has no tokens.
        """
        backbone = self.reader.backbone
        if not isinstance(backbone, TokenizingBackbone):
            raise UsageError(f"backbone {type(backbone).__name__} provides no tokens, which the algorithm needs")
        return backbone.tokenize(self.texts)

    @cached_property
    def features(self) -> np.ndarray:
        """The policy's features, float32 [n, d] (`StateReader.features`)."""
        features = self.reader.features(self.inputs)
        return features if self.put is None else self.put("features", features)

    @cached_property
    def critic_features(self) -> np.ndarray:
        """The critic's features, float32 [n, d']; `features` itself where the critic has no backbone of its own."""
        if self.reader.critic is None:
            return self.features
        features = self.reader.critic_features(self.inputs)
        return features if self.put is None else self.put("critic_features", features)

    @cached_property
    def admissible(self) -> AdmissibleActions | None:
        """The admissible actions; None where all are, in every state."""
        return admissible_actions(self.observations, self.reader.encode_commands)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """The admissible action with the highest score in each state, int64 [n], counted from 0.

        Args:
            scores: [n, k], one per action of a Discrete space.
        """
        if self.admissible is not None:
            mask = self.admissible.mask
            scores = np.where(mask, scores[:, : mask.shape[1]], -np.inf)
        best: np.ndarray = scores.argmax(axis=1)
        return best


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of what differs between a recorded identity and one of `contracts.plain_identity`."""
    seal = new.get("model_seal")
    if seal is not None and "model_seal" not in old and old.get("model_sha256") == seal:
        # Until 0.2 "model_sha256" of a sealed file was its seal.
        old = {**old, "model_sha256": new["model_sha256"], "model_seal": seal}
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _features(who: str, backbone: Backbone, trainable: bool, inputs: Any) -> np.ndarray:
    if trainable and isinstance(inputs, np.ndarray):
        return inputs
    with calling(who):
        features = backbone.encode(inputs)
    check_features(who, features, len(inputs), backbone.width)
    return features
