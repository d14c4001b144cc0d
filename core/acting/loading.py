"""Builds a `StateReader` from records: a serializer, and the backbones that read its output."""

from __future__ import annotations

from typing import Any

from bitrl.core.acting.contracts import calling, check_width, plain_identity
from bitrl.core.acting.history import History, check_pooling
from bitrl.core.acting.nested import FlatObservations
from bitrl.core.acting.states import StateReader
from bitrl.core.config import Config
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import (
    PROTOCOLS,
    Backbone,
    LearningBackbone,
    LearningSerializer,
    ObservationSpec,
    Serializer,
    TrainableBackbone,
)
from bitrl.core.options import parse
from bitrl.core.records import BackboneRecord, Record, SerializerRecord
from bitrl.core.registry import registry
from bitrl.core.wording import program


def load_backbone(name: str, model: str | None = None, *, width: int | None = None, **options: Any) -> Backbone:
    """A backbone by name; `.encode(list_of_texts)` gives float32 features [n, d].

    Args:
        name: as printed by `bitrl list`.
        model: the model, for backbones with a `model` option.
        width: how many numbers a state has: the length of vectors; for texts only pooling "field" needs it.
        options: the backbone's options (`bitrl show backbone NAME`).

    Raises:
        UsageError: unknown backbone or option, or a model file that cannot be used.
    """
    record: BackboneRecord = registry().find("backbone", name)
    if model is not None:
        options["model"] = model
    backbone: Backbone = record.load()(parse(record.options, options, "backbone"), width)
    return backbone


def build_reader(config: Config, observation: ObservationSpec, history: int = 1) -> StateReader:
    """Build a configuration's serializer, for what `observation` says, the policy's backbone, and the critic's if it
    is a different one. With `history` above 1, an observation holds that many states (history.py).

    Raises:
        UsageError: one of them cannot be built; the message names it and says why.
    """
    if history > 1:
        for options in (config.backbone_options, config.critic_backbone_options):
            check_pooling(options)
    serializer = build_serializer(config.serializer, config.serializer_options, observation, history)

    def backbone(record: BackboneRecord, options: Any) -> Any:
        return build_backbone(record, options, config.serializer, serializer, observation)

    policy = backbone(config.backbone, config.backbone_options)
    if history > 1 and "tokens" in config.backbone.provides:
        serializer.limit(policy.token_counts, config.run.history_tokens)
    record, options = config.critic_backbone, config.critic_backbone_options
    critic = None
    if record is not None and (record, options) != (config.backbone, config.backbone_options):
        critic = backbone(record, options)
        # Identities are comparable within one component only.
        if record == config.backbone and critic.identity == policy.identity:
            critic = None
    return StateReader(
        serializer,
        policy,
        critic,
        trainable=config.backbone.trains(config.backbone_options),
        critic_trainable=record is not None and record.trains(options),
        names={
            "serializer": named("serializer", config.serializer),
            "backbone": named("backbone", config.backbone),
            **({} if record is None else {"critic": named("backbone", record)}),
        },
    )


def named(kind: str, record: Record) -> str:
    """A component as errors name it: `serializer "json" of package bitrl`."""
    package = registry().package(record)
    return f'{kind} "{record.name}"' + (f" of package {package}" if package else "")


def build_serializer(record: SerializerRecord, options: Any, observation: ObservationSpec, history: int) -> Any:
    """A serializer for what `observation` says, of the last `history` states if that is above 1."""
    with calling(named("serializer", record)):
        serializer = record.load()(options, observation)
    _require("serializer", record, serializer, LearningSerializer if record.learns else Serializer)
    if record.emits == "vector":
        check_width(named("serializer", record), getattr(serializer, "width", None))
    serializer = of_flat_observations(serializer, observation)
    return History(serializer, history, record) if history > 1 else serializer


def of_flat_observations(serializer: Any, observation: ObservationSpec) -> Any:
    """`serializer`, which reads flat observations, for those of an environment, which may have several parts."""
    return FlatObservations(serializer, observation.parts) if observation.parts else serializer


def build_backbone(
    record: BackboneRecord,
    options: Any,
    serializer_record: SerializerRecord,
    serializer: Any,
    observation: ObservationSpec,
) -> Any:
    """A backbone for the output of `serializer`, checked to have every capability that its record claims."""
    vectors = serializer_record.emits == "vector"
    with calling(named("backbone", record)):
        backbone = record.load()(options, serializer.width if vectors else len(observation.fields) or None)
    _require("backbone", record, backbone, Backbone)
    check_width(named("backbone", record), backbone.width)
    plain_identity(named("backbone", record), backbone.identity)
    for capability in record.provides:
        if capability != "gradients":
            _require("backbone", record, backbone, PROTOCOLS[capability], capability)
        elif record.trains(options):
            _require("backbone", record, backbone, TrainableBackbone if vectors else LearningBackbone, capability)
    return backbone


def _require(kind: str, record: Record, part: object, interface: type, capability: str = "") -> None:
    """Refuse a component without the members of its kind, or of a capability that its record claims."""
    if not isinstance(part, interface):
        lacking = sorted(get_protocol_members(interface) - {*dir(part)})
        what = f'claims to provide "{capability}"' if capability else f"does not keep the contract of a {kind}"
        raise UsageError(
            f'{kind} "{record.name}" {what}, but has no {" and no ".join(lacking)}: check it with '
            f"{program()} plugin check"
        )


def get_protocol_members(interface: type) -> set[str]:
    """The member names of a protocol, including those of its bases."""
    own = {name for base in interface.__mro__ if base.__module__ == interface.__module__ for name in vars(base)}
    annotated = {name for base in interface.__mro__ for name in getattr(base, "__annotations__", {})}
    return {name for name in own | annotated if not name.startswith("_")} | {name for name in own if name == "__call__"}
