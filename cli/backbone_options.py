"""`-o backbone.OPTION=VALUE` of the commands that let an exported agent act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from bitrl.core.errors import UsageError

backbone_option = click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="backbone.OPTION=VALUE",
    help="Set an option of an exported agent's backbone, as in -o backbone.threads=1, or backbone.model=FILE.",
)


def backbone_options(assignments: tuple[str, ...]) -> Mapping[str, Any]:
    """The options of an exported agent's backbone, from `-o` flags.

    Raises:
        UsageError: one is no assignment, or of another part.
    """
    from bitrl.core.config import parse_assignments

    given = parse_assignments(assignments)
    if other := sorted(given.keys() - {"backbone"}):
        raise UsageError(f"-o {other[0]}.…: only options of the backbone can be set for an exported agent")
    return given.get("backbone", {})
