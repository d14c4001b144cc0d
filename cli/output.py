"""What the commands print: tables for people, JSON for programs. Knows nothing of what is in them."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from bitrl.core.errors import RunFailed
from bitrl.core.terminal import keep_streams, mend_streams, printable

if TYPE_CHECKING:
    from rich.console import Console

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout.")


def echo(text: str = "", err: bool = False) -> None:
    """Print `text`; control characters in it, which may come from a file of others, are escaped.

    Raises:
        RunFailed: stdout cannot be written. BrokenPipeError: its reader went away.
    """
    with _writing_stdout():
        click.echo(printable(text), err=err)


@contextmanager
def _writing_stdout() -> Iterator[None]:
    """Within, a failure to write is told as one of stdout, which is open unless it never was."""
    mend_streams()
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFailed(f"standard output cannot be written: {error.strerror}: send it elsewhere (> FILE)") from None


def claim_stdout() -> IO[str]:
    """Return a handle to the real stdout; what else this process writes there goes to stderr from now on.

    Plugins and environments print what they like (from C, too), which must not end up beside a JSON object. It is
    not undone: some print when the process exits.
    """
    with _writing_stdout():
        sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    keep_streams()
    return real


def print_json(data: Any, file: IO[str] | None = None, indent: int | None = 2) -> None:
    """Print `data` as JSON on `file` (stdout if None); `indent` None: as one line. NaN and infinity, for which JSON has
    no word, are null.

    Raises:
        RunFailed, BrokenPipeError: as `echo`.
    """
    try:
        text = json.dumps(data, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(data), indent=indent)
    with _writing_stdout():
        print(text, file=file, flush=True)


def _without_nan(data: Any) -> Any:
    """`data` with None for every float that is not finite."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {name: _without_nan(value) for name, value in data.items()}
    return [_without_nan(value) for value in data] if isinstance(data, (list, tuple)) else data


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows as aligned columns, control characters escaped. On a terminal the last column is wrapped to its width,
    between words alone: names and options stay whole.
    """
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    lines = []
    for row in rows:
        start = indent + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        last = textwrap.wrap(row[-1], max(room - len(start), 24), break_on_hyphens=False, break_long_words=False) or [
            ""
        ]
        lines += [(start + last[0]).rstrip(), *(" " * len(start) + line for line in last[1:])]
    return "\n".join(lines)


def console(stderr: bool = False) -> Console:
    """Rich's console, which prints words as they are: `[x]` and `:x:` in a name or an error are no markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


class Group(click.Group):
    """A group whose help has each command's one-line help unabridged."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, in the order in which they were added."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1000)) for name, command in commands if command is not None]
            )
