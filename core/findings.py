"""What a check of `bitrl doctor` yields."""

from __future__ import annotations

import json
from typing import Any

import attrs

_TEXT = attrs.validators.instance_of(str)


def _json(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    json.dumps(value)


@attrs.frozen
class Finding:
    """What a check found.

    Attributes:
        name: of what was looked at.
        ok: whether it is as it should be.
        detail: what is there, or what is wrong.
        remedy: what to do where it is wrong.
        facts: the same as `detail` for programs, as JSON, where that is more than words.
    """

    name: str = attrs.field(validator=_TEXT)
    ok: bool = attrs.field(validator=attrs.validators.instance_of(bool))
    detail: str = attrs.field(validator=_TEXT)
    remedy: str = attrs.field(default="", validator=_TEXT)
    facts: dict[str, Any] = attrs.field(factory=dict, validator=[attrs.validators.instance_of(dict), _json])
