"""What the commands print: tables for people, JSON for programs. Knows nothing of what is in them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout.")


def claim_stdout() -> IO[str]:
    """Return a handle to the real stdout; what else this process writes there goes to stderr from now on.

    Plugins and environments print what they like (from C, too), which must not end up beside a JSON object. It is
    not undone: some print when the process exits.
    """
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return real


def print_json(data: Any, file: IO[str] | None = None) -> None:
    """Print `data` as JSON on `file` (stdout if None)."""
    print(json.dumps(data, indent=2), file=file, flush=True)


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows as aligned columns. On a terminal the last column is wrapped to its width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    lines = []
    for row in rows:
        start = indent + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        last = textwrap.wrap(row[-1], max(room - len(start), 24)) or [""]
        lines += [(start + last[0]).rstrip(), *(" " * len(start) + line for line in last[1:])]
    return "\n".join(lines)
