"""Builds what reads states, from records: a serializer and the backbones that read what it writes."""

from __future__ import annotations

from typing import Any

from bitrl.core.acting.features import FeatureExtractor
from bitrl.core.config import Config
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Backbone, ObservationSpec, Serializer
from bitrl.core.options import parse
from bitrl.core.records import BackboneRecord, Record, SerializerRecord
from bitrl.core.registry import registry


def load_backbone(name: str, model: str | None = None, *, width: int | None = None, **options: Any) -> Backbone:
    """A backbone by name; `.encode(list_of_texts)` gives float32 features [n, d].

    Args:
        name: as in `bitrl list`.
        model: for backbones with a `model` option, the model to read.
        width: how many numbers a state has: the length of vectors; texts need it for pooling "field" alone.
        options: the backbone's options (`bitrl show backbone NAME`).

    Raises:
        UsageError: unknown backbone or option, or a model file that cannot be used.
    """
    record: BackboneRecord = registry().find("backbone", name)
    if model is not None:
        options["model"] = model
    backbone: Backbone = record.load()(parse(record.options, options, "backbone"), width)
    return backbone


def build_features(
    config: Config, observation: ObservationSpec, history: int = 1
) -> tuple[FeatureExtractor, FeatureExtractor | None]:
    """Build a configuration's serializer, for what `observation` says, and backbones: the policy's features and the
    critic's, None where they are the same. With `history` above 1, an observation holds so many states (history.py).

    Raises:
        UsageError: one of them cannot be built; the message names it and says why.
    """
    if history > 1:
        from bitrl.core.acting.history import check_pooling

        for options in (config.backbone_options, config.critic_backbone_options):
            check_pooling(options)
    serializer = build_serializer(config.serializer, config.serializer_options, observation, history)

    def features(record: BackboneRecord, options: Any) -> FeatureExtractor:
        backbone = build_backbone(record, options, config.serializer, serializer, observation)
        return FeatureExtractor(serializer, backbone)

    policy = features(config.backbone, config.backbone_options)
    if history > 1:
        serializer.limit(policy.backbone, config.run.history_tokens)
    record, options = config.critic_backbone, config.critic_backbone_options
    if record is None or (record, options) == (config.backbone, config.backbone_options):
        return policy, None
    critic = features(record, options)
    # Two components' identities say nothing of each other.
    same = record == config.backbone and critic.identity == policy.identity
    return policy, None if same else critic


def build_serializer(record: SerializerRecord, options: Any, observation: ObservationSpec, history: int) -> Any:
    """A serializer for what `observation` says, of the last `history` states if that is above 1."""
    serializer = record.load()(options, observation)
    _require("serializer", record, serializer, Serializer)
    if history > 1:
        from bitrl.core.acting.history import History

        serializer = History(serializer, history, record.emits == "vector")
    return serializer


def build_backbone(
    record: BackboneRecord,
    options: Any,
    serializer_record: SerializerRecord,
    serializer: Any,
    observation: ObservationSpec,
) -> Any:
    """A backbone for what `serializer` writes of such observations."""
    vectors = serializer_record.emits == "vector"
    backbone = record.load()(options, serializer.width if vectors else len(observation.fields) or None)
    _require("backbone", record, backbone, Backbone)
    return backbone


def _require(kind: str, record: Record, part: object, interface: type) -> None:
    """Refuse a component that lacks what its kind has."""
    if not isinstance(part, interface):
        raise UsageError(
            f'{kind} "{record.name}" does not keep the contract of its kind: check it with bitrl plugin check'
        )
