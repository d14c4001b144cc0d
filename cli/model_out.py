"""The model file that a command writes: its option, and where it may stand."""

from __future__ import annotations

from pathlib import Path

import click

model_out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model file to write (GGUF)."
)


def check_directory(out: Path) -> None:
    """Raises UsageError when `out` would stand in a directory that does not exist, or replace a device."""
    from bitrl.core.errors import UsageError
    from bitrl.core.files import may_be_replaced

    if not out.is_dir() and not may_be_replaced(out):
        raise UsageError(f"--out {out}: not a regular file: choose another name")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}: make it first")


def check_paths(source: Path, out: Path, force: bool) -> None:
    """Raises UsageError unless `out` may be written, made of `source`; a missing source is for its reader to tell."""
    from bitrl.core.errors import UsageError

    check_directory(out)
    if source.exists() and out.exists() and (not force or out.samefile(source)):
        way = "choose another name" + ("" if out.samefile(source) else ", or replace it with --force")
        raise UsageError(f"--out {out}: already exists: {way}")
