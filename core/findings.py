"""The result of a check of `bitrl doctor`."""

from __future__ import annotations

import json
from typing import Any

import attrs

_TEXT = attrs.validators.instance_of(str)


def _json(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    json.dumps(value)


@attrs.frozen
class Finding:
    """The result of a check.

    Attributes:
        name: what was checked.
        ok: whether it passed.
        detail: what was found, or what is wrong.
        remedy: how to fix it, where it failed.
        facts: details for programs, as JSON.
    """

    name: str = attrs.field(validator=_TEXT)
    ok: bool = attrs.field(validator=attrs.validators.instance_of(bool))
    detail: str = attrs.field(validator=_TEXT)
    remedy: str = attrs.field(default="", validator=_TEXT)
    facts: dict[str, Any] = attrs.field(factory=dict, validator=[attrs.validators.instance_of(dict), _json])
