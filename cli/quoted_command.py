"""The command line of the running command, as results and model cards quote it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click
from click.core import ParameterSource


def quoted_command(leave_out: tuple[str, ...] = ()) -> str:
    """The running command as it was given, to repeat it: without options left at their defaults, --resume and the
    parameters in `leave_out`, and files without their folders: where they lie is nobody's business.
    """
    context = click.get_current_context()
    words = context.command_path.split()
    for parameter in context.command.params:
        name = parameter.name or ""
        default = context.get_parameter_source(name) is ParameterSource.DEFAULT
        if default or name in ("resume", *leave_out):
            continue
        value = context.params[name]
        for item in value if isinstance(value, tuple) else (value,):
            flag = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            words += flag if item is True else [*flag, _without_folder(item)]
    return shlex.join(words)


def _without_folder(value: object) -> str:
    """A path, or an absolute path behind an equals sign, by its name alone; any other value as it is."""
    if isinstance(value, Path):
        return Path(os.path.abspath(value)).name
    before, equals, text = str(value).rpartition("=")
    return before + equals + Path(text).name if Path(text).is_absolute() else str(value)
