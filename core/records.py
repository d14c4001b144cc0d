"""Records: what a plugin's hooks yield. Light descriptions of components, whose code is imported only when one is
chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from bitrl.core.errors import UsageError
from bitrl.core.options import NoOptions

Form = Literal["text", "vector"]


def _forms(values: Iterable[Form]) -> tuple[Form, ...]:
    return tuple(values)


def _target(instance: object, attribute: attrs.Attribute, value: str) -> None:
    module, _, name = value.partition(":")
    if not module or not name.isidentifier():
        raise ValueError(f'target: expected "module:attribute", got "{value}"')


def _options_class(instance: object, attribute: attrs.Attribute, value: Any) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise ValueError(f"options: expected a class decorated with @bitrl.options, got {value!r}")


@attrs.frozen(kw_only=True)
class Record:
    """What every component says of itself: its name, one line, where its code is, and its options class."""

    name: str = attrs.field(validator=attrs.validators.min_len(1))
    summary: str
    target: str = attrs.field(validator=_target)
    options: type = attrs.field(default=NoOptions, validator=_options_class)

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            UsageError: the module does not import or has no such attribute; names the component and the cause.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f'"{self.name}" could not be loaded from {self.target}: {cause}') from error


@attrs.frozen(kw_only=True)
class SerializerRecord(Record):
    """A way to write a state down; `emits` says whether as a text or as a vector of numbers."""

    emits: Form = attrs.field(default="text", validator=attrs.validators.in_(("text", "vector")))


@attrs.frozen(kw_only=True)
class BackboneRecord(Record):
    """A map from texts (or vectors) to features; `accepts` lists the forms it reads."""

    accepts: tuple[Form, ...] = attrs.field(
        default=("text",),
        converter=_forms,
        validator=[
            attrs.validators.min_len(1),
            attrs.validators.deep_iterable(attrs.validators.in_(("text", "vector"))),
        ],
    )


@attrs.frozen(kw_only=True)
class AlgorithmRecord(Record):
    """A learner; `critic_backbone` says that it has a critic which may read a backbone of its own, `commands` that it
    can act by choosing among texts (bitrl.core.acting.choices).
    """

    critic_backbone: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    commands: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))


@attrs.frozen(kw_only=True)
class EnvironmentRecord(Record):
    """A world; `defaults` are settings that make learning in it work (`{"run.steps": 100_000}`), below the user's
    own.
    """

    defaults: Mapping[str, Any] = attrs.field(factory=dict)
