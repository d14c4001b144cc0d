"""Chat templates: Jinja programs of a model's makers, which write the text around a prompt.

They run in a sandbox, with what transformers gives them (transformers/utils/chat_template_utils.py): the loop controls,
`raise_exception`, `strftime_now`, blocks that mark what the model says, and JSON that is not made safe for HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` is what stands between: the marks are for training."""

    tags = {"generation"}  # noqa: RUF012  # what Jinja's own class says it is

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The block's own statements."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def rendered(template: str, prompt: str, tokens: Mapping[str, str]) -> str:
    """What a template writes for one message of a user, up to where the model answers. `tokens` are those that it knows
    by name (`bos_token`). Raises whatever the template raises.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(template).render(
        messages=[{"role": "user", "content": prompt}], add_generation_prompt=True, tools=None, documents=None, **tokens
    )


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
