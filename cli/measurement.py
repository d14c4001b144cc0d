"""What the commands that measure share: a table, and a record of the results with all that made them.

Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bitrl.cli.output import table
from bitrl.core.errors import UsageError

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the results to this file as JSON."
)


def check_out(out: Path | None) -> None:
    """Refuse a place that cannot be written to before minutes go into measuring."""
    if out is not None and not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {out.parent} is not a directory that can be written to: name another place")


def save(record: dict[str, Any], out: Path | None) -> None:
    """Write `record` to `out`, if there is one."""
    from bitrl.core.files import write_atomically

    if out is not None:
        write_atomically(out, json.dumps(record, indent=2) + "\n")


def made_by(ctx: click.Context) -> dict[str, Any]:
    """What makes a command's results: the command itself, date, commit, versions, processor."""
    from bitrl.core.runs.provenance import git_commit, processor, versions

    arguments = []
    for parameter in ctx.command.params:
        value = ctx.params[parameter.name or ""]
        default = ctx.get_parameter_source(parameter.name or "") is click.core.ParameterSource.DEFAULT
        if default or parameter.name == "out":
            continue
        for item in value if isinstance(value, tuple) else (value,):
            name = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            arguments += name if item is True else [*name, _without_folders(str(item))]
    return {
        "command": shlex.join([*ctx.command_path.split(), *arguments]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit().get("git_commit", ""),
        "versions": {key: value for key, value in versions().items() if key != "platform"},
        "processor": processor(),
    }


def _without_folders(argument: str) -> str:
    """An absolute path, also behind an equals sign, shown by its name alone: where it lies is nobody's business."""
    before, equals, value = argument.rpartition("=")
    return before + equals + Path(value).name if Path(value).is_absolute() else argument


def tell(what: str) -> None:
    """What is being measured now, on a terminal: the whole takes minutes."""
    if sys.stderr.isatty():
        click.echo(f"{what} …", err=True)


def print_table(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """On a terminal a table with rules, elsewhere plain columns; the first row is its heads."""
    if not sys.stdout.isatty():
        click.echo(f"{title}\n{table(rows)}\n")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for column, head in enumerate(rows[0]):
        numbers = all(row[column][:1].isdigit() or not row[column] for row in rows[1:])
        shown.add_column(head, justify="right" if numbers else "left")
    for row in rows[1:]:
        shown.add_row(*row)
    Console().print(shown)
