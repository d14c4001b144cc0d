"""What the commands that measure share: a table, and a record of the results with all that made them.

Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bitrl.cli.output import console, echo, table
from bitrl.cli.quoted_command import quoted_command
from bitrl.core.errors import UsageError
from bitrl.core.installing import is_there
from bitrl.core.terminal import printable

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the results to this file as JSON."
)


def check_out(out: Path | None, option: str = "--out") -> None:
    """Refuse a file that cannot be written before minutes go into measuring."""
    if out is not None and not out.name:
        raise UsageError(f"{option}: expected the name of a file, got none")
    if out is not None and not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {out}: {out.parent} is not a writable directory: name another")


def save(record: dict[str, Any], out: Path | None) -> None:
    """Write `record` to `out`, if there is one."""
    from bitrl.core.files import write_atomically

    if out is not None:
        write_atomically(out, json.dumps(record, indent=2) + "\n")


def made_by() -> dict[str, Any]:
    """What makes the running command's results: the command itself, date, commit, versions, processor."""
    from bitrl.core.runs.provenance import git_commit, processor, versions

    return {
        "command": quoted_command(leave_out=("out",)),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit().get("git_commit", ""),
        "versions": {key: value for key, value in versions().items() if key != "platform"},
        "processor": processor(),
    }


def print_table(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """On a terminal a table with rules, elsewhere, and without rich, plain columns; the first row is its heads."""
    if not sys.stdout.isatty() or not is_there("rich"):
        echo(f"{title}\n{table(rows)}\n")
        return
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for column, head in enumerate(rows[0]):
        numbers = all(row[column][:1].isdigit() or not row[column] for row in rows[1:])
        shown.add_column(head, justify="right" if numbers else "left")
    for row in rows[1:]:
        shown.add_row(*map(printable, row))
    console().print(shown)
